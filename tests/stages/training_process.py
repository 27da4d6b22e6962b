"""Run one training in a process of its own, for tests that kill it; or several, one after another.

python training_process.py [--kill-at STEP [--kill-in PLACE]] [--spoil STEP]
                           [--stop-at STEP [--signal N] [--kill-workers]] OVERRIDE... [--next ...]
"""

import argparse
import io
import math
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import cascade.stage_files
import stages.run
from stages.diffusion_stage import DiffusionStage

BATCH = 6
# A step of the shipped stages with only the widths (and the number of pictures) reduced: dropout, EMA, crops and
# augmentation stay on.
REDUCED = [
    "network.channels=[8,8,16]",
    "network.embedding_dim=16",
    "network.head_channels=8",
    "network.dropout=0.2",
    "trainer.accelerator=cpu",
    "trainer.precision=fp32",
    f"trainer.batch={BATCH}",
    "trainer.log_every=1",
    "trainer.validate_every=3",
    "trainer.validation_images=6",
    "trainer.checkpoint_every=2",
    "trainer.max_steps=6",
    "trainer.sample_every=0",
]


def configuration(overrides: list[str]) -> dict:
    """The composed configuration as plain values."""
    drawn = [] if any(word.startswith("data=") for word in overrides) else ["data.size=24"]
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("train", overrides=[*REDUCED, *drawn, *overrides])
    return OmegaConf.to_container(config, resolve=True)


def after_step(chosen: int, act: Callable[[], None]) -> None:
    """Act after that optimizer step was made, before it is saved."""
    step = DiffusionStage.optimizer_step

    def step_then_act(self: DiffusionStage, *arguments: object) -> None:
        number = self.global_step
        step(self, *arguments)
        if number == chosen:
            act()

    DiffusionStage.optimizer_step = step_then_act


def kill() -> None:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_micro_batch(chosen: int) -> None:
    """Be killed in that optimizer step after the gradient of its first micro-batch."""
    step = DiffusionStage.training_step

    def second_is_death(self: DiffusionStage, batch: dict, batch_idx: int) -> object:
        if self.global_step == chosen and batch_idx % self.trainer.accumulate_grad_batches == 1:
            kill()
        return step(self, batch, batch_idx)

    DiffusionStage.training_step = second_is_death


def kill_in_checkpoint(chosen: int) -> None:
    """Be killed when half of that step's checkpoint is written."""
    save = torch.save

    def save_half(checkpoint: dict, path: Path) -> None:
        if checkpoint["global_step"] == chosen:
            whole = io.BytesIO()
            save(checkpoint, whole)
            Path(path).write_bytes(whole.getvalue()[: whole.tell() // 2])
            kill()
        save(checkpoint, path)

    torch.save = save_half


def kill_in_export(chosen: int, arm: Callable[[], None]) -> None:
    """Let `arm` prepare the death when the stage of that step is about to be written."""
    save = stages.run.save_stage

    def arm_then_save(folder: Path, described: object, state: dict) -> None:
        if described.images_seen == chosen * BATCH:
            arm()
        save(folder, described, state)

    stages.run.save_stage = arm_then_save


def kill_before_config() -> None:
    """Be killed with the weights written and nothing that describes them."""
    cascade.stage_files.write_whole = lambda *_: kill()


def kill_in_swap() -> None:
    """Be killed with the old stage out of the way and the new one not yet in its place."""
    rename = Path.rename

    def rename_or_die(self: Path, target: Path) -> Path:
        if self.name == "new" and (self.parent / "old").exists():
            kill()
        return rename(self, target)

    Path.rename = rename_or_die


PLACES = {
    "step": partial(after_step, act=kill),
    "micro-batch": kill_in_micro_batch,
    "checkpoint": kill_in_checkpoint,
    "export": partial(kill_in_export, arm=kill_before_config),
    "swap": partial(kill_in_export, arm=kill_in_swap),
}
"""Where in a step a run can be killed: after it was made, in its midst, or while what it has come to is written."""


def count_workers(most: list[int]) -> None:
    """Keep in `most[0]` the largest number of processes that read pictures during a step."""
    step = DiffusionStage.optimizer_step

    def count_then_step(self: DiffusionStage, *arguments: object) -> None:
        most[0] = max(most[0], len(multiprocessing.active_children()))
        step(self, *arguments)

    DiffusionStage.optimizer_step = count_then_step


def stop(number: int, kill_workers: bool) -> None:
    """Send the signal to this process and all its workers, one of which may be killed by it at once."""
    for worker in multiprocessing.active_children()[: 1 if kill_workers else 0]:
        os.kill(worker.pid, signal.SIGKILL)
    os.killpg(0, number)


def spoil(spoilt: int) -> None:
    """Put something that is no number into the last picture of that step's global batch; one process alone sees it."""
    step = DiffusionStage.training_step

    def spoil_then_step(self: DiffusionStage, batch: dict, batch_idx: int) -> object:
        if self.global_step == spoilt:
            batch["image"][batch["index"] == self.recipe.global_batch - 1] = math.nan
        return step(self, batch, batch_idx)

    DiffusionStage.training_step = spoil_then_step


def live(arguments: list[str]) -> None:
    """Train once."""
    warnings.simplefilter("error")
    warnings.filterwarnings("default", category=DeprecationWarning)
    parser = argparse.ArgumentParser()
    parser.add_argument("--kill-at", type=int, default=-1)
    parser.add_argument("--kill-in", choices=PLACES, default="step")
    parser.add_argument("--spoil", type=int, default=-1)
    parser.add_argument("--stop-at", type=int, default=-1)
    parser.add_argument("--signal", type=int, default=signal.SIGTERM)
    parser.add_argument("--kill-workers", action="store_true")
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_args(arguments)
    workers = [0]
    count_workers(workers)
    PLACES[asked.kill_in](asked.kill_at)
    after_step(asked.stop_at, partial(stop, asked.signal, asked.kill_workers))
    spoil(asked.spoil)
    outcome = stages.run.train(configuration(asked.overrides), print)
    print(f"{workers[0]} workers")
    print(f"step {outcome.step} resumed from {outcome.resumed_from} in {Path(outcome.folder).name}")
    if outcome.stopped_by is not None:
        raise SystemExit(128 + outcome.stopped_by)


def main() -> None:
    """Train once, or live one life after another, each a process forked before anything but the imports was done."""
    lives = [[]]
    for word in sys.argv[1:]:
        if word == "--next":
            lives.append([])
        else:
            lives[-1].append(word)
    if len(lives) == 1:
        live(lives[0])
        return
    for arguments in lives:
        process = multiprocessing.get_context("fork").Process(target=live, args=(arguments,))
        process.start()
        process.join()
        print(f"ended with {process.exitcode}", flush=True)


if __name__ == "__main__":
    main()
