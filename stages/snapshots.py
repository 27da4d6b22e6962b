"""Snapshots of the averages of a run, from which `cascade reconstruct-ema` makes averages of other lengths."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from cascade.diffusion.power_ema import PowerPairEMA
from cascade.snapshots import Snapshots
from stages.after_step import AfterStep
from stages.diffusion_stage import DiffusionStage


class KeepSnapshots(AfterStep):
    """Writes `snapshots/` of every average at the steps that `ema.interval` says, and at the end.

    Which are kept after a step is a function of the step alone, so those of a resumed run are an unbroken one's.
    `described` is what the stage says of itself, and `images_seen(step)` what it has seen then.
    """

    def __init__(
        self, folder: Path, ema: PowerPairEMA, described: Mapping[str, Any], images_seen: Callable[[int], int]
    ) -> None:
        self.kept = Snapshots(folder)
        self.ema, self.described, self.images_seen = ema, described, images_seen

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Forget what a process has kept that came further than its last checkpoint."""
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            self.kept.keep(lambda step: step <= trainer.global_step)
            self.kept.write_config(self.described)

    def after_step(self, trainer: Trainer, stage: DiffusionStage, step: int) -> None:
        """Write when it is time, and thin out those before."""
        ending = step == trainer.max_steps or trainer.should_stop
        interval = self.ema.interval(step)
        if not trainer.is_global_zero or (step % interval and not ending):
            return
        for ema, average in stage.averages():
            self.kept.write(step, ema.sigma_rel, average.state_dict(), self.images_seen(step))
        self.kept.keep(lambda kept: kept % interval == 0 or kept == step)
