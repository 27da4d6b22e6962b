"""Schedules: monotone maps between t in [0, 1] (0 = clean, 1 = noise) and the log-SNR λ.

A schedule knows `log_snr(t)`, its inverse `t(log_snr)`, its ends `log_snr_min` and `log_snr_max`, and
`log_slope(log_snr)` = ln |dt/dλ|, from which the training density follows (noise.ScheduleNoise). Tensors keep their
dtype; Python floats are taken as float64. All have finite ends, so that no denoiser is ever called at λ = ±inf: by
default −20 and 20 where these can be chosen, and what `changed_schedule` makes of them by its shifts.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus


class Schedule(Protocol):
    """What a schedule offers. `t_min` is the largest t at which λ is still log_snr_max (0 unless truncation clips)."""

    @property
    def log_snr_min(self) -> float: ...
    @property
    def log_snr_max(self) -> float: ...
    @property
    def t_min(self) -> float: ...
    def log_snr(self, t: Tensor | float) -> Tensor: ...
    def t(self, log_snr: Tensor | float) -> Tensor: ...
    def log_slope(self, log_snr: Tensor | float) -> Tensor: ...


def as_tensor(value: Tensor | float) -> Tensor:
    """Return a tensor as it is, and a number as float64."""
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def check_range(log_snr_min: float, log_snr_max: float) -> None:
    """Raise ValueError unless both ends are finite and log_snr_min < log_snr_max."""
    if not (math.isfinite(log_snr_min) and math.isfinite(log_snr_max) and log_snr_min < log_snr_max):
        raise ValueError(f"log_snr_min must be below log_snr_max and both finite, not {log_snr_min} and {log_snr_max}")


@dataclass(frozen=True)
class CosineSchedule:
    """The cosine schedule, truncated: λ(t) = −2 ln tan(a·t + b).

    b = atan e^{−λmax/2}, a = atan e^{−λmin/2} − b, so λ(0) = λmax and λ(1) = λmin exactly. Untruncated it is
    α = cos(πt/2), σ = sin(πt/2) (Nichol & Dhariwal 2021 without their offset s; Kingma & Gao 2023, appendix).

    >>> schedule = CosineSchedule()
    >>> schedule.log_snr(torch.tensor([0.0, 1.0])), abs(float(schedule.log_snr(0.5))) < 1e-14
    (tensor([ 20., -20.]), True)
    """

    log_snr_min: float = -20.0
    log_snr_max: float = 20.0
    t_min = 0.0

    def __post_init__(self) -> None:
        check_range(self.log_snr_min, self.log_snr_max)

    def log_snr(self, t: Tensor | float) -> Tensor:
        """Return λ(t) of t's shape."""
        t = as_tensor(t)
        start, end, length = self._angles
        # Near π/2 the tangent loses digits, so the second half is measured from the other end: tan(π/2 − y) = 1/tan y.
        angle, rest = length * t + start, length * (1 - t) + end
        level = torch.where(angle < rest, -2 * angle.tan().log(), 2 * rest.tan().log())
        return level.clamp(self.log_snr_min, self.log_snr_max)

    def t(self, log_snr: Tensor | float) -> Tensor:
        """Return the t at which λ(t) = log_snr, in [0, 1]; beyond the ends, the end."""
        log_snr = as_tensor(log_snr)
        start, end, length = self._angles
        # As in log_snr, each half is measured from its own end.
        angle = (-log_snr.abs() / 2).exp().atan()
        return torch.where(log_snr > 0, (angle - start) / length, 1 - (angle - end) / length).clamp(0, 1)

    def log_slope(self, log_snr: Tensor | float) -> Tensor:
        """Return ln |dt/dλ| = ln sech(λ/2) − ln 4a."""
        size = as_tensor(log_snr).abs()
        return math.log(2) - size / 2 - (-size).exp().log1p() - math.log(4 * self._angles[2])

    @cached_property
    def _angles(self) -> tuple[float, float, float]:
        start, end = math.atan(math.exp(-self.log_snr_max / 2)), math.atan(math.exp(self.log_snr_min / 2))
        return start, end, math.pi / 2 - start - end


@dataclass(frozen=True)
class LinearBetaSchedule:
    """The continuous linear-β schedule, the variance-preserving SDE of Song et al. (2021), eq. 33.

        ln α² = −B(t),  B(t) = β_min·t + ½(β_max − β_min)·t²,  λ = −ln(e^B − 1)

    λ(0) = +inf is cut at log_snr_max; at t = 1 it is −10.05 for the default values.

    >>> LinearBetaSchedule().log_snr(torch.tensor([0.0, 1.0]))
    tensor([ 20.0000, -10.0500])
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    log_snr_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max < math.inf:
            raise ValueError(f"need 0 < beta_min <= beta_max, not {self.beta_min} and {self.beta_max}")
        if self.beta_min + self.beta_max > 60:
            raise ValueError(
                f"beta_min + beta_max must be at most 60 (λ(1) ≥ −30), not {self.beta_min + self.beta_max}"
            )
        check_range(self.log_snr_min, self.log_snr_max)

    @property
    def log_snr_min(self) -> float:
        """λ(1)."""
        return -math.log(math.expm1((self.beta_min + self.beta_max) / 2))

    @property
    def t_min(self) -> float:
        """The t at which the untruncated λ(t) is log_snr_max (2·10⁻⁸ for the default values)."""
        return float(self._t(torch.tensor(self.log_snr_max, dtype=torch.float64)))

    def log_snr(self, t: Tensor | float) -> Tensor:
        """Return λ(t) of t's shape."""
        t = as_tensor(t)
        integral = self.beta_min * t + (self.beta_max - self.beta_min) / 2 * t.square()
        return (-integral.expm1().log()).clamp(self.log_snr_min, self.log_snr_max)

    def t(self, log_snr: Tensor | float) -> Tensor:
        """Return the t at which λ(t) = log_snr, in [0, 1]; from log_snr_max on, 0."""
        log_snr = as_tensor(log_snr)
        return torch.where(log_snr < self.log_snr_max, self._t(log_snr).clamp(0, 1), 0.0)

    def log_slope(self, log_snr: Tensor | float) -> Tensor:
        """Return ln |dt/dλ| = ln σ² − ln β(t)."""
        log_snr = as_tensor(log_snr)
        return logsigmoid(-log_snr) - self._beta(log_snr).log()

    def _beta(self, log_snr: Tensor) -> Tensor:
        # β as a function of B = ln(1 + e^{−λ}): β² = β_min² + 2(β_max − β_min)·B.
        return (self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * softplus(-log_snr)).sqrt()

    def _t(self, log_snr: Tensor) -> Tensor:
        # The root of B(t) = softplus(−λ), in the form that does not cancel at small t.
        return 2 * softplus(-log_snr) / (self.beta_min + self._beta(log_snr))


@dataclass(frozen=True)
class LinearLogSNRSchedule:
    """λ falls linearly: λ(t) = λmax + t·(λmin − λmax) (Kingma et al. 2021, "Variational Diffusion Models", where it
    is learned). t uniform is λ uniform.

    >>> LinearLogSNRSchedule(-10.0, 10.0).log_snr(torch.tensor([0.0, 0.25]))
    tensor([10.,  5.])
    """

    log_snr_min: float = -20.0
    log_snr_max: float = 20.0
    t_min = 0.0

    def __post_init__(self) -> None:
        check_range(self.log_snr_min, self.log_snr_max)

    def log_snr(self, t: Tensor | float) -> Tensor:
        """Return λ(t) of t's shape."""
        t = as_tensor(t)
        return ((1 - t) * self.log_snr_max + t * self.log_snr_min).clamp(self.log_snr_min, self.log_snr_max)

    def t(self, log_snr: Tensor | float) -> Tensor:
        """Return the t at which λ(t) = log_snr, in [0, 1]; beyond the ends, the end."""
        return ((self.log_snr_max - as_tensor(log_snr)) / (self.log_snr_max - self.log_snr_min)).clamp(0, 1)

    def log_slope(self, log_snr: Tensor | float) -> Tensor:
        """Return ln |dt/dλ| = −ln(λmax − λmin)."""
        return torch.full_like(as_tensor(log_snr), -math.log(self.log_snr_max - self.log_snr_min))


@dataclass(frozen=True)
class DiscreteBetas:
    """The ladder of T discrete betas of DDPM and ADM, as a table of λ.

        λ_i = ln ᾱ_i − ln(1 − ᾱ_i),  ᾱ_i = ∏_{j ≤ i} (1 − β_j),  i = 0 … T − 1

    "linear": β from 0.1/T to 20/T (Ho et al. 2020 at T = 1000). "cosine": ᾱ(t) = cos²(π/2·(t + 0.008)/1.008) with β
    clipped at 0.999 (Nichol & Dhariwal 2021, eq. 17). As a schedule, t = i/(T − 1), linear in λ between the steps.

    >>> ladder = DiscreteBetas("linear", 1000)
    >>> ladder.log_snrs[[0, -1]]
    tensor([  9.2102, -10.1177], dtype=torch.float64)
    >>> float(ladder.step(ladder.log_snrs[250]))
    250.0
    """

    kind: Literal["linear", "cosine"] = "linear"
    steps: int = 1000
    t_min = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "cosine"):
            raise ValueError(f"kind must be 'linear' or 'cosine', not {self.kind!r}")
        # Below 21 steps the linear ladder's largest beta reaches 1.
        if self.steps < (21 if self.kind == "linear" else 2):
            raise ValueError(f"too few steps for a {self.kind} ladder: {self.steps}")
        if self.steps > 100_000:
            raise ValueError(f"a ladder has at most 100000 steps, not {self.steps}")

    @cached_property
    def betas(self) -> Tensor:
        """β_i, (T,) float64."""
        if self.kind == "linear":
            return torch.linspace(0.1 / self.steps, 20 / self.steps, self.steps, dtype=torch.float64)
        t = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        cumulative = ((t + 0.008) / 1.008 * math.pi / 2).cos().square()
        return (1 - cumulative[1:] / cumulative[:-1]).clamp(max=0.999)

    @cached_property
    def log_snrs(self) -> Tensor:
        """λ_i, (T,) float64, decreasing."""
        log_cumulative = (-self.betas).log1p().cumsum(0)
        return log_cumulative - (-log_cumulative.expm1()).log()

    @property
    def log_snr_min(self) -> float:
        """λ_{T−1}."""
        return float(self.log_snrs[-1])

    @property
    def log_snr_max(self) -> float:
        """λ_0."""
        return float(self.log_snrs[0])

    def step(self, log_snr: Tensor | float) -> Tensor:
        """Return the step number in [0, T − 1] that a network trained on this ladder is given at λ.

        A λ within 10⁻⁵ of λ_i is step i exactly; others are interpolated linearly in λ.
        """
        log_snr = as_tensor(log_snr)
        table = self.log_snrs.to(log_snr.device)
        level = log_snr.to(table.dtype).clamp(table[-1], table[0])
        left = self._segment(table, level)
        step = left + (table[left] - level) / (table[left] - table[left + 1])
        nearest = step.round()
        exact = (table[nearest.long()] - level).abs() < 1e-5
        return torch.where(exact, nearest, step).to(log_snr.dtype)

    def log_snr(self, t: Tensor | float) -> Tensor:
        """Return λ at step t·(T − 1), linear between the steps."""
        t = as_tensor(t)
        table = self.log_snrs.to(t.device)
        step = t.to(table.dtype).clamp(0, 1) * (self.steps - 1)
        left = step.long().clamp(max=self.steps - 2)
        return torch.lerp(table[left], table[left + 1], step - left).to(t.dtype)

    def t(self, log_snr: Tensor | float) -> Tensor:
        """Return step/(T − 1)."""
        return self.step(log_snr) / (self.steps - 1)

    def log_slope(self, log_snr: Tensor | float) -> Tensor:
        """Return ln |dt/dλ|, constant between two steps."""
        log_snr = as_tensor(log_snr)
        table = self.log_snrs.to(log_snr.device)
        left = self._segment(table, log_snr.to(table.dtype))
        return -((table[left] - table[left + 1]) * (self.steps - 1)).log().to(log_snr.dtype)

    def _segment(self, table: Tensor, level: Tensor) -> Tensor:
        # The table falls; searchsorted wants it to rise.
        return (torch.searchsorted(-table, -level, right=True) - 1).clamp(0, self.steps - 2)
