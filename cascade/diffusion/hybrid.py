"""The hybrid loss: beside the mean of the reverse step, its variance is learned."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cascade.diffusion.condition import Condition
from cascade.diffusion.denoiser import Denoiser, Posterior
from cascade.diffusion.log_snr import over, per_image
from cascade.diffusion.loss import Loss, PlainLoss
from cascade.diffusion.reverse import ReverseStep
from cascade.diffusion.weighting import Weighting
from cascade.errors import CascadeError


@dataclass(frozen=True, eq=False)
class HybridLoss:
    """L_simple + `vlb_weight`·L_vlb (Nichol & Dhariwal 2021, equation 16), L_vlb in bits per dimension.

    `loss` is the first term, with any weighting. The second is the ELBO's KL(q(x_s | x_t, x) ‖ p(x_s | x_t)) under the
    learned variance. Its mean is detached: the gradient reaches the variance alone and never moves the pictures.

    A variance belongs to a pair of levels (λt, λs), so this is a second term and no w(λ). The pairs are steps of
    `grid`, on which the stage is sampled: λt is the loss's own λ, drawn from the training p(λ), and λs lies one step
    further along the grid, read linearly between its levels. Levels outside the grid have no term, and neither has
    the step to the clean picture, which has no variance. Sampled on a grid with other steps, the fraction that is
    learned here is applied to those, as in ADM (`ReverseStep.spread`).

    The term is N·KL for a grid of N finite levels: where p(λ) is the grid's own density its mean is L_vlb. Elsewhere
    the steps weigh as p(λ) has it, which changes how fast a level learns its variance and not which is its best.

    >>> from cascade.diffusion import UnitWeighting
    >>> class HalfWay:
    ...     def __call__(self, x_t, log_snr, condition):
    ...         return Posterior(0 * x_t, variance_fraction=0.5 + 0 * x_t)
    >>> loss = HybridLoss(torch.tensor([-4.0, 0.0, 4.0, torch.inf], dtype=torch.float64), vlb_weight=1.0)
    >>> x = torch.zeros(2, 3)
    >>> loss(HalfWay(), x, torch.tensor([-4.0, 1.0]), x, Condition(), UnitWeighting())
    tensor([0.1105, 0.0000])
    """

    grid: Tensor
    vlb_weight: float = 0.001
    loss: Loss = field(default_factory=PlainLoss)

    def __post_init__(self) -> None:
        if len(self._levels) < 2:
            raise ValueError("a grid of one step has no variance to learn: that step gives the clean picture")
        if not 0 < self.vlb_weight < math.inf:
            raise ValueError(f"vlb_weight must be positive and finite, not {self.vlb_weight}")

    def __call__(  # noqa: PLR0917
        self, denoiser: Denoiser, x: Tensor, log_snr: Tensor, eps: Tensor, condition: Condition, weighting: Weighting
    ) -> Tensor:
        """Return the loss of each image, (B,). Raises CascadeError unless the denoiser predicts a variance."""
        asked = _Asked(denoiser)
        simple = self.loss(asked, x, log_snr, eps, condition, weighting)
        if asked.posterior is None or asked.posterior.variance_fraction is None:
            raise CascadeError(
                "loss=hybrid trains a variance, and the network predicts none; say preconditioning.learn_variance=true"
            )
        return simple + self.vlb_weight * self.vlb(x, per_image(log_snr, x), asked.posterior)

    def vlb(self, x: Tensor, log_snr: Tensor, posterior: Posterior) -> Tensor:
        """Return N·KL of each image in bits per dimension, (B,), 0 where no step begins; x̂ is detached."""
        begins, end = self.step(log_snr)
        step = ReverseStep(over(log_snr, x), over(end, x))
        difference = step.mean(torch.zeros_like(x), x - posterior.mean.detach())
        nats = step.spread("learned", posterior).kl(difference, step.small)
        return torch.where(begins, len(self._levels) / (x[0].numel() * math.log(2)) * nats, 0.0)

    def step(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """Return whether a step of the grid begins at each λ (B,), and the λs at which it ends (λ + 1 where none does).

        >>> loss = HybridLoss(torch.tensor([-4.0, 0.0, 2.0, torch.inf], dtype=torch.float64))
        >>> loss.step(torch.tensor([-5.0, -4.0, -2.0, 0.0, 1.0]))
        (tensor([False,  True,  True,  True, False]), tensor([-4.,  0.,  1.,  2.,  2.]))
        """
        grid = self._levels.to(log_snr)
        starts, ends = grid[:-1], grid[1:]
        right = torch.searchsorted(starts, log_snr.detach(), right=True).clamp(max=len(starts) - 1)
        left = (right - 1).clamp(min=0)
        share = (log_snr - starts[left]) / (starts[right] - starts[left]).clamp(min=1e-9)
        begins = (starts[0] <= log_snr) & (log_snr <= starts[-1])
        # Where none begins a step of length 1 stands in: a step backwards would be NaN, and so would its gradient.
        return begins, torch.where(begins, torch.lerp(ends[left], ends[right], share), log_snr + 1)

    @property
    def _levels(self) -> Tensor:
        return self.grid[self.grid.isfinite()]


@dataclass(eq=False)
class _Asked:
    """A denoiser that keeps its last answer, so that two terms share one call of the network."""

    denoiser: Denoiser
    posterior: Posterior | None = None

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        self.posterior = self.denoiser(x_t, log_snr, condition)
        return self.posterior
