"""One validation loss for denoisers that were trained by different ones.

A training's own loss depends on its weighting, its noise levels and what its network predicts, so those of two
trainings say nothing of each other. Here everything but the denoiser is fixed: pictures, levels, noise and weight.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cascade import rng
from cascade.data.views import EvaluationView
from cascade.diffusion import Condition, Denoiser, Posterior, diffusion_loss
from cascade.diffusion.augmentation import Augmentation
from cascade.diffusion.noise import NoiseDistribution
from cascade.diffusion.weighting import Weighting
from cascade.errors import CascadeError


@dataclass(frozen=True)
class DenoisingError:
    """ratio(λ)·‖ε − ε̂‖²/CHW of the first `count` pictures of a view, each at `levels` levels.

    L_ik = ratio(λ_ik)·e^{λ_ik}·‖x_i − x̂(α x_i + σ ε_ik)‖²/CHW, whose mean is the loss. The count·K levels together are
    one from each stratum of p(λ), `noise`; `weighting` is bound to it. Of a posterior the mean alone is judged. Levels
    and noise belong to (picture, k), so two denoisers meet the same, and their difference is known better than either.

    augmentation, aug_log_snr  how the low-res picture is spoilt, and at which one level; None: of a base stage
    labelled                   whether the denoiser is told the class

    >>> from cascade.data.procedural import ProceduralDataset
    >>> from cascade.diffusion import UnitWeighting
    >>> from cascade.diffusion.noise import LogNormalNoise
    >>> view = EvaluationView(ProceduralDataset(8, "val", val_size=4))
    >>> judge = DenoisingError(view, LogNormalNoise(), UnitWeighting(), count=4)
    >>> exact = lambda x_t, log_snr, condition: Posterior(torch.stack([view[i]["image"] for i in range(4)]))
    >>> judge(exact)[:, 0]
    tensor([0., 0., 0., 0.], dtype=torch.float64)
    """

    view: EvaluationView
    noise: NoiseDistribution
    weighting: Weighting
    count: int
    levels: int = 1
    augmentation: Augmentation | None = None
    aug_log_snr: float | None = None
    labelled: bool = True
    batch: int = 8

    def __post_init__(self) -> None:
        for name in ("count", "levels", "batch"):
            if getattr(self, name) < 1:
                raise CascadeError(f"{name}={getattr(self, name)} must be at least 1")
        if self.count > len(self.view):
            raise CascadeError(f"{self.count} pictures are wanted, and there are {len(self.view)}")

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, done: Callable[[int], object] = lambda _: None) -> Tensor:
        """Return the loss of each picture at each of its levels, (count, levels) float64.

        `done(n)` is told after n pictures. Raises CascadeError where one is not finite.
        """

        def mean_alone(x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
            return Posterior(denoiser(x_t, log_snr, condition).mean)

        log_snr = self.log_snr()
        parts = []
        for start in range(0, self.count, self.batch):
            indices = range(start, min(start + self.batch, self.count))
            shown = [self.view[i] for i in indices]
            x = torch.stack([view["image"] for view in shown])
            condition = self._condition(shown, indices)
            found = []
            for k in range(self.levels):
                eps = torch.stack([rng.randn("denoising error", "eps", i, k, shape=x.shape[1:]) for i in indices])
                found.append(diffusion_loss(mean_alone, x, log_snr[list(indices), k], eps, condition, self.weighting))
            parts.append(torch.stack(found, 1).double())
            done(indices.stop)
        losses = torch.cat(parts)
        if not bool(losses.isfinite().all()):
            raise CascadeError("its loss is not finite: the training has diverged")
        return losses

    def log_snr(self) -> Tensor:
        """The levels λ of every picture, (count, levels)."""
        size = self.count * self.levels
        strata = rng.permutation("denoising error", "levels", size=size)
        return self.noise.icdf((strata.double() + 0.5) / size).float().view(self.count, self.levels)

    def _condition(self, shown: Sequence[dict[str, Tensor]], indices: Sequence[int]) -> Condition:
        label = torch.stack([view["label"] for view in shown]) if self.labelled else None
        if self.augmentation is None or self.aug_log_snr is None:
            return Condition(label)
        low_res = torch.stack([view["low_res"] for view in shown])
        eps = [rng.randn("denoising error", "augmentation", i, shape=low_res.shape[1:]) for i in indices]
        level = torch.full((len(shown),), float(self.aug_log_snr))
        return Condition(label, self.augmentation.apply(low_res, level, torch.stack(eps)), level)
