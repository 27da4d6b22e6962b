"""The reverse SDE of Song et al. 2021, by Euler and Maruyama."""

import math
from dataclasses import dataclass

from torch import Tensor

from cascade.diffusion import Condition, Denoiser
from cascade.sampling.transition import Noise, transitions


@dataclass(frozen=True)
class EulerMaruyama:
    """dx = σ²(x/2 + score) dλ + σ dw, in steps Δ = λs − λt: x_s = x_t + Δ(αt x̂ − x_t + σt² x_t/2) + σt √Δ z.

    σ²·score = αx̂ − x. Of weak order 1. A step differs from Ancestral's by O(Δ²) in its mean and in its variance, but
    Ancestral's bounds hold at any Δ and these do not: above Δ = 2 a step overshoots, and one of Δ = 14, as from λ = −20
    on `uniform_t`, is lost. It wants many steps of equal length in λ (`uniform_log_snr`). A step into λ = +inf returns
    x̂.

    Song et al. 2021 (score SDE), equation 6, on the variance-preserving process with λ as the clock.

    >>> import torch; from cascade.diffusion import Condition
    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.ones(2), torch.zeros(2, 2))
    >>> grid = torch.tensor([-9.0, 0.0, torch.inf], dtype=torch.float64)
    >>> EulerMaruyama()(oracle, torch.randn(1, 2), grid, Condition(), lambda step, draw=0: torch.randn(1, 2))
    tensor([[1., 1.]])
    """

    def __call__(self, denoiser: Denoiser, x: Tensor, log_snrs: Tensor, condition: Condition, randn: Noise) -> Tensor:
        """Sample; one network call and one draw of noise for each step."""
        for step in transitions(log_snrs):
            mean = step.t.denoise(denoiser, x, condition).mean
            if step.ends_clean:
                return mean
            length = step.s.log_snr - step.t.log_snr
            drift = step.t.alpha * mean - x + step.t.sigma**2 / 2 * x
            x = x + length * drift + step.t.sigma * math.sqrt(length) * randn(step.index)
        return x
