"""Preconditioning of networks that are told a step number: those of DDPM and ADM."""

from torch import Tensor, nn

from cascade.diffusion.preconditioning import EpsPreconditioning
from cascade.diffusion.schedule import DiscreteBetas


class StepEpsPreconditioning(EpsPreconditioning):
    """The network predicts the noise and is told the step of the ladder `betas`: x̂ = (x_t − σ·F(x_t, i(λ)))/α.

    i(λ) is the index where λ = λ_i to 10⁻⁵, and between two steps linear in λ (`DiscreteBetas.step`); `rescale` makes
    it i·1000/T, ADM's "rescale_timesteps". Ho et al. 2020, equations 11 and 15.

    >>> import torch; from cascade.diffusion import Condition
    >>> told = lambda x, step, **condition: step[:, None].expand_as(x)
    >>> ladder = DiscreteBetas("linear", 1000)
    >>> level = ladder.log_snrs[[250]].float()
    >>> posterior = StepEpsPreconditioning(told, ladder)(torch.zeros(1, 1), level, Condition())
    >>> bool((posterior.mean * level.sigmoid().sqrt() / (-level).sigmoid().sqrt()).isclose(torch.tensor(-250.0)))
    True
    """

    def __init__(
        self, network: nn.Module, betas: DiscreteBetas, rescale: bool = False, learn_variance: bool = False
    ) -> None:
        super().__init__(network, learn_variance)
        if not isinstance(betas, DiscreteBetas):
            raise ValueError(f"betas must be discrete_betas, not {type(betas).__name__}")
        self.betas, self.scale = betas, 1000 / betas.steps if rescale else 1.0

    def _clock(self, log_snr: Tensor) -> Tensor:
        return self.betas.step(log_snr) * self.scale
