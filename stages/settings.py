"""The checks of a training's settings that need no data, and those that need one step without weights on disk."""

import os
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

ACCELERATORS = ("auto", "cpu", "gpu")


def processes() -> int:
    """How many processes train together, as torchrun tells them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this one is."""
    return int(os.environ.get("RANK", "0"))


def check_settings(config: Mapping[str, Any]) -> None:
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
    if settings["accelerator"] == "gpu" and not torch.cuda.is_available():
        raise CascadeError("trainer.accelerator=gpu, but torch finds no GPU here; say trainer.accelerator=cpu")
    _check_processes(settings)


def _check_processes(settings: Mapping[str, Any]) -> None:
    if "WORLD_SIZE" not in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        raise CascadeError("several SLURM tasks would train the same run; start one task a node, with torchrun in it")
    if settings["devices"] != processes():
        raise CascadeError(
            f"trainer.devices={settings['devices']} but {processes()} process(es) run; several come from "
            f"`torchrun --no-python --nproc-per-node {max(2, settings['devices'])} cascade train ...` "
            "with trainer.devices set to their number"
        )
    pieces = processes() * settings["accumulate"]
    if settings["batch"] % pieces:
        raise CascadeError(
            f"trainer.batch={settings['batch']} is global and cannot be split over {processes()} process(es) "
            f"times {settings['accumulate']} micro-batch(es); choose a multiple of {pieces}"
        )


def with_precision(config: Mapping[str, Any], stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return `config` with "auto" decided: once, so a run that goes on elsewhere keeps its arithmetic."""
    settings = dict(config["trainer"])
    if settings["precision"] == "auto" and stored is not None:
        settings["precision"] = stored["trainer"]["precision"]
    settings["precision"] = choose_precision(settings["precision"], uses_gpu(settings))
    return {**config, "trainer": settings}


def uses_gpu(settings: Mapping[str, Any]) -> bool:
    """Whether the run is on a GPU: where there is one, unless the CPU is asked for."""
    return settings["accelerator"] != "cpu" and torch.cuda.is_available()


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
