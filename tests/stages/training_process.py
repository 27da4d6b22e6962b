"""Run one training in a process of its own, for tests that kill it.

python training_process.py [--kill-at STEP] [--spoil STEP] [--stop-at STEP [--signal N] [--kill-workers]] OVERRIDE...
"""

import argparse
import math
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from stages.diffusion_stage import DiffusionStage
from stages.run import train

# A step of the shipped stages with only the widths (and the number of pictures) reduced: dropout, EMA, crops and
# augmentation stay on.
REDUCED = [
    "network.channels=[8,8,16]",
    "network.embedding_dim=16",
    "network.head_channels=8",
    "network.dropout=0.2",
    "data.size=24",
    "trainer.accelerator=cpu",
    "trainer.precision=fp32",
    "trainer.batch=6",
    "trainer.log_every=1",
    "trainer.validate_every=3",
    "trainer.validation_images=6",
    "trainer.checkpoint_every=2",
    "trainer.max_steps=6",
    "trainer.sample_every=0",
]


def configuration(overrides: list[str]) -> dict:
    """The composed configuration as plain values."""
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("train", overrides=[*REDUCED, *overrides])
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


def main() -> None:
    """Train."""
    warnings.simplefilter("error")
    warnings.filterwarnings("default", category=DeprecationWarning)
    parser = argparse.ArgumentParser()
    parser.add_argument("--kill-at", type=int, default=-1)
    parser.add_argument("--spoil", type=int, default=-1)
    parser.add_argument("--stop-at", type=int, default=-1)
    parser.add_argument("--signal", type=int, default=signal.SIGTERM)
    parser.add_argument("--kill-workers", action="store_true")
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_args()
    after_step(asked.kill_at, kill)
    after_step(asked.stop_at, partial(stop, asked.signal, asked.kill_workers))
    spoil(asked.spoil)
    outcome = train(configuration(asked.overrides), print)
    print(f"step {outcome.step} resumed from {outcome.resumed_from} in {Path(outcome.folder).name}")
    if outcome.stopped_by is not None:
        raise SystemExit(128 + outcome.stopped_by)


if __name__ == "__main__":
    main()
