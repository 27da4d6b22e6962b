"""DPM-Solver (Lu et al. 2022a), singlestep: an exponential integrator of ε̂ that asks again inside each step."""

import math
from dataclasses import dataclass

from torch import Tensor

from cascade.diffusion import Condition, Denoiser
from cascade.sampling.transition import Noise, Transition, check_order, transitions


@dataclass(frozen=True)
class DPMSolver:
    """x_s = (αs/αt) x_t − σs ∫₀ʰ e^{h−u} ε̂ du, h = (λs−λt)/2, with ε̂ a constant or a line in u over the step.

    Order 1: ε̂ at its start. Order 2: ε̂ at h/2, reached by a step of order 1. Order 3: the line through ε̂ at the start
    and at 2h/3, reached along the line through ε̂ at the start and at h/3. A step makes as many network calls as its
    order, all inside it; a step into λ = +inf makes one and returns x̂. ε̂ = (x − αx̂)/σ is derived from the (guided,
    thresholded) x̂. Deterministic.

    DPMSolver with order 1 reduces to DDIM with η = 0; any order reduces to it where x̂ is constant. Under strong
    guidance or from very low λ use DPMSolverPPSingle, of the same orders in x̂.

    Lu et al. 2022, "DPM-Solver", equation 3.7 and algorithms 1 (r₁ = ½) and 2 (r₁ = ⅓, r₂ = ⅔); their λ is half of
    ours. Raises CascadeError for another order.

    >>> import torch; from cascade.diffusion import Condition
    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.ones(2), torch.zeros(2, 2))
    >>> grid = torch.tensor([-9.0, 0.0, torch.inf], dtype=torch.float64)
    >>> DPMSolver(2)(oracle, torch.randn(1, 2), grid, Condition(), lambda step, draw=0: torch.randn(1, 2))
    tensor([[1., 1.]])
    """

    order: int = 2

    def __post_init__(self) -> None:
        check_order(self.order, (1, 2, 3), "DPM-Solver")

    def __call__(self, denoiser: Denoiser, x: Tensor, log_snrs: Tensor, condition: Condition, randn: Noise) -> Tensor:  # noqa: ARG002
        """Sample; `randn` is not drawn from."""
        for step in transitions(log_snrs):
            mean = step.t.denoise(denoiser, x, condition).mean
            if step.ends_clean:
                return mean
            # ε̂ constant over the step; what follows adds how it changes. Where x has gone along a constant ε̂, ε̂ changes
            # by −α/σ times what x̂ does. So at very low λ, where ε̂ is all but x itself, no digits are lost.
            there = step.flow(x, mean)
            if self.order == 2:
                half = step.first_part(1 / 2)
                change = (mean - half.s.denoise(denoiser, half.flow(x, mean), condition).mean) / half.s.sigma_edm
                there = there + _constant_weight(step) * change
            elif self.order == 3:
                third, two_thirds = step.first_part(1 / 3), step.first_part(2 / 3)
                change = (mean - third.s.denoise(denoiser, third.flow(x, mean), condition).mean) / third.s.sigma_edm
                bend = _linear_weight(two_thirds) * 2 * change
                inner = two_thirds.s.denoise(denoiser, two_thirds.flow(x, mean) + bend, condition).mean
                change = (mean - inner) / two_thirds.s.sigma_edm + bend / two_thirds.s.sigma
                there = there + _linear_weight(step) * 3 / 2 * change
            x = there
        return x


def _constant_weight(step: Transition) -> float:
    """−σs ∫₀ʰ e^{h−u} du: what ε̂ larger by 1 adds to x_s."""
    return -step.s.sigma * math.expm1(step.half_step)


def _linear_weight(step: Transition) -> float:
    """−σs ∫₀ʰ e^{h−u} (u/h) du: what ε̂ rising by 1 over the step adds to x_s."""
    return -step.s.sigma * (math.expm1(step.half_step) / step.half_step - 1)
