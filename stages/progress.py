"""What a person sees of a training: its steps, with rate, loss and time left; and its rows of metrics."""

import time
from typing import Any

from lightning.pytorch import Trainer

from cascade.progress import Bars
from stages.after_step import AfterStep
from stages.cpu_budget import CpuBudget
from stages.diffusion_stage import DiffusionStage


class TrainingProgress(AfterStep):
    """Logs the metrics every `log_every` steps and shows how the run goes.

    An endless loader has no length for Lightning's own bar to count by, so this one counts optimizer steps.
    """

    def __init__(self, name: str, log_every: int, bars: Bars, budget: CpuBudget) -> None:
        self.name = name
        self.log_every = log_every
        self.bars = bars
        self.budget = budget
        self._loss = ""
        self._began: tuple[float, int] = (0.0, 0)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Open the bar at the step that the run is at."""
        super().on_train_start(trainer, pl_module)
        self._began = (time.monotonic(), trainer.global_step)
        self.bars.at(self.name, trainer.global_step, trainer.max_steps, "steps")

    def after_step(self, trainer: Trainer, stage: DiffusionStage, step: int) -> None:
        """Log if it is time, move the bar."""
        began, first = self._began
        rate = (step - first) / max(1e-9, time.monotonic() - began) * stage.recipe.global_batch
        if step % self.log_every == 0 or step == trainer.max_steps:
            metrics = stage.take_metrics()
            metrics["train/images_per_second"] = rate
            metrics["train/cpu_hours"] = self.budget.used / 3600 * trainer.world_size
            metrics["train/images_seen"] = float(step * stage.recipe.global_batch)
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step)
            self._loss = f", loss {metrics['train/loss']:.4f}" if "train/loss" in metrics else ""
        self.bars.at(self.name, step, trainer.max_steps, "steps", f"{rate:.1f} images/s{self._loss}")
