"""Schedules made of another: moved in λ, moved by the resolution, between two resolutions, cut to an interval."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cascade.diffusion.schedule import Schedule, as_tensor, check_range


@dataclass(frozen=True)
class ShiftedSchedule:
    """A schedule moved in λ: λ(t) = base.log_snr(t) + shift, at every t, the ends too.

    The ends are finite as the base's are, and move with it: cosine on [−20, 20] runs from −22.8 to 17.2 under the shift
    for 256 px, as in simple diffusion's code. Cut off at −20 it would have a density with a point mass, and stretched
    to −20 another t for each λ. Where ends matter, cut it: TruncatedSchedule(ShiftedSchedule(base, shift), −20, 17.2)
    is its noise given that λ ≥ −20. `shifted_to` computes the shift from a resolution.

    >>> from cascade.diffusion import CosineSchedule
    >>> ShiftedSchedule(CosineSchedule(), 2 * math.log(64 / 256)).log_snr(torch.tensor(0.5))
    tensor(-2.7726)
    """

    base: Schedule
    shift: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.shift):
            raise ValueError(f"shift must be finite, not {self.shift}")

    @property
    def log_snr_min(self) -> float:
        """The base's end, shifted."""
        return self.base.log_snr_min + self.shift

    @property
    def log_snr_max(self) -> float:
        """The base's end, shifted."""
        return self.base.log_snr_max + self.shift

    @property
    def t_min(self) -> float:
        """The base's."""
        return self.base.t_min

    def log_snr(self, t: Tensor | float) -> Tensor:
        """Return λ(t) of t's shape."""
        return (self.base.log_snr(t) + self.shift).clamp(self.log_snr_min, self.log_snr_max)

    def t(self, log_snr: Tensor | float) -> Tensor:
        """Return the t at which λ(t) = log_snr."""
        return self.base.t(as_tensor(log_snr) - self.shift)

    def log_slope(self, log_snr: Tensor | float) -> Tensor:
        """Return ln |dt/dλ|, the base's at λ − shift."""
        return self.base.log_slope(as_tensor(log_snr) - self.shift)


def shifted_to(base: Schedule, resolution: int, tuned_at: int = 64) -> ShiftedSchedule:
    """`base`, tuned at `tuned_at` pixels, moved to `resolution`: shift = 2 ln(tuned_at/resolution).

    A picture of twice the side shows the same content with a quarter of the noise in its block means; the shift takes
    that back (Hoogeboom et al. 2023, "simple diffusion", eq. 3-4). Raises ValueError unless both are at least 1.

    >>> from cascade.diffusion import CosineSchedule
    >>> round(shifted_to(CosineSchedule(), resolution=256).shift, 4)
    -2.7726
    """
    return ShiftedSchedule(base, _shift(resolution, tuned_at))


@dataclass(frozen=True)
class InterpolatedSchedule:
    """Simple diffusion's interpolated schedule: from the shift for `clean_at` pixels to that for `noisy_at` pixels.

        λ(t) = base.λ(t) + (1 − t)·s_clean + t·s_noisy,  s = 2 ln(at/resolution)

    (Hoogeboom et al. 2023, section 3.1.) Near pure noise, where coarse content is decided, it is the schedule of a
    small picture; near the clean end that of a large one, which leaves the detail less under noise than a single shift
    does. noisy_at ≤ clean_at, so that λ falls. The ends move as those of `ShiftedSchedule` do, each by its own shift.
    The inverse is found by bisection and Newton's method.

    >>> from cascade.diffusion import CosineSchedule
    >>> schedule = InterpolatedSchedule(CosineSchedule(), resolution=256)
    >>> round(float(schedule.log_snr(0.5)) / math.log(2), 6)
    -3.0
    """

    base: Schedule
    resolution: int
    noisy_at: int = 32
    clean_at: int = 256

    def __post_init__(self) -> None:
        if not self.noisy_at <= self.clean_at:
            raise ValueError(f"noisy_at must be at most clean_at, not {self.noisy_at} and {self.clean_at}")
        _shift(self.resolution, self.noisy_at)

    @property
    def log_snr_min(self) -> float:
        """λ(1)."""
        return self.base.log_snr_min + self._shifts[1]

    @property
    def log_snr_max(self) -> float:
        """λ(t_min)."""
        return self.base.log_snr_max + (1 - self.t_min) * self._shifts[0] + self.t_min * self._shifts[1]

    @property
    def t_min(self) -> float:
        """The base's."""
        return self.base.t_min

    def log_snr(self, t: Tensor | float) -> Tensor:
        """Return λ(t) of t's shape."""
        t = as_tensor(t)
        return (self.base.log_snr(t) + self._shift_at(t)).clamp(self.log_snr_min, self.log_snr_max)

    def t(self, log_snr: Tensor | float) -> Tensor:
        """Return the t at which λ(t) = log_snr, in [0, 1]; beyond the ends, the end."""
        log_snr = as_tensor(log_snr)
        level = log_snr.double().clamp(self.log_snr_min, self.log_snr_max)
        low, high = torch.zeros_like(level.detach()), torch.ones_like(level.detach())
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            noisy = self.base.log_snr(middle) + self._shift_at(middle) < level
            low, high = torch.where(noisy, low, middle), torch.where(noisy, middle, high)
        t = (low + high) / 2
        for _ in range(2):
            # Each step of Newton's method is differentiable in λ, and the last one has the exact derivative 1/λ'(t).
            t = t.detach()
            residual = self.base.log_snr(t) + self._shift_at(t) - level
            t = (t + residual * self._log_slope_at(t).exp()).clamp(0, 1)
        return torch.where(log_snr < self.log_snr_max, t, 0.0).to(log_snr.dtype)

    def log_slope(self, log_snr: Tensor | float) -> Tensor:
        """Return ln |dt/dλ| = −ln(|dλ_base/dt| + s_clean − s_noisy)."""
        log_snr = as_tensor(log_snr)
        return self._log_slope_at(self.t(log_snr.double())).to(log_snr.dtype)

    def _log_slope_at(self, t: Tensor) -> Tensor:
        return -((-self.base.log_slope(self.base.log_snr(t))).exp() + self._shifts[0] - self._shifts[1]).log()

    def _shift_at(self, t: Tensor) -> Tensor:
        return (1 - t) * self._shifts[0] + t * self._shifts[1]

    @property
    def _shifts(self) -> tuple[float, float]:
        return _shift(self.resolution, self.clean_at), _shift(self.resolution, self.noisy_at)


@dataclass(frozen=True)
class TruncatedSchedule:
    """A schedule cut to [log_snr_min, log_snr_max], its time stretched over what is left.

        λ(t) = base.λ(t₀ + t·(t₁ − t₀)),  t₀ = base.t(log_snr_max), t₁ = base.t(log_snr_min)

    As training noise it is the base's p(λ), given that λ lies in the interval. Cosine cut is the cosine schedule of
    those ends. Raises ValueError unless the ends are in order and within the base's.

    >>> from cascade.diffusion import CosineSchedule
    >>> schedule = TruncatedSchedule(CosineSchedule(), -6.0, 10.0)
    >>> torch.allclose(schedule.log_snr(0.3), CosineSchedule(-6.0, 10.0).log_snr(0.3))
    True
    """

    base: Schedule
    log_snr_min: float
    log_snr_max: float
    t_min = 0.0

    def __post_init__(self) -> None:
        check_range(self.log_snr_min, self.log_snr_max)
        low, high = self.base.log_snr_min, self.base.log_snr_max
        if self.log_snr_min < low or self.log_snr_max > high:
            raise ValueError(
                f"[{self.log_snr_min:g}, {self.log_snr_max:g}] is not within [{low:g}, {high:g}], the base"
            )

    def log_snr(self, t: Tensor | float) -> Tensor:
        """Return λ(t) of t's shape."""
        start, end = self._cuts
        t = as_tensor(t)
        return self.base.log_snr((1 - t) * start + t * end).clamp(self.log_snr_min, self.log_snr_max)

    def t(self, log_snr: Tensor | float) -> Tensor:
        """Return the t at which λ(t) = log_snr, in [0, 1]; beyond the ends, the end."""
        start, end = self._cuts
        return ((self.base.t(log_snr) - start) / (end - start)).clamp(0, 1)

    def log_slope(self, log_snr: Tensor | float) -> Tensor:
        """Return ln |dt/dλ|, the base's less ln(t₁ − t₀)."""
        start, end = self._cuts
        return self.base.log_slope(log_snr) - math.log(end - start)

    @cached_property
    def _cuts(self) -> tuple[float, float]:
        # Where the base clips, it stays at its largest λ up to t_min, and t(λmax) is 0.
        return max(float(self.base.t(self.log_snr_max)), self.base.t_min), float(self.base.t(self.log_snr_min))


_BISECTIONS = 30


def _shift(resolution: int, tuned_at: int) -> float:
    if resolution < 1 or tuned_at < 1:
        raise ValueError(f"resolutions are at least 1, not {min(resolution, tuned_at)}")
    return 2 * math.log(tuned_at / resolution)
