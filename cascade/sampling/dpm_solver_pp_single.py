"""DPM-Solver++ (Lu et al. 2022b), singlestep: an exponential integrator of x̂ that asks again inside each step."""

from dataclasses import dataclass

from torch import Tensor

from cascade.diffusion import Condition, Denoiser
from cascade.sampling.transition import Noise, check_order, transitions


@dataclass(frozen=True)
class DPMSolverPPSingle:
    """x_s = (σs/σt) x_t + αs ∫₀ʰ e^{u−h} x̂ du, h = (λs−λt)/2, with x̂ a constant or a line in u over the step.

    Order 1: x̂ at its start. Order 2 ("2S"): x̂ at h/2, reached by a step of order 1. Order 3 ("3S"): the line through
    x̂ at the start and at 2h/3, reached along the line through x̂ at the start and at h/3. A step makes as many network
    calls as its order, all inside it; a step into λ = +inf makes one and returns x̂. Deterministic, and it remembers
    nothing, so the steps may differ as they like.

    DPMSolverPPSingle with order 1 reduces to DDIM with η = 0; any order reduces to it where x̂ is constant.

    Lu et al. 2022, "DPM-Solver++", algorithm 1 with r = ½ (their λ is half of ours); order 3 is DPM-Solver's algorithm
    2 in x̂, r₁ = ⅓ and r₂ = ⅔. Raises CascadeError for another order.

    >>> import torch; from cascade.diffusion import Condition
    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.ones(2), torch.zeros(2, 2))
    >>> grid = torch.tensor([-9.0, 0.0, torch.inf], dtype=torch.float64)
    >>> DPMSolverPPSingle()(oracle, torch.randn(1, 2), grid, Condition(), lambda step, draw=0: torch.randn(1, 2))
    tensor([[1., 1.]])
    """

    order: int = 2

    def __post_init__(self) -> None:
        check_order(self.order, (1, 2, 3), "DPM-Solver++")

    def __call__(self, denoiser: Denoiser, x: Tensor, log_snrs: Tensor, condition: Condition, randn: Noise) -> Tensor:  # noqa: ARG002
        """Sample; `randn` is not drawn from."""
        for step in transitions(log_snrs):
            mean = step.t.denoise(denoiser, x, condition).mean
            if step.ends_clean:
                return mean
            if self.order == 2:
                half = step.first_part(1 / 2)
                there = step.flow(x, half.s.denoise(denoiser, half.flow(x, mean), condition).mean)
            else:
                there = step.flow(x, mean)
            if self.order == 3:
                third, two_thirds = step.first_part(1 / 3), step.first_part(2 / 3)
                change = third.s.denoise(denoiser, third.flow(x, mean), condition).mean - mean
                inner = two_thirds.flow(x, mean) + two_thirds.linear_weight * 2 * change
                change = two_thirds.s.denoise(denoiser, inner, condition).mean - mean
                there = there + step.linear_weight * 3 / 2 * change
            x = there
        return x
