"""EDM's sampler (Karras et al. 2022): Heun's method on the probability flow, with optional churn."""

import math
from dataclasses import dataclass

from torch import Tensor

from cascade.diffusion import Condition, Denoiser
from cascade.errors import CascadeError
from cascade.sampling.transition import Level, Noise, Transition, transitions

_GAMMA_MAX = math.sqrt(2) - 1


@dataclass(frozen=True)
class Heun:
    """The trapezoid in σ = e^{−λ/2} on x̄ = x/α, where the flow is dx̄/dσ = ε̂: x̄_s = x̄_t + (σs − σt)(ε̂_t + ε̂_s)/2.

    ε̂_s is read at Euler's point; a step into λ = +inf is Euler's and returns x̂, so N steps to +inf make 2N − 1 network
    calls. Where σ is in [`s_min`, `s_max`], each step first adds noise: γ = min(s_churn/N, √2 − 1), λ̂ = λ − 2 ln(1+γ),
    x ← (α̂/α) x + α̂ √(e^{−λ̂} − e^{−λ}) s_noise z. With s_churn = 0 nothing is drawn.

    Karras et al. 2022, algorithms 1 and 2; `s_min` and `s_max` are their σ. Raises CascadeError for negative numbers
    and for s_min > s_max.

    >>> import torch; from cascade.diffusion import Condition
    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.ones(2), torch.zeros(2, 2))
    >>> grid = torch.tensor([-9.0, 0.0, torch.inf], dtype=torch.float64)
    >>> Heun()(oracle, torch.randn(1, 2), grid, Condition(), lambda step, draw=0: torch.randn(1, 2))
    tensor([[1., 1.]])
    """

    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        for name, value in [("s_churn", self.s_churn), ("s_noise", self.s_noise)]:
            if not 0 <= value < math.inf:
                raise CascadeError(f"{name}={value} must be at least 0 and finite")
        if not 0 <= self.s_min <= self.s_max:
            raise CascadeError(f"s_min={self.s_min} and s_max={self.s_max} must satisfy 0 ≤ s_min ≤ s_max")

    def __call__(self, denoiser: Denoiser, x: Tensor, log_snrs: Tensor, condition: Condition, randn: Noise) -> Tensor:
        """Sample; two network calls for each step but a last one to +inf, and one draw of noise where it churns."""
        gamma = min(self.s_churn / (len(log_snrs) - 1), _GAMMA_MAX)
        for step in transitions(log_snrs):
            if gamma > 0 and self.s_min <= step.t.sigma_edm <= self.s_max:
                churned = Level(step.t.log_snr - 2 * math.log1p(gamma))
                added = step.t.sigma_edm * math.sqrt(gamma * (2 + gamma)) * self.s_noise
                x = churned.alpha / step.t.alpha * x + churned.alpha * added * randn(step.index)
                step = Transition(step.index, churned, step.s)
            mean = step.t.denoise(denoiser, x, condition).mean
            if step.ends_clean:
                return mean
            euler = step.flow(x, mean)
            change = step.s.eps(euler, step.s.denoise(denoiser, euler, condition).mean) - step.t.eps(x, mean)
            x = euler + step.s.alpha * (step.s.sigma_edm - step.t.sigma_edm) / 2 * change
        return x
