"""Checkpoints to resume from: written whole, only after an optimizer step, read without executing code."""

import shutil
import signal
import time
from pathlib import Path
from pickle import UnpicklingError
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer

from cascade.errors import CascadeError
from cascade.files import write_whole_with
from stages.after_step import AfterStep
from stages.run_folder import LAST
from stages.workers import is_of_killed_worker


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, but whole or not at all, and without pickled code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:  # noqa: ARG002
        """Write through a temporary file beside the target."""
        try:
            write_whole_with(path, lambda temporary: torch.save(checkpoint, temporary))
        except RuntimeError as error:  # torch tells of an error in writing as of one of its own
            if is_of_killed_worker(error):
                raise
            free = shutil.disk_usage(Path(path).parent).free / 1e6
            raise CascadeError(f"{path} could not be written; is the disk full? ({free:.0f} MB are free)") from error

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None) -> Any:  # noqa: ARG002
        """Read tensors and plain values only."""
        return read_checkpoint(Path(path), map_location)


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Return the checkpoint at `path`; a damaged one is a CascadeError."""
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise CascadeError(f"{path} is damaged or no checkpoint; fresh=true moves it aside and starts again") from error
    except UnpicklingError as error:
        raise CascadeError(f"{path} is not a checkpoint of this program, or is damaged; use fresh=true") from error


class ResumeCheckpoint(AfterStep):
    """Saves `last.ckpt` every so many steps or minutes, at the end, and when asked to stop (SIGINT, SIGTERM).

    Batches of the run are a pure function of the optimizer step, so the step in the checkpoint is the whole position.
    A signal, `asked`, ends the run after the current step; `stopped_by` is the signal that has. `saved_step` is that of
    the last checkpoint written here.
    """

    def __init__(self, folder: Path, every_steps: int, every_minutes: float) -> None:
        self.path = folder / LAST
        self.every_steps = every_steps
        self.every_seconds = every_minutes * 60
        self.stopped_by: int | None = None
        self.asked: int | None = None
        self.saved_step: int | None = None
        self._saved_time = 0.0
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals that ask a process to stop."""
        super().on_train_start(trainer, pl_module)
        self._saved_time = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._ask)

    def after_step(self, trainer: Trainer, stage: LightningModule, step: int) -> None:  # noqa: ARG002
        """Save when it is time."""
        asked = self._agreed(trainer, self.asked is not None)
        if asked:
            self.stopped_by = self.asked or signal.SIGTERM
            trainer.should_stop = True
        late = self._agreed(trainer, time.monotonic() - self._saved_time > self.every_seconds)
        due = step % self.every_steps == 0 or step == trainer.max_steps
        if asked or late or due or trainer.should_stop:
            trainer.save_checkpoint(self.path)
            self.saved_step = step
            self._saved_time = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Give the signals back."""
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Give the signals back after an error too."""
        self.on_train_end(trainer, pl_module)

    def _ask(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.asked is not None:  # asked twice: at once, then, and from the last checkpoint on
            raise KeyboardInterrupt
        self.asked = number

    @staticmethod
    def _agreed(trainer: Trainer, mine: bool) -> bool:
        # Every process must take the same decision at the same step, else one waits for the others for ever.
        return trainer.strategy.reduce_boolean_decision(mine, all=False) if trainer.world_size > 1 else mine
