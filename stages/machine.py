"""What a training's settings mean on this machine: its devices and its arithmetic. Needs torch, but not Lightning."""

from collections.abc import Mapping
from typing import Any

import torch

from cascade.accelerators import refuse_missing
from cascade.errors import CascadeError
from cascade.machine import training_device, training_precision
from cascade.processes import Processes


def check_machine(settings: Mapping[str, Any], processes: Processes) -> None:
    """Refuse an accelerator that is not here, and processes that cannot share it."""
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    refuse_missing(settings["accelerator"], lambda device: device in there and not there[device]())
    device = training_device(settings["accelerator"])
    if processes.count > 1 and device == "mps":
        raise CascadeError("several processes cannot share Apple's GPU; say trainer.devices=1")
    if device == "cuda" and processes.per_node > torch.cuda.device_count():
        raise CascadeError(
            f"{processes.per_node} processes on this node, but each sees {torch.cuda.device_count()} GPU(s) and all "
            "must see all (in SLURM: --gpus-per-node, without --gpus-per-task); or say trainer.accelerator=cpu"
        )


def with_precision(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `config` with a precision of "auto" decided for this machine."""
    settings = config["trainer"]
    precision = training_precision(settings["precision"], training_device(settings["accelerator"]))
    return {**config, "trainer": {**settings, "precision": precision}}
