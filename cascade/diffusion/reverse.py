"""One step back: q(x_s | x_t, x), and the Gaussian p(x_s | x_t) that ancestral sampling draws and the ELBO judges.

t is the noisier level, s the cleaner. p(x_s | x_t) has the mean of q with the denoiser's x̂ in the place of x, and one
of four variances.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cascade.diffusion.denoiser import Posterior
from cascade.diffusion.log_snr import alpha_sigma
from cascade.diffusion.schedule import as_tensor
from cascade.errors import CascadeError, suggest

Variance = Literal["small", "large", "learned", "optimal"]


@dataclass(frozen=True)
class ReverseStep:
    """q(x_s | x_t, x) = N((αs/αt)·r·x_t + αs(1−r)·x, σs²(1−r)·I), r = e^{λt−λs}.

    λt < λs are numbers (taken as float64), or tensors that are broadcast over pictures (B, ...): give (B,) levels as
    (B, 1, 1, 1). At λs = +inf it is the point x. Ho et al. 2020, equations 6 and 7; Kingma et al. 2021, appendix A.2.

    >>> step = ReverseStep(-1.0, 1.0)
    >>> step.mean(torch.tensor([[0.5]]), torch.tensor([[1.0]]))
    tensor([[0.8509]])
    """

    log_snr_t: Tensor | float
    log_snr_s: Tensor | float

    @property
    def r(self) -> Tensor:
        """r = e^{λt−λs}, in [0, 1)."""
        return (as_tensor(self.log_snr_t) - as_tensor(self.log_snr_s)).exp()

    @property
    def one_minus_r(self) -> Tensor:
        """1 − r, without cancellation on a short step."""
        return -(as_tensor(self.log_snr_t) - as_tensor(self.log_snr_s)).expm1()

    @property
    def small(self) -> Tensor:
        """σs²(1−r), the variance of q: DDPM's β̃."""
        return (-as_tensor(self.log_snr_s)).sigmoid() * self.one_minus_r

    @property
    def large(self) -> Tensor:
        """σt²(1−r), the variance of q(x_t | x_s): DDPM's β."""
        return (-as_tensor(self.log_snr_t)).sigmoid() * self.one_minus_r

    def mean(self, x_t: Tensor, x: Tensor) -> Tensor:
        """Return (αs/αt)·r·x_t + αs(1−r)·x, for x_t and x (B, ...)."""
        alpha_t, alpha_s = (alpha_sigma(level)[0] for level in (self.log_snr_t, self.log_snr_s))
        return alpha_s / alpha_t * self.r * x_t + alpha_s * self.one_minus_r * x

    def spread(self, variance: Variance, posterior: Posterior) -> "Spread":
        """Return the covariance Σ of p(x_s | x_t), by name:

          - "small":   σs²(1−r), that of q; the exact one for data that are a point;
          - "large":   σt²(1−r); the exact one for data that are white noise;
          - "learned": between them, ln Σ = f·ln σt²(1−r) + (1−f)·ln σs²(1−r), f the posterior's `variance_fraction`
            (Nichol & Dhariwal 2021, equation 15). f is asked at λt and was trained for a step of its own length; on a
            step of another it is applied to that step's two bounds, as ADM does when it drops steps of its ladder (its
            β and β̃ are then the respaced ones): between the bounds as before, and best for the pairs it was trained on;
          - "optimal": σs²(1−r) I + αs²(1−r)²·Cov[x | x_t] (Bao et al. 2022, Analytic-DPM), which needs the posterior's
            `covariance` (B, D, D): exact denoisers give it.

        Raises CascadeError for another name, and where the posterior does not hold what it takes.
        """
        check_variance(variance)
        return VARIANCES[variance](self, posterior)


@dataclass(frozen=True, eq=False)
class Spread:
    """A covariance Σ = V diag(v) Vᵀ of pictures (B, ...) with D numbers each.

    `axes` V is (B, D, D) or (D, D) with the eigenvectors as columns, and then v is (B, D) or (D,); without axes v is
    broadcast over the pixels.

    >>> spread = Spread(torch.tensor(4.0))
    >>> spread.root(torch.ones(1, 2)), spread.nats(torch.zeros(1, 2))
    (tensor([[2., 2.]]), tensor([3.2242]))
    """

    variance: Tensor
    axes: Tensor | None = None

    def root(self, noise: Tensor) -> Tensor:
        """Return √Σ·noise, √Σ the symmetric root, which does not depend on the signs and order of the eigenvectors."""
        turned = self.variance.sqrt() * self._turned(noise)
        if self.axes is None:
            return turned
        return (self.axes @ turned.unsqueeze(-1)).reshape(noise.shape)

    def kl(self, difference: Tensor, variance: Tensor) -> Tensor:
        """Return KL(N(m, variance·I) ‖ N(m̂, Σ)) in nats, (B,), for the difference m − m̂ (B, ...) of the means.

        ½ Σ [(s − v)/v − ln(s/v) + d²/v] over all D numbers, s the variance; the first two terms are 0 where Σ = s·I.
        `variance` is a number or of one number for each picture.
        """
        if self.axes is not None and variance.ndim:
            variance = variance.flatten(1)
        excess = (variance - self.variance) / self.variance
        away = self._turned(difference).square() / self.variance
        return 0.5 * (excess - excess.log1p() + away).flatten(1).sum(1)

    def nats(self, difference: Tensor) -> Tensor:
        """Return −ln N(difference; 0, Σ) in nats, (B,): ½ Σ [ln 2πv + d²/v]."""
        away = self._turned(difference).square() / self.variance
        return 0.5 * (away + (2 * math.pi * self.variance).log()).flatten(1).sum(1)

    def _turned(self, x: Tensor) -> Tensor:
        """Vᵀx, (B, D), or x as it is."""
        return x if self.axes is None else (self.axes.mT @ x.flatten(1).unsqueeze(-1)).squeeze(-1)


def check_variance(variance: Variance) -> None:
    """Raise CascadeError with the nearest name unless it is one of `VARIANCES`."""
    if variance not in VARIANCES:
        raise CascadeError(f"unknown variance '{variance}'; {suggest(str(variance), VARIANCES)}")


def _small(step: ReverseStep, posterior: Posterior) -> Spread:  # noqa: ARG001
    return Spread(step.small)


def _large(step: ReverseStep, posterior: Posterior) -> Spread:  # noqa: ARG001
    return Spread(step.large)


def _learned(step: ReverseStep, posterior: Posterior) -> Spread:
    if posterior.variance_fraction is None:
        raise CascadeError("variance 'learned' needs a denoiser that predicts it; choose 'small' or 'large'")
    return Spread(step.small * ((step.large / step.small).log() * posterior.variance_fraction).exp())


def _optimal(step: ReverseStep, posterior: Posterior) -> Spread:
    if posterior.covariance is None:
        raise CascadeError("variance 'optimal' needs an exact denoiser's covariance; choose 'small' or 'large'")
    # Σ and Cov share their eigenvectors. Rounding can push a vanishing eigenvalue of Cov below zero.
    values, vectors = torch.linalg.eigh(posterior.covariance)
    told = as_tensor(step.log_snr_s).sigmoid() * step.one_minus_r.square()
    small, told = (number.flatten(1) if number.ndim else number for number in (step.small, told))
    return Spread(small + told * values.clamp_min(0), vectors)


VARIANCES: dict[Variance, Callable[[ReverseStep, Posterior], Spread]] = {
    "small": _small,
    "large": _large,
    "learned": _learned,
    "optimal": _optimal,
}
"""The variances of p(x_s | x_t), by name."""
