"""What a person sees of a training: a bar with rate, loss and time left; without a terminal, a line now and then."""

import time
from typing import Any

from lightning.pytorch import Callback, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stages.diffusion_stage import DiffusionStage


class TrainingProgress(Callback):
    """Logs the metrics every `log_every` steps and shows how the run goes.

    An endless loader has no length for Lightning's own bar to count by, so this one counts optimizer steps.
    """

    def __init__(self, name: str, log_every: int) -> None:
        self.name = name
        self.log_every = log_every
        self._progress: Progress | None = None
        self._task: Any = None
        self._loss = ""
        self._began: tuple[float, int] = (0.0, 0)
        self._printed = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: DiffusionStage) -> None:  # noqa: ARG002
        """Open the bar at the step that the run is at."""
        self._began = (time.monotonic(), trainer.global_step)
        self._logged_step = trainer.global_step
        if not trainer.is_global_zero:
            return
        console = Console(stderr=True)
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
                TextColumn("{task.fields[rate]}"),
                TextColumn("{task.fields[loss]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
            )
            self._progress.start()
            self._task = self._progress.add_task(
                self.name, total=trainer.max_steps, completed=trainer.global_step, rate="", loss=""
            )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: DiffusionStage,
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        """After an optimizer step: log if it is time, move the bar."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        if step != self._logged_step and (step % self.log_every == 0 or step == trainer.max_steps):
            self._logged_step = step
            metrics = pl_module.take_metrics()
            metrics["train/images_per_second"] = self._rate(step) * pl_module.recipe.global_batch
            metrics["train/images_seen"] = float(step * pl_module.recipe.global_batch)
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step)
            self._loss = f"loss {metrics['train/loss']:.4f}"
        if trainer.is_global_zero:
            self._show(trainer, step, f"{self._rate(step) * pl_module.recipe.global_batch:.1f} images/s")

    def _show(self, trainer: Trainer, step: int, rate: str) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=step, rate=rate, loss=self._loss)
        elif time.monotonic() - self._printed > 30:
            self._printed = time.monotonic()
            left = (trainer.max_steps - step) / self._rate(step) if self._rate(step) else 0.0
            hours, seconds = divmod(int(left), 3600)
            text = f"{self.name}: step {step}/{trainer.max_steps}, {rate}, {self._loss}"
            print(f"{text}, {hours}:{seconds // 60:02}:{seconds % 60:02} left", flush=True)

    def _rate(self, step: int) -> float:
        return (step - self._began[1]) / max(1e-9, time.monotonic() - self._began[0])

    def on_train_end(self, trainer: Trainer, pl_module: DiffusionStage) -> None:  # noqa: ARG002
        """Close the bar."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def on_exception(self, trainer: Trainer, pl_module: DiffusionStage, exception: BaseException) -> None:  # noqa: ARG002
        """Close the bar after an error too, so that the error's line stands alone."""
        self.on_train_end(trainer, pl_module)
