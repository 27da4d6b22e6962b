"""A run's budget of processor time, which does not depend on what else the machine does."""

import math
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from stages.after_step import AfterStep


class CpuBudget(AfterStep):
    """Ends the run when it has had so many minutes of the processor, over all its calls, as if at its last step.

    Counted are all threads of this process while it trains; not the loader's workers, and no start-up. What a call has
    used is kept in its checkpoints, so a run that was stopped goes on with what is left.
    """

    def __init__(self, minutes: float | None) -> None:
        self.allowed = math.inf if minutes is None else 60 * minutes
        self.before = 0.0
        self._began: float | None = None

    @property
    def used(self) -> float:
        """Seconds of the processor so far."""
        return self.before + (0.0 if self._began is None else time.process_time() - self._began)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._began = time.process_time()

    def after_step(self, trainer: Trainer, stage: Any, step: int) -> None:  # noqa: ARG002
        """Stop after the step in which it ran out; all processes do together."""
        if math.isfinite(self.allowed):
            spent = trainer.strategy.reduce_boolean_decision(self.used > self.allowed, all=False)
            trainer.should_stop |= spent

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has used already."""
        return {"seconds": self.used}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.before = float(state_dict["seconds"])
