"""Preconditionings: how a network's output is read as a posterior mean. eps, v, x0 and EDM's F live here and only here.

Each calls `network(x_in, log_snr, label=, low_res=, aug_log_snr=, augment=)` with λ (B,) in x's dtype (at least
float32) and casts the output to float32 or better before any arithmetic. With `learn_variance` the network has twice
the channels: beside F it gives v, whose f = (v + 1)/2 is the posterior's `variance_fraction`, unclamped (Nichol &
Dhariwal 2021, equation 15, "ADM"); `loss=hybrid` trains it.
"""

import math

from torch import Tensor, nn

from cascade.diffusion.condition import Condition
from cascade.diffusion.denoiser import Posterior
from cascade.diffusion.log_snr import alpha_sigma, over, per_image, working_dtype
from cascade.errors import CascadeError


class _Preconditioning(nn.Module):
    def __init__(self, network: nn.Module, learn_variance: bool = False) -> None:
        super().__init__()
        self.network = network
        self.learn_variance = learn_variance

    def _clock(self, log_snr: Tensor) -> Tensor:
        """What the network is told of the noise level, (B,): λ itself."""
        return log_snr

    def _output(self, x_in: Tensor, log_snr: Tensor, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """F and the variance fraction (None: it is not learned), each of x_in's shape."""
        output = self.network(
            x_in,
            self._clock(per_image(log_snr, x_in)),
            label=condition.label,
            low_res=condition.low_res,
            aug_log_snr=condition.aug_log_snr,
            augment=condition.augment,
        )
        output = output.to(working_dtype(output))
        if not self.learn_variance:
            return output, None
        if output.shape[1] != 2 * x_in.shape[1]:
            raise CascadeError(
                f"learn_variance needs a network of {2 * x_in.shape[1]} output channels, not {output.shape[1]}"
            )
        output, variance = output.chunk(2, dim=1)
        return output, (variance + 1) / 2


class EpsPreconditioning(_Preconditioning):
    """The network predicts the noise: x̂ = (x_t − σ·F)/α (Ho et al. 2020, eq. 15).

    At λ = −20 an error of F is multiplied by 2·10⁴: prefer v or EDM where the level of pure noise matters.

    >>> import torch
    >>> zero = lambda x, log_snr, **condition: torch.zeros_like(x)
    >>> x_t, level = torch.ones(1, 3, 2, 2), torch.zeros(1)
    >>> EpsPreconditioning(zero)(x_t, level, Condition()).mean[0, 0, 0, 0]
    tensor(1.4142)
    """

    def forward(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        """Return the posterior of x_t (B, C, H, W) at λ (B,)."""
        alpha, sigma = alpha_sigma(over(log_snr, x_t))
        output, fraction = self._output(x_t, log_snr, condition)
        return Posterior((x_t - sigma * output) / alpha, variance_fraction=fraction)


class VPreconditioning(_Preconditioning):
    """The network predicts v = α·ε − σ·x: x̂ = α·x_t − σ·F (Salimans & Ho 2022, section 4).

    >>> import torch
    >>> zero = lambda x, log_snr, **condition: torch.zeros_like(x)
    >>> x_t, level = torch.ones(1, 3, 2, 2), torch.zeros(1)
    >>> VPreconditioning(zero)(x_t, level, Condition()).mean[0, 0, 0, 0]
    tensor(0.7071)
    """

    def forward(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        """Return the posterior of x_t (B, C, H, W) at λ (B,)."""
        alpha, sigma = alpha_sigma(over(log_snr, x_t))
        output, fraction = self._output(x_t, log_snr, condition)
        return Posterior(alpha * x_t - sigma * output, variance_fraction=fraction)


class X0Preconditioning(_Preconditioning):
    """The network predicts the image: x̂ = F.

    >>> import torch
    >>> zero = lambda x, log_snr, **condition: torch.zeros_like(x)
    >>> x_t, level = torch.ones(1, 3, 2, 2), torch.zeros(1)
    >>> X0Preconditioning(zero)(x_t, level, Condition()).mean[0, 0, 0, 0]
    tensor(0.)
    """

    def forward(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        """Return the posterior of x_t (B, C, H, W) at λ (B,)."""
        output, fraction = self._output(x_t, log_snr, condition)
        return Posterior(output, variance_fraction=fraction)


class EDMPreconditioning(_Preconditioning):
    """EDM's preconditioning (Karras et al. 2022, eq. 7 and table 1) in the variance-preserving currency.

        x̂ = α·σ_d²/n² · x_t + σ·σ_d/n · F(x_t/n),  n² = σ² + α²·σ_d²

    n is the standard deviation of x_t for data of standard deviation σ_d, so input and target of F have unit variance.
    With σ_EDM = e^{−λ/2} and x_EDM = x_t/α these are the paper's c_skip, c_out and c_in; every coefficient stays
    bounded at λ = ±20. At σ_d = 1 this is v-prediction with F = −v.

    >>> import torch
    >>> zero = lambda x, log_snr, **condition: torch.zeros_like(x)
    >>> x_t, level = torch.ones(1, 3, 2, 2), torch.zeros(1)
    >>> EDMPreconditioning(zero, sigma_data=0.5)(x_t, level, Condition()).mean[0, 0, 0, 0]
    tensor(0.2828)
    """

    def __init__(self, network: nn.Module, sigma_data: float = 0.5, learn_variance: bool = False) -> None:
        super().__init__(network, learn_variance)
        if not 0 < sigma_data < math.inf:
            raise ValueError(f"sigma_data must be positive, not {sigma_data}")
        self.sigma_data = sigma_data

    def forward(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        """Return the posterior of x_t (B, C, H, W) at λ (B,)."""
        return self._scaled(x_t, over(log_snr, x_t), self.sigma_data**2, condition)

    def _scaled(self, x_t: Tensor, level: Tensor, variance: Tensor | float, condition: Condition) -> Posterior:
        """The posterior for data of that variance σ_d²; `level` and it are broadcast over x_t."""
        alpha, sigma = alpha_sigma(level)
        square = (-level).sigmoid() + level.sigmoid() * variance
        norm = square.sqrt()
        output, fraction = self._output((x_t / norm).to(x_t.dtype), level.flatten(), condition)
        mean = alpha * variance / square * x_t + sigma * variance**0.5 / norm * output
        return Posterior(mean, variance_fraction=fraction)
