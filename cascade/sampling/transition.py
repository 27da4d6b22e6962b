"""What every sampler shares: a checked grid cut into transitions, and the call of a denoiser at one level.

A sampler walks a grid of log-SNRs from noise to picture. Transition i goes from level t = grid[i] to the cleaner level
s = grid[i+1]; its scalars are Python floats computed in float64, so a float32 picture is multiplied by exact numbers.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from cascade.diffusion import Condition, Denoiser, Posterior, alpha_sigma
from cascade.diffusion.log_snr import working_dtype
from cascade.diffusion.reverse import ReverseStep
from cascade.errors import CascadeError


class Noise(Protocol):
    """Standard normal noise like x; a pure function of the step and of the draw within the step."""

    def __call__(self, step: int, draw: int = 0) -> Tensor: ...


class Sampler(Protocol):
    """x at the noise level log_snrs[0] → a sample at the level log_snrs[-1] (+inf: the clean picture).

    `log_snrs` is (N+1,) float64, strictly increasing, finite but for its last entry; `x` is (B, ...).
    """

    def __call__(
        self, denoiser: Denoiser, x: Tensor, log_snrs: Tensor, condition: Condition, randn: Noise
    ) -> Tensor: ...


@dataclass(frozen=True)
class Level:
    """One noise level: λ = ln(α²/σ²), α² = sigmoid(λ), σ² = sigmoid(−λ).

    >>> Level(0.0).sigma_edm
    1.0
    """

    log_snr: float

    @property
    def alpha(self) -> float:
        """α, the scale of the picture."""
        return alpha_sigma(self.log_snr)[0].item()

    @property
    def sigma(self) -> float:
        """σ, the scale of the noise; 0 at λ = +inf."""
        return alpha_sigma(self.log_snr)[1].item()

    @property
    def sigma_edm(self) -> float:
        """σ/α = e^{−λ/2}, the scale of the noise in x/α (EDM's σ)."""
        return math.exp(-self.log_snr / 2)

    def of_each(self, x: Tensor) -> Tensor:
        """This level for every image of x (B, ...): (B,) in x's dtype but at least float32."""
        return torch.full((len(x),), self.log_snr, dtype=working_dtype(x), device=x.device)

    def denoise(self, denoiser: Denoiser, x: Tensor, condition: Condition) -> Posterior:
        """Call `denoiser` with the whole batch at this level."""
        return denoiser(x, self.of_each(x), condition)

    def eps(self, x: Tensor, mean: Tensor) -> Tensor:
        """ε̂ = (x − αx̂)/σ, derived again from a mean that guidance and thresholding may have changed."""
        return (x - self.alpha * mean) / self.sigma


@dataclass(frozen=True)
class Transition:
    """Step `index` of a grid, from the noisier level `t` to the cleaner level `s`.

    >>> step = Transition(0, Level(-4.0), Level(0.0))
    >>> step.half_step, round(step.r, 4), step.ends_clean
    (2.0, 0.0183, False)
    """

    index: int
    t: Level
    s: Level

    @property
    def ends_clean(self) -> bool:
        """Whether s is λ = +inf: the step then returns x̂, without noise."""
        return self.s.log_snr == math.inf

    @property
    def reverse(self) -> ReverseStep:
        """q(x_s | x_t, x) of this step."""
        return ReverseStep(self.t.log_snr, self.s.log_snr)

    @property
    def r(self) -> float:
        """r = e^{λt−λs}, in [0, 1)."""
        return self.reverse.r.item()

    @property
    def one_minus_r(self) -> float:
        """1 − r, without cancellation on a short step."""
        return self.reverse.one_minus_r.item()

    @property
    def half_step(self) -> float:
        """h = (λs − λt)/2, the step in DPM-Solver's clock ln(α/σ)."""
        return (self.s.log_snr - self.t.log_snr) / 2

    def flow(self, x: Tensor, mean: Tensor) -> Tensor:
        """The exact flow of dx/dλ = (α/2)(x̂ − αx) from t to s under a constant x̂: (σs/σt) x + αs(1 − e^{−h}) x̂.

        It is DDIM's step αs x̂ + σs ε̂ with ε̂ = (x − αt x̂)/σt, and Euler's in σ = e^{−λ/2} on x/α.
        """
        return self.s.sigma / self.t.sigma * x - self.s.alpha * math.expm1(-self.half_step) * mean

    @property
    def linear_weight(self) -> float:
        """αs ∫₀ʰ e^{u−h} (u/h) du = αs(1 + (e^{−h} − 1)/h): what x̂ rising by 1 over the step adds to `flow`."""
        return self.s.alpha * (1 + math.expm1(-self.half_step) / self.half_step)

    @property
    def quadratic_weight(self) -> float:
        """αs ∫₀ʰ e^{u−h} (u/h)²/2 du = αs(½ − (h + e^{−h} − 1)/h²): the same for d²x̂/d(u/h)² = 1."""
        h = self.half_step
        return self.s.alpha * (0.5 - (h + math.expm1(-h)) / h**2)

    def first_part(self, fraction: float) -> "Transition":
        """The step from t to λt + fraction·(λs − λt); with a fraction in (0, 1) that level lies inside a finite grid.

        >>> Transition(0, Level(-4.0), Level(2.0)).first_part(0.5).s
        Level(log_snr=-1.0)
        """
        inner = self.t.log_snr + fraction * (self.s.log_snr - self.t.log_snr)
        return Transition(self.index, self.t, Level(inner))


def check_order(order: int, orders: Sequence[int], of: str) -> None:
    """Raise CascadeError unless the order is one of `orders`; `of` is what has them.

    >>> check_order(4, (1, 2, 3), "DPM-Solver")
    Traceback (most recent call last):
    cascade.errors.CascadeError: order=4 of DPM-Solver must be 1, 2 or 3
    """
    if isinstance(order, bool) or order not in orders:
        *others, last = map(str, orders)
        raise CascadeError(f"order={order} of {of} must be {', '.join(others)} or {last}")


def check_grid(log_snrs: Tensor) -> Tensor:
    """Return the grid if it is one: (N+1,) float64, N ≥ 1, strictly increasing, finite but for a last +inf.

    Raises CascadeError otherwise.

    >>> check_grid(torch.tensor([-4.0, 0.0, torch.inf], dtype=torch.float64)).tolist()
    [-4.0, 0.0, inf]
    """
    if log_snrs.ndim != 1 or len(log_snrs) < 2:
        raise CascadeError(f"a grid is one row of at least 2 log-SNRs, not of shape {tuple(log_snrs.shape)}")
    if log_snrs.dtype != torch.float64:
        raise CascadeError(f"a grid is float64, not {str(log_snrs.dtype).removeprefix('torch.')}")
    if not log_snrs[:-1].isfinite().all():
        raise CascadeError("a grid is finite but for its last entry, which may be +inf")
    if not (log_snrs.diff() > 0).all():
        raise CascadeError("a grid runs from noise to picture: its log-SNRs must be strictly increasing")
    return log_snrs


def transitions(log_snrs: Tensor) -> Iterator[Transition]:
    """Check a grid and cut it into its N transitions.

    >>> [step.half_step for step in transitions(torch.tensor([-4.0, 0.0, torch.inf], dtype=torch.float64))]
    [2.0, inf]
    """
    levels = [Level(log_snr) for log_snr in check_grid(log_snrs).tolist()]
    return (Transition(index, t, s) for index, (t, s) in enumerate(pairwise(levels)))
