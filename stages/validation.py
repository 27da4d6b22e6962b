"""Validation loss of the averaged weights, whole and by log-SNR band."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import default_collate

from cascade import rng
from cascade.data.views import EvaluationView
from cascade.progress import Bars
from stages.after_step import AfterStep
from stages.diffusion_stage import Batch, DiffusionStage

BANDS = (-math.inf, -6.0, -2.0, 2.0, 6.0, math.inf)
"""Edges of the bands: from pure noise (λ < −6) to the finest detail (λ > 6)."""


class Validation(AfterStep):
    """Every `every_steps` steps: the loss on up to `count` pictures, at levels that stratify p(λ), noise fixed.

    `best` is the lowest so far and `best_step` the step it was found at; both are kept in checkpoints.
    """

    def __init__(
        self,
        view: EvaluationView,
        *,
        count: int,
        batch: int,
        every_steps: int,
        bars: Bars,
    ) -> None:
        self.view = view
        self.count = min(count, len(view))
        self.batch = batch
        self.every_steps = every_steps
        self.bars = bars
        self.best = math.inf
        self.best_step = 0

    def after_step(self, trainer: Trainer, stage: DiffusionStage, step: int) -> None:
        """When it is time: measure and log."""
        if step % self.every_steps and step != trainer.max_steps and not trainer.should_stop:
            return
        metrics = self._measure(trainer, stage)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step)
        loss = metrics.get("val/loss", math.nan)
        if loss < self.best or not math.isfinite(self.best):
            self.best = loss if math.isfinite(loss) else math.inf
            self.best_step = step

    def _measure(self, trainer: Trainer, stage: DiffusionStage) -> dict[str, float]:
        """Every process takes its share of the pictures."""
        edges = torch.tensor(BANDS)
        bands = list(pairwise(BANDS))
        names = [f"val/{term}" for term in stage.WHOLE]
        names += [f"val/{term}[{low:g},{high:g}]" for term in stage.BY_BAND for low, high in bands]
        sums = torch.zeros(len(names), 2, dtype=torch.float64)  # (sum, count)
        for done, indices in enumerate(self._batches(trainer.global_rank, trainer.world_size)):
            self.bars.at("validation", done * self.batch * trainer.world_size, self.count, "pictures")
            batch: Batch = default_collate([self.view[i] for i in indices])
            batch = {key: value.to(stage.device) for key, value in batch.items()}
            batch["log_snr"] = self._levels(stage)[indices].to(stage.device)
            with trainer.precision_plugin.forward_context():
                log_snr, terms = stage.validation_terms(batch)
            values = {name: term.cpu().double() for name, term in terms.items()}
            band = torch.bucketize(log_snr.cpu().double(), edges[1:-1])
            rows = [(torch.full_like(band, i), term) for i, term in enumerate(stage.WHOLE)]
            rows += [(len(rows) + i * len(bands) + band, term) for i, term in enumerate(stage.BY_BAND)]
            for row, term in rows:
                sums[:, 0].index_add_(0, row, values[term])
                sums[:, 1].index_add_(0, row, torch.ones_like(values[term]))
        if trainer.world_size > 1:
            sums = trainer.strategy.reduce(sums.to(stage.device), reduce_op="sum").cpu()
        self.bars.end("validation")
        return {name: float(total / n) for name, (total, n) in zip(names, sums, strict=True) if n > 0}

    def _batches(self, rank: int, processes: int) -> list[list[int]]:
        mine = list(range(rank, self.count, processes))
        return [mine[i : i + self.batch] for i in range(0, len(mine), self.batch)]

    def _levels(self, stage: DiffusionStage) -> Tensor:
        strata = rng.permutation("validation levels", stage.recipe.run_seed, size=self.count)
        return stage.recipe.noise.icdf((strata.double() + 0.5) / self.count).float()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.best = float(state_dict["best"])
        self.best_step = int(state_dict.get("best_step", 0))  # checkpoints of before this was kept


class ExportBest(AfterStep):
    """Calls `export(step)` after the steps with the lowest validation loss so far.

    It comes after the checkpoint of the same step: what is exported is never ahead of what a run goes on from. Where a
    run ended in between, the one that goes on from that checkpoint begins with the export.
    """

    def __init__(self, validation: Validation, export: Callable[[int], None]) -> None:
        self.validation = validation
        self.export = export

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make up for what the last process did not come to do."""
        super().on_train_start(trainer, pl_module)
        if trainer.global_step > 0:
            self.after_step(trainer, pl_module, trainer.global_step)

    def after_step(self, trainer: Trainer, stage: Any, step: int) -> None:  # noqa: ARG002
        """Export the weights of the best step."""
        if step == self.validation.best_step:
            self.export(step)
