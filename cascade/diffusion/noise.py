"""The training distribution p(λ) of noise levels: its quantile function and its density.

A distribution is independent of the sampling grid. Uniform numbers come from the caller, stratified over the global
batch or not; `icdf` turns them into log-SNRs.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cascade.diffusion.schedule import Schedule, as_tensor, check_range


class NoiseDistribution(Protocol):
    """What weightings and training need of p(λ)."""

    def icdf(self, u: Tensor | float) -> Tensor: ...
    def log_density(self, log_snr: Tensor | float) -> Tensor: ...


@dataclass(frozen=True)
class ScheduleNoise:
    """λ = schedule.log_snr(t) with t uniform: p(λ) = |dt/dλ| (Kingma & Gao 2023, section 2.1).

    >>> from cascade.diffusion.schedule import CosineSchedule
    >>> noise = ScheduleNoise(CosineSchedule())
    >>> noise.icdf(torch.tensor([0.0, 1.0]))
    tensor([-20.,  20.])
    >>> torch.allclose(noise.log_density(torch.tensor(0.0)).exp(), torch.tensor(1 / (2 * math.pi)), rtol=1e-4)
    True
    """

    schedule: Schedule

    def icdf(self, u: Tensor | float) -> Tensor:
        """Return the u-quantile of λ, increasing in u ∈ [0, 1]: t falls from 1 to t_min."""
        u = as_tensor(u)
        return self.schedule.log_snr((1 - u) + u * self.schedule.t_min)

    def log_density(self, log_snr: Tensor | float) -> Tensor:
        """Return ln p(λ); −inf outside the schedule's ends."""
        log_snr = as_tensor(log_snr)
        low, high = self.schedule.log_snr_min, self.schedule.log_snr_max
        density = self.schedule.log_slope(log_snr.clamp(low, high)) - math.log1p(-self.schedule.t_min)
        return torch.where((log_snr < low) | (log_snr > high), -math.inf, density)


@dataclass(frozen=True)
class LogNormalNoise:
    """ln σ_EDM ~ N(p_mean, p_std²) (Karras et al. 2022, table 1): λ ~ N(−2 p_mean, (2 p_std)²), cut to finite ends.

    The cut removes 10⁻¹³ of the mass at the default values, and the density is normalised again.

    >>> LogNormalNoise().icdf(torch.tensor(0.5))
    tensor(2.4000)
    """

    p_mean: float = -1.2
    p_std: float = 1.2
    log_snr_min: float = -20.0
    log_snr_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.p_std < math.inf:
            raise ValueError(f"p_std must be positive, not {self.p_std}")
        check_range(self.log_snr_min, self.log_snr_max)
        if not self.log_snr_min < -2 * self.p_mean < self.log_snr_max:
            raise ValueError(f"the median λ = −2·p_mean = {-2 * self.p_mean} must lie between the ends")

    def icdf(self, u: Tensor | float) -> Tensor:
        """Return the u-quantile of λ, increasing in u ∈ [0, 1]."""
        u = as_tensor(u)
        below, _, mass = self.tails()
        # float64 inside: a float32 u near 1 would otherwise be rounded to the end itself.
        z = torch.special.ndtri(below + u.double() * mass)
        return (2 * self.p_std * z - 2 * self.p_mean).clamp(self.log_snr_min, self.log_snr_max).to(u.dtype)

    def log_density(self, log_snr: Tensor | float) -> Tensor:
        """Return ln p(λ); −inf outside the ends."""
        log_snr = as_tensor(log_snr)
        z = (log_snr + 2 * self.p_mean) / (2 * self.p_std)
        density = -z.square() / 2 - math.log(2 * self.p_std * math.sqrt(2 * math.pi) * self.tails()[2])
        return torch.where((log_snr < self.log_snr_min) | (log_snr > self.log_snr_max), -math.inf, density)

    def tails(self) -> tuple[float, float, float]:
        """Return the mass that the ends cut away below and above, and that between them."""
        low, high = ((end + 2 * self.p_mean) / (2 * self.p_std) for end in (self.log_snr_min, self.log_snr_max))
        below, above = math.erfc(-low / math.sqrt(2)) / 2, math.erfc(high / math.sqrt(2)) / 2
        return below, above, 1 - below - above


@dataclass(frozen=True)
class LogNormalSchedule:
    """EDM's training noise as a schedule: λ(t) is the (1 − t)-quantile of `LogNormalNoise`, so t uniform gives it back.

    As a grid it puts the steps where EDM trains.

    >>> LogNormalSchedule().log_snr(torch.tensor(0.5))
    tensor(2.4000)
    """

    p_mean: float = -1.2
    p_std: float = 1.2
    log_snr_min: float = -20.0
    log_snr_max: float = 20.0
    t_min = 0.0

    def __post_init__(self) -> None:
        LogNormalNoise(self.p_mean, self.p_std, self.log_snr_min, self.log_snr_max)

    def log_snr(self, t: Tensor | float) -> Tensor:
        """Return λ(t) of t's shape."""
        t = as_tensor(t)
        below, above, mass = self._noise.tails()
        # Each tail is measured from its own end, where its small probability keeps its digits.
        left, right = below + (1 - t.double()) * mass, above + t.double() * mass
        z = torch.where(left < right, torch.special.ndtri(left), -torch.special.ndtri(right))
        return (2 * self.p_std * z - 2 * self.p_mean).clamp(self.log_snr_min, self.log_snr_max).to(t.dtype)

    def t(self, log_snr: Tensor | float) -> Tensor:
        """Return the t at which λ(t) = log_snr, in [0, 1]; beyond the ends, the end."""
        log_snr = as_tensor(log_snr)
        below, above, mass = self._noise.tails()
        z = (log_snr.double() + 2 * self.p_mean) / (2 * self.p_std)
        left, right = (torch.special.ndtr(z) - below) / mass, (torch.special.ndtr(-z) - above) / mass
        return torch.where(left < right, 1 - left, right).clamp(0, 1).to(log_snr.dtype)

    def log_slope(self, log_snr: Tensor | float) -> Tensor:
        """Return ln |dt/dλ| = ln p(λ)."""
        return self._noise.log_density(log_snr)

    @property
    def _noise(self) -> LogNormalNoise:
        return LogNormalNoise(self.p_mean, self.p_std, self.log_snr_min, self.log_snr_max)
