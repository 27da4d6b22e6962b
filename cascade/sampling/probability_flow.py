"""The probability-flow ODE of Song et al. 2021, by Runge-Kutta methods in λ."""

from dataclasses import dataclass

from torch import Tensor

from cascade.diffusion import Condition, Denoiser
from cascade.diffusion.flow import ORDERS, flow_slope, runge_kutta_step
from cascade.sampling.transition import Noise, check_order, transitions


@dataclass(frozen=True)
class ProbabilityFlow:
    """dx/dλ = (α/2)(x̂ − αx) on x, by an explicit Runge-Kutta method in λ of `order` 1, 2, 4 or 5.

    Order 1 is Euler's method, 2 Heun's trapezoid, 4 the classical one, 5 Dormand and Prince's; a step makes 1, 2, 4 or
    6 network calls. It is the flow that DDIM, `Heun` and DPM-Solver follow too, but they solve a part of it exactly and
    this knows nothing of diffusion: it is the reference of the others, and the likelihood's integrator
    (`cascade.diffusion.log_likelihood`). Steps in λ must stay below 4 (order 4: 5.5, order 5: 6.6), or errors grow from
    step to step: use `uniform_log_snr` or `karras`. Where the slope does not depend on x, orders 1, 2 and 4 reduce to
    the left rectangle, the trapezoid and Simpson's rule in λ. A step into λ = +inf returns x̂. Deterministic.

    Song et al. 2021 (score SDE), section 4.3. Raises CascadeError for another order.

    >>> import torch; from cascade.diffusion import Condition
    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.ones(2), torch.zeros(2, 2))
    >>> grid = torch.tensor([-9.0, 0.0, torch.inf], dtype=torch.float64)
    >>> ProbabilityFlow()(oracle, torch.randn(1, 2), grid, Condition(), lambda step, draw=0: torch.randn(1, 2))
    tensor([[1., 1.]])
    """

    order: int = 4

    def __post_init__(self) -> None:
        check_order(self.order, ORDERS, "the probability flow")

    def __call__(self, denoiser: Denoiser, x: Tensor, log_snrs: Tensor, condition: Condition, randn: Noise) -> Tensor:  # noqa: ARG002
        """Sample; `randn` is not drawn from."""

        def slope(x_t: Tensor, log_snr: float) -> Tensor:
            return flow_slope(denoiser, x_t, log_snr, condition)

        for step in transitions(log_snrs):
            if step.ends_clean:
                return step.t.denoise(denoiser, x, condition).mean
            x = runge_kutta_step(slope, x, step.t.log_snr, step.s.log_snr, self.order)
        return x
