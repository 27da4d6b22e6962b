"""DPM-Solver++ (Lu et al. 2022), multistep: an exponential integrator that extrapolates x̂ from earlier steps."""

from dataclasses import dataclass

from torch import Tensor

from cascade.diffusion import Condition, Denoiser
from cascade.errors import CascadeError
from cascade.sampling.transition import Noise, transitions


@dataclass(frozen=True)
class DPMSolverPP:
    """x_s = (σs/σt) x_t + αs(1 − e^{−h}) D, h = (λs−λt)/2.

    Order 1: D = x̂. Order 2 ("2M"): D = x̂ + (h/2h′)(x̂ − x̂′), the line through this x̂ and the one before it, h′ and x̂′
    of the step before; the first step is of order 1. A step into λ = +inf returns x̂. Deterministic, one network call
    for each step. DPMSolverPP with order 1 reduces to DDIM with η = 0.

    Lu et al. 2022, "DPM-Solver++", algorithm 2 (their λ is half of ours). Raises CascadeError for another order.

    >>> import torch; from cascade.diffusion import Condition
    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.ones(2), torch.zeros(2, 2))
    >>> grid = torch.tensor([-9.0, 0.0, torch.inf], dtype=torch.float64)
    >>> DPMSolverPP()(oracle, torch.randn(1, 2), grid, Condition(), lambda step, draw=0: torch.randn(1, 2))
    tensor([[1., 1.]])
    """

    order: int = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise CascadeError(f"order={self.order} of DPM-Solver++ must be 1 or 2")

    def __call__(self, denoiser: Denoiser, x: Tensor, log_snrs: Tensor, condition: Condition, randn: Noise) -> Tensor:  # noqa: ARG002
        """Sample; `randn` is not drawn from."""
        before: tuple[float, Tensor] | None = None
        for step in transitions(log_snrs):
            mean = step.t.denoise(denoiser, x, condition).mean
            if step.ends_clean:
                return mean
            extrapolated = mean
            if self.order == 2 and before is not None:
                half_step_before, mean_before = before
                extrapolated = mean + step.half_step / (2 * half_step_before) * (mean - mean_before)
            x = step.flow(x, extrapolated)
            before = step.half_step, mean
        return x
