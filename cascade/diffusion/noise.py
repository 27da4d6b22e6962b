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
        below, mass = self._mass()
        # float64 inside: a float32 u near 1 would otherwise be rounded to the end itself.
        z = torch.special.ndtri(below + u.double() * mass)
        return (2 * self.p_std * z - 2 * self.p_mean).clamp(self.log_snr_min, self.log_snr_max).to(u.dtype)

    def log_density(self, log_snr: Tensor | float) -> Tensor:
        """Return ln p(λ); −inf outside the ends."""
        log_snr = as_tensor(log_snr)
        z = (log_snr + 2 * self.p_mean) / (2 * self.p_std)
        density = -z.square() / 2 - math.log(2 * self.p_std * math.sqrt(2 * math.pi) * self._mass()[1])
        return torch.where((log_snr < self.log_snr_min) | (log_snr > self.log_snr_max), -math.inf, density)

    def _mass(self) -> tuple[float, float]:
        # The mass below the lower end, and that between the ends.
        low, high = ((end + 2 * self.p_mean) / (2 * self.p_std) for end in (self.log_snr_min, self.log_snr_max))
        below, above = math.erfc(-low / math.sqrt(2)) / 2, math.erfc(high / math.sqrt(2)) / 2
        return below, 1 - below - above
