"""One training run, from a plain configuration to an exported stage. The same call continues what it finds."""

import dataclasses
import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader

from cascade import rng
from cascade.artifact import StageConfig, save_stage
from cascade.data.dataset import PictureDataset
from cascade.data.order import RunOrder
from cascade.data.source import open_dataset
from cascade.errors import CascadeError
from stages.assembly import build_stage, stage_config, training_view, validation_view
from stages.checkpoint import ResumeCheckpoint, WholeCheckpointIO
from stages.diffusion_stage import DiffusionStage
from stages.loggers import build_loggers, close_loggers
from stages.pictures import SamplePictures
from stages.precision import PRECISIONS, choose_precision
from stages.progress import TrainingProgress
from stages.run_folder import RunFolder
from stages.validation import Validation


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended: the run folder, the optimizer step it is at, and whether that is its last.

    `stopped_by` is the signal that ended it early, or None; `resumed_from` the step at which this call took over.
    """

    folder: Path
    step: int
    finished: bool
    resumed_from: int
    stopped_by: int | None = None


def train(config: Mapping[str, Any], tell: Callable[[str], None]) -> Outcome:
    """Train the stage that `config` describes; nothing is written before all checks are done.

    `tell` receives lines for a person. Raises CascadeError for whatever is wrong with the configuration, the data or
    the folder that the run would continue.
    """
    settings = config["trainer"]
    _check_numbers(config)
    run = RunFolder(Path(config["runs"]).expanduser() / config["name"] / config["stage"]["name"])
    first = _rank() == 0
    config = _with_precision(config, None if config["fresh"] else run.stored())
    settings = config["trainer"]
    if not config["fresh"]:
        run.check_same(config)
    dataset, validation = (
        open_dataset(config["data"], config["stage"]["resolution"], split) for split in ("train", "val")
    )
    described = stage_config(config, dataset)
    training_view(config, dataset)  # refuses crops that do not fit, before anything is written
    stage = build_stage(config, described)
    if settings["precision"] == "bf16":
        # The faster layout for bf16 convolutions (about a sixth on a CPU); in fp32 group norm would lose by it.
        stage.to(memory_format=torch.channels_last)
    if config["fresh"] and first and (moved := run.move_aside()):
        tell(f"moved the old run to {moved}")

    def export(step: int) -> None:
        if first:
            final = dataclasses.replace(described, images_seen=step * settings["batch"])
            save_stage(run.path / "stage", final, stage.average.state_dict())

    start = run.resumed_step(stage)
    if start >= settings["max_steps"]:
        if not (run.path / "stage").exists():  # killed between the last checkpoint and the export
            run.load_weights(stage)
            export(start)
        return Outcome(run.path, start, finished=True, resumed_from=start)

    loader = _loader(config, dataset, start)
    if first:
        run.write_config(config)
        for line in _opening(config, described, start, len(dataset), len(validation)):
            tell(line)
    loggers = build_loggers(config, run.path, start)
    checkpoint = ResumeCheckpoint(run.path, settings["checkpoint_every"], settings["checkpoint_minutes"])
    validate = Validation(
        validation_view(config, validation),
        count=settings["validation_images"],
        batch=_per_process(settings),
        every_steps=settings["validate_every"],
        on_best=export,
    )
    callbacks: list[Callback] = [TrainingProgress(described.name, settings["log_every"])]
    if settings["max_minutes"] is not None:
        callbacks.append(StopAfter(settings["max_minutes"]))
    if settings["validation_images"] > 0:
        callbacks.append(validate)
    if settings["sample_every"] > 0 and settings["sample_images"] > 0:
        callbacks.append(
            SamplePictures(
                described,
                validation,
                run.path,
                count=settings["sample_images"],
                every_steps=settings["sample_every"],
                precision=settings["precision"],
            )
        )
    callbacks.append(checkpoint)  # last, so that it stores what the others have done at this step
    trainer = _trainer(config, run.path, callbacks, loggers)
    try:
        trainer.fit(stage, loader, ckpt_path=run.checkpoint, weights_only=True)
    finally:
        close_loggers(loggers)
    finished = checkpoint.stopped_by is None
    if finished and validate.last_step != trainer.global_step:  # nothing was validated, so the last weights it is
        export(trainer.global_step)
    return Outcome(run.path, trainer.global_step, finished, start, checkpoint.stopped_by)


class StopAfter(Callback):
    """Ends the run after so many minutes of training in this call, as if it had been its last step."""

    def __init__(self, minutes: float) -> None:
        self.seconds = minutes * 60

    def on_train_start(self, trainer: Trainer, pl_module: DiffusionStage) -> None:  # noqa: ARG002
        """Start the clock."""
        self.end = time.monotonic() + self.seconds

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: DiffusionStage,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        """Stop after the step in which the time ran out; all processes do together."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            late = time.monotonic() > self.end
            trainer.should_stop |= trainer.strategy.reduce_boolean_decision(late, all=False)


def _loader(config: Mapping[str, Any], dataset: PictureDataset, start: int) -> DataLoader[dict[str, Tensor]]:
    settings, stage = config["trainer"], config["stage"]
    order = RunOrder(
        config["seed"],
        size=len(dataset),
        batch=_per_process(settings),
        labels=[dataset.label(i) for i in range(len(dataset))] if stage["balanced"] else None,
        processes=_processes(),
        rank=_rank(),
        accumulate=settings["accumulate"],
        start=start,
    )
    # The loader draws a seed for its workers; it comes from a generator of its own, not from the global one.
    return DataLoader(
        training_view(config, dataset),
        batch_sampler=order,  # type: ignore[arg-type]  # torch wants lists of int; the view takes keys
        num_workers=settings["workers"],
        generator=rng.generator("loader workers", config["seed"]),
    )


def _per_process(settings: Mapping[str, Any]) -> int:
    return settings["batch"] // (_processes() * settings["accumulate"])


def _trainer(config: Mapping[str, Any], folder: Path, callbacks: list[Callback], loggers: list[Any]) -> Trainer:
    settings = config["trainer"]
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    # Python 3.12 and later warn of forking a process with threads; the loaders' workers use none of torch's.
    warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
    # Buffers are either constant or the same by construction on all processes.
    strategy = DDPStrategy(broadcast_buffers=False) if _processes() > 1 else "auto"
    return Trainer(
        accelerator=settings["accelerator"],
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        strategy=strategy,
        precision=PRECISIONS[settings["precision"]],
        max_steps=settings["max_steps"],
        max_epochs=-1,
        accumulate_grad_batches=settings["accumulate"],
        callbacks=callbacks,
        logger=loggers,
        plugins=[WholeCheckpointIO()],
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )


def _with_precision(config: Mapping[str, Any], stored: Mapping[str, Any] | None) -> dict[str, Any]:
    # "auto" is decided once: a run that goes on on another machine stays in the arithmetic it began in.
    settings = dict(config["trainer"])
    if settings["precision"] == "auto" and stored is not None:
        settings["precision"] = stored["trainer"]["precision"]
    on_gpu = settings["accelerator"] != "cpu" and torch.cuda.is_available()
    settings["precision"] = choose_precision(settings["precision"], on_gpu)
    return {**config, "trainer": settings}


def _check_numbers(config: Mapping[str, Any]) -> None:
    settings = config["trainer"]
    for key in ("max_steps", "batch", "accumulate", "log_every", "checkpoint_every", "validate_every"):
        if settings[key] < 1:
            raise CascadeError(f"trainer.{key} must be at least 1, not {settings[key]}")
    for key in ("validation_images", "workers", "warmup_steps", "cooldown_steps", "sample_every", "sample_images"):
        if settings[key] < 0:
            raise CascadeError(f"trainer.{key} cannot be negative, as {settings[key]} is")
    if config["seed"] < 0:
        raise CascadeError(f"seed cannot be negative, as {config['seed']} is")
    if settings["devices"] != _processes():
        raise CascadeError(
            f"trainer.devices={settings['devices']} but {_processes()} process(es) run; several come from "
            f"`torchrun --no-python --nproc-per-node {max(2, settings['devices'])} cascade train ...` "
            "with trainer.devices set to their number"
        )
    pieces = _processes() * settings["accumulate"]
    if settings["batch"] % pieces:
        raise CascadeError(
            f"trainer.batch={settings['batch']} is global and cannot be split over {_processes()} process(es) "
            f"times {settings['accumulate']} micro-batch(es); choose a multiple of {pieces}"
        )
    name = str(config["name"])
    if not name or Path(name).name != name or name.startswith("."):
        raise CascadeError(f"name='{name}' must be a plain folder name")


def _opening(config: Mapping[str, Any], described: StageConfig, start: int, train: int, val: int) -> list[str]:
    classes = f"{len(described.class_names)} classes" if described.class_names else "unlabelled"
    kind = "base" if described.low_resolution is None else f"{described.low_resolution}→{described.resolution}"
    lines = [
        f"{described.name} ({kind}, {described.resolution} px, {classes}): {train} pictures, {val} for validation, "
        f"batch {config['trainer']['batch']}, {config['trainer']['precision']}"
    ]
    return [*lines, f"resuming at step {start}"] if start else lines


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))
