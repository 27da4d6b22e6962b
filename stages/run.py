"""One training run, from a plain configuration to an exported stage. The same call continues what it finds."""

import dataclasses
import logging
import math
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
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
from cascade.data.folder import BadFile, write_bad_files
from cascade.data.order import RunOrder
from cascade.data.source import open_dataset, written_out
from cascade.diffusion.power_ema import PowerPairEMA
from cascade.errors import CascadeError
from cascade.full_float32 import one_gradient
from cascade.lock import beside
from cascade.machine import training_device
from cascade.processes import Processes
from cascade.progress import Bars, progress_bars
from stages.after_step import AfterStep
from stages.checkpoint import ResumeCheckpoint, WholeCheckpointIO
from stages.checks import check_settings, wanted_splits
from stages.cpu_budget import CpuBudget
from stages.diffusion_stage import DiffusionStage
from stages.distill_settings import completed
from stages.kinds import Described, kind_of
from stages.launched import Launched
from stages.loggers import build_loggers, close_loggers
from stages.machine import check_machine, with_precision
from stages.meeting import Meeting
from stages.pictures import SamplePictures
from stages.progress import TrainingProgress
from stages.run_folder import SCRATCH, RunFolder, as_decided
from stages.snapshots import KeepSnapshots
from stages.validation import Validation
from stages.workers import heed_the_parent_alone, is_of_killed_worker

_LIGHTNING = {"fp32": "32-true", "bf16": "bf16-mixed"}
"""`trainer.precision` in Lightning's words."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended: the run folder and the optimizer step it is at.

    `stopped_by` is the signal that ended it early, or None where the run is finished; `resumed_from` the step at which
    this call took over.
    """

    folder: Path
    step: int
    resumed_from: int
    stopped_by: int | None = None


def train(config: Mapping[str, Any], tell: Callable[[str], None], defaults: Mapping[str, Any] | None = None) -> Outcome:
    """Train the stage that `config` describes; nothing is left written unless all checks are passed.

    `tell` receives lines for a person. `defaults` is what a configuration says where nobody overrides it, and so what
    stands for the keys that an older run's lacks. Raises CascadeError for whatever is wrong with the configuration, the
    data or the folder that the run would continue, and where another call of `train` is writing to that folder.
    """
    processes, config = Processes.here(), completed(config)
    check_settings(config, processes.count)
    run = RunFolder.of(config)
    with Meeting(processes, "run") as meeting, ExitStack() as held:
        check_machine(config["trainer"], processes)
        if processes.is_first:  # the others write through it
            held.enter_context(beside(run.path))  # beside the folder, which a fresh run moves away
        settled = _settled(config, run, defaults)
        meeting.agree()
        bars = held.enter_context(progress_bars(quiet=not processes.is_first))
        return _train(settled, run, meeting, bars, tell)


def _settled(config: Mapping[str, Any], run: RunFolder, defaults: Mapping[str, Any] | None) -> dict[str, Any]:
    """The configuration with all that it leaves open decided, and whether the run begins anew."""
    difference = None if config["fresh"] else run.difference(config, defaults)
    if difference is not None and config["name"] != SCRATCH:
        raise CascadeError(difference)
    fresh = config["fresh"] or difference is not None
    decided = with_precision(config if fresh else as_decided(config, run.stored()))
    return {**decided, "data": written_out(decided["data"]), "fresh": fresh}


def _train(
    config: Mapping[str, Any], run: RunFolder, meeting: Meeting, bars: Bars, tell: Callable[[str], None]
) -> Outcome:
    processes, fresh, settings = meeting.processes, config["fresh"], config["trainer"]
    first = processes.is_first
    dataset, validation = _open_data(config, bars)
    kind = kind_of(config)
    described = kind.stage_config(config, dataset)
    stage, seen = _built(config, described)
    kind.rehearse(config, described, stage, kind.training_view(config, dataset))

    def images(step: int) -> int:
        return seen + step * settings["batch"]

    def export(step: int, folder: str = "stage") -> None:
        if first:
            bars.at("writing the stage", 0, 1)
            final = dataclasses.replace(kind.described_at(config, described, step), images_seen=images(step))
            save_stage(run.path / folder, final, stage.average.state_dict())
            bars.end("writing the stage")

    # With fresh=true no process looks at what the first one is moving aside.
    start = 0 if fresh else run.resumed_step(stage, dataset)
    meeting.agree()
    if start >= settings["max_steps"] or (not fresh and run.ended_by_time(settings)):
        if run.lacks_export(images(start), ranked=kind.ranked):
            run.load_weights(stage)
            export(start)
        meeting.agree(last=True)
        return Outcome(run.path, start, resumed_from=start)
    if first:
        lines = [_opening(config, described, len(dataset), validation), *[f"resuming at step {start}"] * (start > 0)]
        _begin(config, run, (dataset, validation), lines, tell)

    loggers = build_loggers(config, run, start)
    clock = StopAfter(math.inf if settings["max_minutes"] is None else settings["max_minutes"])
    budget = CpuBudget(settings["max_cpu_minutes"])
    progress = TrainingProgress(described.name, settings["log_every"], bars, budget)
    checkpoint = ResumeCheckpoint(run.path, settings["checkpoint_every"], settings["checkpoint_minutes"])
    size = _per_process(settings, processes)
    watching = _watching(config, described, validation, folder=run.path, batch=size, bars=bars)
    watching += _keeping(stage.recipe.ema, run.path, described, images)
    exporting = kind.exporting(config, watching, export)
    # The checkpoint stores what those before it have done at this step, and is there before the stage is replaced.
    callbacks = [progress, clock, budget, *watching, checkpoint, *exporting]
    trainer = _trainer(config, run.path, processes, callbacks, loggers)
    meeting.agree(last=True)
    try:
        _fit(trainer, stage, _loader(config, dataset, processes, start), run.checkpoint if start else None)
    except WorkerKilledError:
        if checkpoint.asked is None:
            raise
        # Whoever stops all processes of a run may kill a worker before the step is over: the last checkpoint stays.
        return Outcome(run.path, checkpoint.saved_step or start, start, checkpoint.asked)
    finally:
        close_loggers(loggers)
    if checkpoint.stopped_by is None:
        if settings["validation_images"] == 0 or not kind.ranked:  # nothing chose the best weights, so the last it is
            export(trainer.global_step)
        if first and trainer.global_step < settings["max_steps"]:
            run.write_config(config, dataset, ended=settings)
    return Outcome(run.path, trainer.global_step, start, checkpoint.stopped_by)


def _built(config: Mapping[str, Any], described: Described) -> tuple[DiffusionStage, int]:
    """The Lightning module, and how many images its weights have seen before the run."""
    kind, init = kind_of(config), config["init"]
    stage = kind.build_stage(config, described)
    seen = described.images_seen if init is None else kind.begin_with(stage, init, described.class_names)
    if config["trainer"]["precision"] == "bf16":
        # The faster layout for bf16 convolutions (about a sixth on a CPU); in fp32 group norm would lose by it.
        stage.to(memory_format=torch.channels_last)
    return stage, seen


class WorkerKilledError(CascadeError):
    """A process of the loader was killed, and the run with it."""


class StopAfter(AfterStep):
    """Ends the run after so many minutes of training in this call, as if it had been its last step."""

    def __init__(self, minutes: float) -> None:
        self.seconds = minutes * 60

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self.end = time.monotonic() + self.seconds

    def after_step(self, trainer: Trainer, stage: DiffusionStage, step: int) -> None:  # noqa: ARG002
        """Stop after the step in which the time ran out; all processes do together."""
        late = time.monotonic() > self.end
        trainer.should_stop |= trainer.strategy.reduce_boolean_decision(late, all=False)


def _loader(
    config: Mapping[str, Any], dataset: PictureDataset, processes: Processes, start: int
) -> DataLoader[dict[str, Tensor]]:
    settings, stage = config["trainer"], config["stage"]
    order = RunOrder(
        config["seed"],
        size=len(dataset),
        batch=_per_process(settings, processes),
        labels=[dataset.label(i) for i in range(len(dataset))] if stage["balanced"] else None,
        processes=processes.count,
        rank=processes.rank,
        accumulate=settings["accumulate"],
        start=start,
    )
    # The loader draws a seed for its workers; it comes from a generator of its own, not from the global one.
    return DataLoader(
        kind_of(config).training_view(config, dataset),
        batch_sampler=order,  # type: ignore[arg-type]  # torch wants lists of int; the view takes keys
        num_workers=settings["workers"],
        generator=rng.generator("loader workers", config["seed"]),
        worker_init_fn=heed_the_parent_alone,
    )


def _per_process(settings: Mapping[str, Any], processes: Processes) -> int:
    return settings["batch"] // (processes.count * settings["accumulate"])


def _trainer(
    config: Mapping[str, Any], folder: Path, processes: Processes, callbacks: list[Callback], loggers: list[Any]
) -> Trainer:
    settings = config["trainer"]
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    # Python 3.12 and later warn of forking a process with threads; the loaders' workers use none of torch's.
    warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
    # As many workers as are asked for, though torch would have no more than there are cores.
    warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
    # Buffers are either constant or the same by construction on all processes.
    strategy = DDPStrategy(broadcast_buffers=False) if processes.count > 1 else "auto"
    return Trainer(
        accelerator=training_device(settings["accelerator"]),
        devices=processes.per_node,
        num_nodes=processes.nodes,
        strategy=strategy,
        precision=_LIGHTNING[settings["precision"]],
        max_steps=settings["max_steps"],
        max_epochs=-1,
        accumulate_grad_batches=settings["accumulate"],
        callbacks=callbacks,
        logger=loggers,
        plugins=[WholeCheckpointIO(), Launched(processes)],
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )


def _fit(trainer: Trainer, stage: DiffusionStage, loader: DataLoader[Any], checkpoint: Path | None) -> None:
    try:
        with one_gradient():
            trainer.fit(stage, loader, ckpt_path=checkpoint, weights_only=True)
    except CascadeError as error:
        # From a loader's worker it comes with the worker's traceback around it.
        line = str(error).strip().splitlines()[-1].removeprefix("cascade.errors.CascadeError: ")
        raise CascadeError(line) from error
    except RuntimeError as error:
        if not is_of_killed_worker(error):
            raise
        raise WorkerKilledError("a process that reads pictures was killed; the same command continues") from error


def _bad_files(*datasets: PictureDataset | None) -> list[BadFile]:
    """What was left out of any split, each file once."""
    return list(dict.fromkeys(bad for dataset in datasets for bad in getattr(dataset, "bad_files", ())))


def _begin(
    config: Mapping[str, Any],
    run: RunFolder,
    datasets: tuple[PictureDataset, PictureDataset | None],
    lines: list[str],
    tell: Callable[[str], None],
) -> None:
    """Say where the run is, before anything else; make way for it there, and write what it is."""
    tell(f"the run is in {run.path}; Ctrl-C stops it after a step, and the same command continues it")
    if config["fresh"] and (moved := run.move_aside()):
        tell(f"moved the old run to {moved}")
    run.write_config(config, datasets[0])
    if bad_files := _bad_files(*datasets):
        write_bad_files(run.path / "bad_files.csv", bad_files)
        tell(f"{len(bad_files)} files could not be used; {run.path / 'bad_files.csv'} names them")
    for line in lines:
        tell(line)


def _open_data(config: Mapping[str, Any], bars: Bars) -> tuple[PictureDataset, PictureDataset | None]:
    """The training pictures, and those for validation if any are wanted."""
    side = config["stage"]["resolution"]

    def opened(split: str) -> PictureDataset:
        name = f"looking through the pictures ({split})"
        dataset = open_dataset(config["data"], side, split, lambda done, total: bars.at(name, done, total, "files"))
        bars.end(name)
        return dataset

    return opened("train"), opened("val") if "val" in wanted_splits(config["trainer"]) else None


def _watching(
    config: Mapping[str, Any],
    described: Described,
    validation: PictureDataset | None,
    *,
    folder: Path,
    batch: int,
    bars: Bars,
) -> list[Callback]:
    """The callbacks that measure and show the run on validation pictures."""
    settings = config["trainer"]
    callbacks: list[Callback] = []
    if validation is not None and settings["validation_images"] > 0:
        view = kind_of(config).validation_view(config, validation)
        callbacks.append(
            Validation(
                view,
                count=settings["validation_images"],
                batch=batch,
                every_steps=settings["validate_every"],
                bars=bars,
            )
        )
    samples = isinstance(described, StageConfig) and settings["sample_every"] > 0 and settings["sample_images"] > 0
    if validation is not None and samples:
        callbacks.append(
            SamplePictures(
                described,
                validation,
                folder,
                count=settings["sample_images"],
                every_steps=settings["sample_every"],
                precision=settings["precision"],
                bars=bars,
                described_at=partial(kind_of(config).described_at, config, described),
            )
        )
    return callbacks


def _keeping(ema: Any, folder: Path, described: Described, images: Callable[[int], int]) -> list[Callback]:
    """What keeps snapshots of averages that are tracked for later, if any are."""
    return [KeepSnapshots(folder, ema, described.to_mapping(), images)] if isinstance(ema, PowerPairEMA) else []


def _opening(config: Mapping[str, Any], described: Described, train: int, validation: PictureDataset | None) -> str:
    classes = f"{len(described.class_names)} classes" if described.class_names else "unlabelled"
    word = kind_of(config).word(described)
    return (
        f"{described.name} ({word}, {described.resolution} px, {classes}): {train} pictures, "
        f"{0 if validation is None else len(validation)} for validation, "
        f"{config['trainer']['max_steps']} steps of {config['trainer']['batch']}, {config['trainer']['precision']}"
    )
