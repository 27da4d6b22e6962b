"""Validation loss of the averaged weights, whole and by log-SNR band."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from cascade import rng
from cascade.progress import Bars
from stages.after_step import AfterStep
from stages.diffusion_stage import Batch, DiffusionStage

BANDS = (-math.inf, -6.0, -2.0, 2.0, 6.0, math.inf)
"""Edges of the bands: from pure noise (λ < −6) to the finest detail (λ > 6)."""


class Validation(AfterStep):
    """Every `every_steps` steps: the loss on up to `count` pictures, at levels that stratify p(λ), noise fixed.

    `on_best(step)` is called where the loss is the lowest so far; `best` is kept in checkpoints.
    """

    def __init__(
        self,
        view: Dataset[Batch],
        *,
        count: int,
        batch: int,
        every_steps: int,
        on_best: Callable[[int], None],
        bars: Bars,
    ) -> None:
        self.view = view
        self.count = min(count, len(view))  # type: ignore[arg-type]  # torch's Dataset declares no length
        self.batch = batch
        self.every_steps = every_steps
        self.on_best = on_best
        self.bars = bars
        self.best = math.inf

    def after_step(self, trainer: Trainer, stage: DiffusionStage, step: int) -> None:
        """When it is time: measure, log, and hand the weights on if they are the best so far."""
        if step % self.every_steps and step != trainer.max_steps and not trainer.should_stop:
            return
        metrics = self._measure(trainer, stage)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step)
        loss = metrics.get("val/loss", math.nan)
        if loss < self.best or not math.isfinite(self.best):
            self.best = loss if math.isfinite(loss) else math.inf
            self.on_best(step)

    def _measure(self, trainer: Trainer, stage: DiffusionStage) -> dict[str, float]:
        """Every process takes its share of the pictures."""
        edges = torch.tensor(BANDS)
        sums = torch.zeros(len(BANDS) + 1, 2, dtype=torch.float64)  # whole, then each band: (sum, count)
        for done, indices in enumerate(self._batches(trainer.global_rank, trainer.world_size)):
            self.bars.at("validation", done * self.batch * trainer.world_size, self.count, "pictures")
            batch: Batch = default_collate([self.view[i] for i in indices])
            batch = {key: value.to(stage.device) for key, value in batch.items()}
            batch["log_snr"] = self._levels(stage)[indices].to(stage.device)
            with trainer.precision_plugin.forward_context():
                log_snr, weighted, plain = (part.cpu().double() for part in stage.validation_loss(batch))
            band = torch.bucketize(log_snr, edges[1:-1]) + 1
            sums[0] += torch.tensor([weighted.sum(), len(weighted)])
            sums[:, 0].index_add_(0, band, plain)
            sums[:, 1].index_add_(0, band, torch.ones_like(plain))
        if trainer.world_size > 1:
            sums = trainer.strategy.reduce(sums.to(stage.device), reduce_op="sum").cpu()
        self.bars.end("validation")
        means = {f"val/eps_mse[{low:g},{high:g}]": sums[i + 1] for i, (low, high) in enumerate(pairwise(BANDS))}
        return {name: float(total / n) for name, (total, n) in {"val/loss": sums[0], **means}.items() if n > 0}

    def _batches(self, rank: int, processes: int) -> list[list[int]]:
        mine = list(range(rank, self.count, processes))
        return [mine[i : i + self.batch] for i in range(0, len(mine), self.batch)]

    def _levels(self, stage: DiffusionStage) -> Tensor:
        strata = rng.permutation("validation levels", stage.recipe.run_seed, size=self.count)
        return stage.recipe.noise.icdf((strata.double() + 0.5) / self.count).float()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.best = float(state_dict["best"])
