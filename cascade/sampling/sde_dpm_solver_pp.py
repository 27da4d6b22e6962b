"""SDE-DPM-Solver++ (Lu et al. 2022b), multistep: DPM-Solver++ with fresh noise in each step."""

import math
from dataclasses import dataclass

from torch import Tensor

from cascade.diffusion import Condition, Denoiser
from cascade.errors import CascadeError
from cascade.sampling.transition import Noise, check_order, transitions

_MOST_ETA = 100
"""Far beyond what keeps anything of x_t in a step of a usual grid: more is a slip of the pen."""


@dataclass(frozen=True)
class SDEDPMSolverPP:
    """x_s = (σs/σt) e^{−ηh} x_t + αs(1 − e^{−(1+η)h}) D + σs √(1 − e^{−2ηh}) z, h = (λs−λt)/2.

    Order 1: D = x̂. Order 2 ("2M"): D = x̂ + (h/2h′)(x̂ − x̂′), h′ and x̂′ of the step before; the first step is of order
    1. These are the weak orders: those of the output's distribution, not of its path. What is solved is the reverse SDE
    whose noise has η times the variance: η = 1 is the paper's, η = 0 the probability flow. η ≥ 0; with η = 0 nothing is
    drawn. One network call for each step; a step into λ = +inf returns x̂, without noise.

    SDEDPMSolverPP with η = 0 reduces to DPMSolverPP of the same order. With order 1 and η = 1 it reduces to DDIM with
    η = 1, and so to Ancestral("small"); between 0 and 1 the two η count differently.

    Lu et al. 2022, "DPM-Solver++", the solvers of SDEs (their λ is half of ours); η as in k-diffusion and, as τ², in
    Xue et al. 2023 (SA-Solver). Raises CascadeError for another order and for an η that is negative or above 100.

    >>> import torch; from cascade.diffusion import Condition
    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.ones(2), torch.zeros(2, 2))
    >>> grid = torch.tensor([-9.0, 0.0, torch.inf], dtype=torch.float64)
    >>> SDEDPMSolverPP()(oracle, torch.randn(1, 2), grid, Condition(), lambda step, draw=0: torch.randn(1, 2))
    tensor([[1., 1.]])
    """

    order: int = 2
    eta: float = 1.0

    def __post_init__(self) -> None:
        check_order(self.order, (1, 2), "SDE-DPM-Solver++")
        if not 0 <= self.eta <= _MOST_ETA:
            raise CascadeError(f"eta={self.eta} must be from 0 to {_MOST_ETA}")

    def __call__(self, denoiser: Denoiser, x: Tensor, log_snrs: Tensor, condition: Condition, randn: Noise) -> Tensor:
        """Sample; one network call for each step, and one draw of noise when η > 0."""
        before: tuple[float, Tensor] | None = None
        for step in transitions(log_snrs):
            mean = step.t.denoise(denoiser, x, condition).mean
            if step.ends_clean:
                return mean
            extrapolated = mean
            if self.order == 2 and before is not None:
                half_step_before, mean_before = before
                extrapolated = mean + step.half_step / (2 * half_step_before) * (mean - mean_before)
            before = step.half_step, mean
            noised = self.eta * step.half_step
            x = step.s.sigma / step.t.sigma * math.exp(-noised) * x
            x = x - step.s.alpha * math.expm1(-step.half_step - noised) * extrapolated
            if self.eta > 0:
                x = x + step.s.sigma * math.sqrt(-math.expm1(-2 * noised)) * randn(step.index)
        return x
