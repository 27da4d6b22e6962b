"""DPM-Solver++ (Lu et al. 2022b), multistep: an exponential integrator that extrapolates x̂ from earlier steps."""

from dataclasses import dataclass

from torch import Tensor

from cascade.diffusion import Condition, Denoiser
from cascade.sampling.transition import Noise, Transition, check_order, transitions

_Past = list[tuple[float, Tensor]]
"""(h, x̂) of the steps before, the latest last."""


@dataclass(frozen=True)
class DPMSolverPP:
    """x_s = (σs/σt) x_t + αs ∫₀ʰ e^{u−h} x̂ du, h = (λs−λt)/2, with x̂ a polynomial in u through this x̂ and those before.

    Order 1: x̂ is constant. Order 2 ("2M"): x̂ + (h/2h′)(x̂ − x̂′), the line through the last two in the middle of the
    step. Order 3 ("3M"): the parabola through the last three, integrated exactly. Until there are two of them, order 2
    takes a step of order 1. Order 3, which such a step would spoil, begins with DPMSolverPPSingle's of order 2 and goes
    on with one of 2M. Deterministic; one network call for each step, order 3 one more; a step into λ = +inf returns x̂.

    `published` (order 3 alone differs): the paper's third-order formula lacks a factor 2 in its second derivative, and
    the ports begin with a step of order 1, so that what is called 3M converges with order 2. True reproduces them.

    DPMSolverPP with order 1 reduces to DDIM with η = 0; any order reduces to it where x̂ is constant.

    Lu et al. 2022, "DPM-Solver++", algorithm 2; order 3 after their released code (their λ is half of ours). Raises
    CascadeError for another order.

    >>> import torch; from cascade.diffusion import Condition
    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.ones(2), torch.zeros(2, 2))
    >>> grid = torch.tensor([-9.0, 0.0, torch.inf], dtype=torch.float64)
    >>> DPMSolverPP()(oracle, torch.randn(1, 2), grid, Condition(), lambda step, draw=0: torch.randn(1, 2))
    tensor([[1., 1.]])
    """

    order: int = 2
    published: bool = False

    def __post_init__(self) -> None:
        check_order(self.order, (1, 2, 3), "DPM-Solver++")

    def __call__(self, denoiser: Denoiser, x: Tensor, log_snrs: Tensor, condition: Condition, randn: Noise) -> Tensor:  # noqa: ARG002
        """Sample; `randn` is not drawn from."""
        past: _Past = []
        for step in transitions(log_snrs):
            mean = step.t.denoise(denoiser, x, condition).mean
            if step.ends_clean:
                return mean
            if self.order == 3 and not past and not self.published:
                half = step.first_part(1 / 2)
                x = step.flow(x, half.s.denoise(denoiser, half.flow(x, mean), condition).mean)
            else:
                x = self._step(step, x, mean, past)
            past = [*past, (step.half_step, mean)][-2:]
        return x

    def _step(self, step: Transition, x: Tensor, mean: Tensor, past: _Past) -> Tensor:
        """The step with the highest order that the past allows."""
        if self.order == 1 or not past:
            return step.flow(x, mean)
        # Derivatives in u/h, so that the step has length 1. `slope` is the divided difference over the step before.
        half_step, mean_before = past[-1]
        before = half_step / step.half_step
        slope = (mean - mean_before) / before
        if self.order == 2 or len(past) == 1:
            return step.flow(x, mean + slope / 2)
        half_step, mean_long_before = past[-2]
        long_before = half_step / step.half_step
        second_difference = (slope - (mean_before - mean_long_before) / long_before) / (before + long_before)
        first = slope + before * second_difference
        second = second_difference if self.published else 2 * second_difference
        return step.flow(x, mean) + step.linear_weight * first + step.quadratic_weight * second
