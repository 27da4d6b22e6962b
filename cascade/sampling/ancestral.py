"""Ancestral sampling of DDPM (Ho et al. 2020), with four choices of the reverse variance."""

from dataclasses import dataclass

from torch import Tensor

from cascade.diffusion import Condition, Denoiser, Posterior
from cascade.diffusion.reverse import Variance, check_variance
from cascade.sampling.transition import Noise, Transition, transitions


@dataclass(frozen=True)
class Ancestral:
    """x_s ~ N((αs/αt) r x_t + αs(1−r) x̂, Σ), r = e^{λt−λs}: q(x_s | x_t, x) with x̂ in the place of x.

    Σ by `variance` is "small", "large", "learned" or "optimal": see `ReverseStep.spread`. A step into λ = +inf returns
    x̂, without noise.

    DDPM (Ho et al. 2020), equations 7 and 11. Raises CascadeError for another `variance`, and when the denoiser does
    not give what the variance is made of.

    >>> import torch; from cascade.diffusion import Condition
    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.ones(2), torch.zeros(2, 2))
    >>> grid = torch.tensor([-9.0, 0.0, torch.inf], dtype=torch.float64)
    >>> Ancestral("large")(oracle, torch.randn(1, 2), grid, Condition(), lambda step, draw=0: torch.randn(1, 2))
    tensor([[1., 1.]])
    """

    variance: Variance = "small"

    def __post_init__(self) -> None:
        check_variance(self.variance)

    def __call__(self, denoiser: Denoiser, x: Tensor, log_snrs: Tensor, condition: Condition, randn: Noise) -> Tensor:
        """Sample; one network call and one draw of noise for each step."""
        for step in transitions(log_snrs):
            posterior = step.t.denoise(denoiser, x, condition)
            if step.ends_clean:
                return posterior.mean
            x = self.mean(x, step, posterior) + self.scaled(randn(step.index), step, posterior)
        return x

    def mean(self, x: Tensor, step: Transition, posterior: Posterior) -> Tensor:
        """The mean of x_s, (αs/αt) r x_t + αs(1−r) x̂."""
        return step.reverse.mean(x, posterior.mean)

    def scaled(self, noise: Tensor, step: Transition, posterior: Posterior) -> Tensor:
        """√Σ · noise, √Σ the symmetric root."""
        return step.reverse.spread(self.variance, posterior).root(noise)
