"""Langevin dynamics at one noise level, and annealed over levels (Song & Ermon 2019, NCSN)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from cascade.diffusion import Condition, Denoiser
from cascade.errors import CascadeError
from cascade.sampling.transition import Level, Noise, check_grid


def langevin_step(x: Tensor, mean: Tensor, level: Level, rate: float | Tensor, noise: Tensor) -> Tensor:
    """Return x + ρ(αx̂ − x) + σ√(2ρ) z, where the step in x̄ = x/α is η = ρ·σ_E², σ_E = e^{−λ/2}; ρ is `rate`.

    In x̄ it is x̄ + η s̄ + √(2η) z with the score s̄ = (x̂ − x̄)/σ_E². A tensor of rates, (B, 1, ..., 1), gives each image
    its own. Song & Ermon 2019, equation 4, whose ε is 2η.

    >>> x, mean = torch.tensor([[4.0]]), torch.tensor([[0.0]])
    >>> langevin_step(x, mean, Level(0.0), 0.5, torch.zeros(1, 1))
    tensor([[2.]])
    """
    spread = (2 * rate).sqrt() if isinstance(rate, Tensor) else math.sqrt(2 * rate)
    return x + rate * (level.alpha * mean - x) + level.sigma * spread * noise


def langevin_chain(
    denoiser: Denoiser,
    x: Tensor,
    log_snr: float,
    condition: Condition,
    randn: Noise,
    *,
    steps: int,
    step_size: float,
    index: int = 0,
) -> Tensor:
    """Run `steps` of Langevin dynamics at one level: x̄ ← x̄ + η s̄ + √(2η) z on x̄ = x/α, η = `step_size`; return x.

    Step k draws randn(index, draw=k). The chain is Euler-Maruyama's for a diffusion that leaves the density of x̄ at
    this level alone; on N(m, s²), s² = data + σ_E², its own stationary variance is s²/(1 − η/(2s²)), and it diverges
    from η = 2s² on. Song & Ermon 2019, equation 4.

    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.ones(1), torch.zeros(1, 1))
    >>> silent = lambda step, draw=0: torch.zeros(1, 1)
    >>> langevin_chain(oracle, torch.zeros(1, 1), 0.0, Condition(), silent, steps=2, step_size=0.5)  # (1 − ½²)·α
    tensor([[0.5303]])
    """
    level = Level(log_snr)
    rate = step_size / level.sigma_edm**2
    for draw in range(steps):
        mean = level.denoise(denoiser, x, condition).mean
        x = langevin_step(x, mean, level, rate, randn(index, draw))
    return x


_RATE = 0.1
"""ρ of the annealed chain, where the grid asks for no more."""


@dataclass(frozen=True)
class AnnealedLangevin:
    """`steps` of Langevin dynamics at every finite level of the grid, noisiest first; a change of level keeps x/α.

        x̄ ← x̄ + η_i s̄ + √(2η_i) z,  s̄ = (x̂ − x̄)/σ_i²,  η_i = η·σ_i²/σ_L²  on x̄ = x/α,  σ = e^{−λ/2}

    η is `step_size`, the step at the last finite level σ_L; ρ = η/σ_L², the part of the noise that a step takes away,
    is the same at all levels. The chain follows where K·ρ ≥ ln(σ_{i−1}/σ_i) at every change of level, K = `steps`, and
    for data without variance it is stable below ρ = 2. With `step_size` None ρ is 0.1, or twice what the longest change
    of level asks for, at most 1 (0.27 on `karras` of 18 steps): it holds on any grid, and one whose levels lie further
    apart than K steps of ρ = 1 can follow is refused. A step_size that is given is taken as it is.

    A grid that ends at λ = +inf returns x̂ of the last sample: N steps make N·K + 1 network calls, and the last noise
    goes (Jolicoeur-Martineau et al. 2021); one that ends at a finite level returns its sample there, with (N + 1)·K
    calls. Step k at level i draws randn(i, draw=k). On one level and +inf it reduces to `langevin_chain`, and x̂.

    Song & Ermon 2019 (NCSN), algorithm 1; their ε is 2η. Raises CascadeError for steps < 1, for step_size ≤ 0, for a
    grid whose levels lie too far apart, and when the chain diverges.

    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.ones(2), torch.zeros(2, 2))
    >>> grid = torch.tensor([-9.0, 0.0, torch.inf], dtype=torch.float64)
    >>> chain = AnnealedLangevin(steps=10, step_size=0.1)
    >>> chain(oracle, torch.randn(1, 2), grid, Condition(), lambda step, draw=0: torch.randn(1, 2))
    tensor([[1., 1.]])
    """

    steps: int = 10
    step_size: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise CascadeError(f"steps={self.steps} at each level must be a whole number, at least 1")
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise CascadeError(f"step_size={self.step_size} must be above 0 and finite")

    def __call__(self, denoiser: Denoiser, x: Tensor, log_snrs: Tensor, condition: Condition, randn: Noise) -> Tensor:
        """Sample; `steps` network calls and draws of noise at each level, and one call more to the clean picture."""
        levels = [Level(log_snr) for log_snr in check_grid(log_snrs).tolist() if log_snr < math.inf]
        last, rate = levels[-1], self.rate(levels)
        for index, level in enumerate(levels):
            if index > 0:
                x = level.alpha / levels[index - 1].alpha * x
            step_size = rate * level.sigma_edm**2
            x = langevin_chain(
                denoiser, x, level.log_snr, condition, randn, steps=self.steps, step_size=step_size, index=index
            )
        if not bool(torch.isfinite(x).all()):
            bound = 2 * last.sigma_edm**2
            given = rate * last.sigma_edm**2
            raise CascadeError(f"the chain diverged: step_size={given:g}; choose one below 2σ² = {bound:.2g}")
        return x if len(levels) == len(log_snrs) else last.denoise(denoiser, x, condition).mean

    def rate(self, levels: Sequence[Level]) -> float:
        """Return ρ = η_i/σ_i² on finite levels, noisiest first.

        >>> AnnealedLangevin(8).rate([Level(-4.0), Level(0.0)]), AnnealedLangevin(8).rate([Level(0.0)])
        (0.5, 0.1)
        """
        if self.step_size is not None:
            return self.step_size / levels[-1].sigma_edm ** 2
        change = max((s.log_snr - t.log_snr for t, s in pairwise(levels)), default=0.0) / 2
        if change > self.steps:
            raise CascadeError(
                f"{self.steps} Langevin steps at each level cannot follow a grid whose σ changes by e^{change:.1f}; "
                f"say steps={math.ceil(change)}, or take a grid of more levels"
            )
        return min(1.0, max(_RATE, 2 * change / self.steps))
