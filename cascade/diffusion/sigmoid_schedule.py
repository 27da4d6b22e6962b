"""The sigmoid schedule: α² falls along a piece of a sigmoid."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cascade.diffusion.schedule import as_tensor, check_range


@dataclass(frozen=True)
class SigmoidSchedule:
    """The sigmoid schedule (Jabri et al. 2022, "Scalable Adaptive Computation"; Chen 2023, algorithm 1), truncated.

        α²(t') = (S(e) − S(z)) / (S(e) − S(s)),  S = sigmoid, s = start/τ, e = end/τ, z = s + t'·(e − s)
        λ(t') = ln sinh(w(1 − t')) − ln sinh(w·t') + ln cosh(s/2) − ln cosh(e/2),  w = (e − s)/2

    The second line is the first without its cancellations. The papers clip α² at 10⁻⁹ and 1; here, as in the cosine
    schedule, t' runs over the piece in which λ goes from λmax to λmin exactly. A larger τ comes closer to α² = 1 − t';
    Chen's scaling of the input by b is a shift of 2 ln b.

    >>> schedule = SigmoidSchedule()
    >>> schedule.log_snr(torch.tensor([0.0, 1.0])), abs(float(schedule.log_snr(0.5))) < 1e-14
    (tensor([ 20., -20.]), True)
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0
    log_snr_min: float = -20.0
    log_snr_max: float = 20.0
    t_min = 0.0

    def __post_init__(self) -> None:
        check_range(self.log_snr_min, self.log_snr_max)
        if not (0 < self.tau < math.inf and math.isfinite(self.start) and math.isfinite(self.end)):
            raise ValueError(f"tau must be positive and all finite, not {self.start}, {self.end} and {self.tau}")
        # Beyond, sinh of float32 overflows.
        if not 0 < (self.end - self.start) / self.tau <= 100:
            raise ValueError(
                f"(end - start)/tau must lie between 0 and 100, not {(self.end - self.start) / self.tau:g}"
            )

    def log_snr(self, t: Tensor | float) -> Tensor:
        """Return λ(t) of t's shape."""
        t = as_tensor(t)
        before, after, length = self._piece
        passed, rest = length * t + before, length * (1 - t) + after
        level = (self._width * rest).sinh().log() - (self._width * passed).sinh().log() + self._offset
        return level.clamp(self.log_snr_min, self.log_snr_max)

    def t(self, log_snr: Tensor | float) -> Tensor:
        """Return the t at which λ(t) = log_snr, in [0, 1]; beyond the ends, the end."""
        log_snr = as_tensor(log_snr)
        before, after, length = self._piece
        clean = log_snr > self._offset
        # Not abs(), whose derivative at the middle is 0.
        distance = self._inverse(torch.where(clean, log_snr - self._offset, self._offset - log_snr))
        return torch.where(clean, (distance - before) / length, 1 - (distance - after) / length).clamp(0, 1)

    def log_slope(self, log_snr: Tensor | float) -> Tensor:
        """Return ln |dt/dλ| = −ln w(coth w(1 − t') + coth w·t'), less the logarithm of the piece's length."""
        # The two arguments of coth are w·d and w·(1 − d), whichever end d is measured from.
        near = self._width * self._inverse((as_tensor(log_snr) - self._offset).abs())
        slope = self._width * (1 / near.tanh() + 1 / (self._width - near).tanh())
        return -slope.log() - math.log(self._piece[2])

    def _inverse(self, size: Tensor) -> Tensor:
        # t' at λ − offset = size ≥ 0, measured from the clean end: e^{2w·t'} = (e^size + e^w)/(e^size + e^{−w}).
        small = (-size).exp()
        grown, shrunk = math.exp(self._width) * small, math.exp(-self._width) * small
        return (grown.log1p() - shrunk.log1p()) / (2 * self._width)

    @property
    def _width(self) -> float:
        return (self.end - self.start) / self.tau / 2

    @property
    def _offset(self) -> float:
        return _log_cosh(self.start / self.tau / 2) - _log_cosh(self.end / self.tau / 2)

    @cached_property
    def _piece(self) -> tuple[float, float, float]:
        # t' at λmax, 1 − t' at λmin, and the length between them.
        ends = torch.tensor([self.log_snr_max - self._offset, self._offset - self.log_snr_min], dtype=torch.float64)
        near = self._inverse(ends.abs())
        # An end on the other side of the middle is as far from its own end as 1 less the distance says.
        before, after = torch.where(ends >= 0, near, 1 - near).tolist()
        return before, after, 1 - before - after


def _log_cosh(x: float) -> float:
    return abs(x) + math.log1p(math.exp(-2 * abs(x))) - math.log(2)
