"""Run one training in a process of its own, for tests that kill it: python training_process.py KILL_AT OVERRIDE..."""

import os
import signal
import sys
import warnings
from pathlib import Path

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import stages.diffusion_stage
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


def main() -> None:
    """Train; with KILL_AT ≥ 0 the process kills itself after that optimizer step was made, before it is saved."""
    warnings.simplefilter("error")
    warnings.filterwarnings("default", category=DeprecationWarning)
    kill_at = int(sys.argv[1])
    step = stages.diffusion_stage.DiffusionStage.optimizer_step

    def step_then_die(self: stages.diffusion_stage.DiffusionStage, *arguments: object) -> None:
        number = self.global_step
        step(self, *arguments)
        if number == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    stages.diffusion_stage.DiffusionStage.optimizer_step = step_then_die
    outcome = train(configuration(sys.argv[2:]), print)
    print(f"step {outcome.step} resumed from {outcome.resumed_from} in {Path(outcome.folder).name}")


if __name__ == "__main__":
    main()
