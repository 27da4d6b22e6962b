"""What happens after an optimizer step: the one place that knows when that is."""

from abc import abstractmethod
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class AfterStep(Callback):
    """A callback that acts once after each optimizer step, and never between the micro-batches of one."""

    _last_step = -1

    @abstractmethod
    def after_step(self, trainer: Trainer, stage: Any, step: int) -> None:
        """Act: `step` optimizer steps have been made."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """The step that the run is at was seen to before."""
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        """Call `after_step` if a step was made."""
        step = trainer.global_step
        if (batch_idx + 1) % trainer.accumulate_grad_batches or step == self._last_step:
            return
        self._last_step = step
        self.after_step(trainer, pl_module, step)
