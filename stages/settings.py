"""The checks of a training's settings that need no data, and those that need one step without weights on disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cascade.artifact import Stage, StageConfig
from cascade.errors import CascadeError, suggest
from cascade.requests import check_seed
from cascade.stage_sampler import StageSampler
from stages.diffusion_stage import DiffusionStage
from stages.draws import Draws
from stages.precision import choose_precision
from stages.processes import Processes

ACCELERATORS = ("auto", "cpu", "gpu", "mps")


def check_settings(config: Mapping[str, Any], processes: Processes) -> None:
    """Refuse numbers out of range and names that are no folder names, each in one line."""
    settings, stage = config["trainer"], config["stage"]
    for key in ("max_steps", "batch", "accumulate", "log_every", "checkpoint_every", "validate_every"):
        if settings[key] < 1:
            raise CascadeError(f"trainer.{key} must be at least 1, not {settings[key]}")
    for key in ("validation_images", "workers", "warmup_steps", "cooldown_steps", "sample_every", "sample_images"):
        if settings[key] < 0:
            raise CascadeError(f"trainer.{key} cannot be negative, as {settings[key]} is")
    for key in ("checkpoint_minutes", "max_minutes"):
        if settings[key] is not None and not settings[key] > 0:
            raise CascadeError(f"trainer.{key} must be above 0, not {settings[key]}")
    check_seed(config["seed"])
    for key, value in (("resolution", stage["resolution"]), ("low_resolution", stage["low_resolution"])):
        if value is not None and value < 1:
            raise CascadeError(f"stage.{key} must be at least 1, not {value}")
    for key, name in (("name", config["name"]), ("stage.name", stage["name"])):
        if not name or Path(name).name != name or name.startswith("."):
            raise CascadeError(f"{key}='{name}' must be a plain folder name")
    if settings["accelerator"] not in ACCELERATORS:
        hint = suggest(settings["accelerator"], ACCELERATORS)
        raise CascadeError(f"unknown trainer.accelerator '{settings['accelerator']}'; {hint}")
    there = {"gpu": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if settings["accelerator"] in there and not there[settings["accelerator"]]():
        what = "GPU" if settings["accelerator"] == "gpu" else "GPU of Apple's"
        raise CascadeError(
            f"trainer.accelerator={settings['accelerator']}, but torch finds no {what} here; "
            "say trainer.accelerator=cpu"
        )
    _check_processes(settings, processes)


def _check_processes(settings: Mapping[str, Any], processes: Processes) -> None:
    count, device = processes.count, device_type(settings)
    if settings["devices"] != count:
        raise CascadeError(
            f"trainer.devices={settings['devices']} but {count} process(es) run; several come from "
            f"`torchrun --no-python --nproc-per-node {max(2, settings['devices'])} cascade train ...` "
            "or, as SLURM's tasks, from `srun cascade train ...`, with trainer.devices set to their number"
        )
    pieces = count * settings["accumulate"]
    if settings["batch"] % pieces:
        raise CascadeError(
            f"trainer.batch={settings['batch']} is global and cannot be split over {count} process(es) "
            f"times {settings['accumulate']} micro-batch(es); choose a multiple of {pieces}"
        )
    if count > 1 and device == "mps":
        raise CascadeError("several processes cannot share Apple's GPU; say trainer.devices=1")
    if device == "cuda" and processes.per_node > torch.cuda.device_count():
        raise CascadeError(
            f"{processes.per_node} processes on this node, but each sees {torch.cuda.device_count()} GPU(s) and all "
            "must see all (in SLURM: --gpus-per-node, without --gpus-per-task); or say trainer.accelerator=cpu"
        )


def with_precision(config: Mapping[str, Any], stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return `config` with "auto" decided: once, so a run that goes on elsewhere keeps its arithmetic."""
    settings = dict(config["trainer"])
    if settings["precision"] == "auto" and stored is not None:
        settings["precision"] = stored["trainer"]["precision"]
    settings["precision"] = choose_precision(settings["precision"], device_type(settings))
    return {**config, "trainer": settings}


def device_type(settings: Mapping[str, Any]) -> str:
    """Return "cuda" where there is such a GPU, unless the CPU is asked for; "mps" only where that is; else "cpu"."""
    if settings["accelerator"] == "mps":
        return "mps"
    return "cuda" if settings["accelerator"] != "cpu" and torch.cuda.is_available() else "cpu"


@torch.no_grad()
def rehearse(config: Mapping[str, Any], described: StageConfig, stage: DiffusionStage, view: Any) -> None:
    """Meet before the run what would else fail in or after it: sizes, labels, and the settings of its sampling."""
    current = Stage(described, stage.average, Path(), sha256="")
    StageSampler.prepare(current, described.sampling, torch.device("cpu"), "fp32")
    side = view.crop
    batch = {"image": torch.zeros(1, 3, side, side), "label": torch.zeros(1, dtype=torch.long)}
    if view.factor is not None:
        batch["low_res"] = torch.zeros(1, 3, side // view.factor, side // view.factor)
    x, condition = stage.validation_examples(batch, Draws(config["seed"], -1, (0,), 1))
    stage.average(x, torch.zeros(1), condition)
