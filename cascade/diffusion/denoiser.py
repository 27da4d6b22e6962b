"""The currency: what every denoiser returns, and how every denoiser is called."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from cascade.diffusion.condition import Condition


@dataclass(frozen=True, eq=False)
class Posterior:
    """What is known of p(x | x_t): its mean, and for some denoisers more.

    mean               x̂ = E[x | x_t], of x_t's shape (B, ...), at least float32. All that samplers, guidance,
                       thresholding and metrics see.
    covariance         Cov[x | x_t], (B, D, D) with D = C·H·W; exact oracles alone give it. Read by the ancestral
                       sampler ("optimal") and by the ELBO.
    variance_fraction  ADM's learned f = (v + 1)/2, of x_t's shape, unclamped; it lies between the two variances of an
                       ancestral step (`ReverseStep.spread`), so it means something only for a pair of levels.
    log_uncertainty    EDM2's u(λ), (B,); read by the loss alone.

    >>> import torch
    >>> Posterior(torch.zeros(1, 3, 4, 4)).covariance is None
    True
    """

    mean: Tensor
    covariance: Tensor | None = None
    variance_fraction: Tensor | None = None
    log_uncertainty: Tensor | None = None


@runtime_checkable
class Denoiser(Protocol):
    """Whatever maps x_t (B, ...), λ (B,) and a Condition to a Posterior.

    A denoiser owns no schedule. It is never called at λ = ±inf.
    """

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior: ...
