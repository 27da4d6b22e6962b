"""DDIM (Song, Meng & Ermon 2021): one family from the deterministic flow (η = 0) to ancestral sampling (η = 1)."""

import math
from dataclasses import dataclass

from torch import Tensor

from cascade.diffusion import Condition, Denoiser
from cascade.errors import CascadeError
from cascade.sampling.transition import Noise, transitions


@dataclass(frozen=True)
class DDIM:
    """x_s = αs x̂ + √(σs² − η²σs²(1−r)) ε̂ + ησs√(1−r) z, with ε̂ = (x_t − αt x̂)/σt and r = e^{λt−λs}.

    ε̂ is derived from the (guided, thresholded) x̂, never taken from the network. η in [0, 1]; with η = 0 no noise is
    drawn. DDIM with η = 1 reduces to Ancestral("small"). A step into λ = +inf returns x̂.

    Song, Meng & Ermon 2021, equations 12 and 16. Raises CascadeError for η outside [0, 1].

    >>> import torch; from cascade.diffusion import Condition
    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.ones(2), torch.zeros(2, 2))
    >>> grid = torch.tensor([-9.0, 0.0, torch.inf], dtype=torch.float64)
    >>> DDIM()(oracle, torch.randn(1, 2), grid, Condition(), lambda step, draw=0: torch.randn(1, 2))
    tensor([[1., 1.]])
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise CascadeError(f"eta={self.eta} must be between 0 and 1")

    def __call__(self, denoiser: Denoiser, x: Tensor, log_snrs: Tensor, condition: Condition, randn: Noise) -> Tensor:
        """Sample; one network call for each step, and one draw of noise when η > 0."""
        for step in transitions(log_snrs):
            mean = step.t.denoise(denoiser, x, condition).mean
            if step.ends_clean:
                return mean
            if self.eta == 0:
                x = step.flow(x, mean)
                continue
            # σs² − η²σs²(1−r) = σs²(1 − η² + η²r), which does not cancel at η = 1.
            eps_scale = step.s.sigma * math.sqrt(1 - self.eta**2 + self.eta**2 * step.r)
            noise_scale = self.eta * step.s.sigma * math.sqrt(step.one_minus_r)
            x = step.s.alpha * mean + eps_scale * step.t.eps(x, mean) + noise_scale * randn(step.index)
        return x
