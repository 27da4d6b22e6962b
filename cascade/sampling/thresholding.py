"""Thresholding: keeping x̂ in the range of pictures, outside any guidance. Only the mean of the posterior changes."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cascade.diffusion import Condition, Denoiser, Posterior
from cascade.errors import CascadeError


@dataclass(frozen=True)
class NoThreshold:
    """The identity: x̂ as it is.

    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.tensor([-4.0, 0.5]), torch.zeros(2, 2))
    >>> NoThreshold(oracle)(torch.zeros(1, 2), torch.zeros(1), Condition()).mean
    tensor([[-4.0000,  0.5000]])
    """

    denoiser: Denoiser

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        """The posterior of the denoiser itself."""
        return self.denoiser(x_t, log_snr, condition)


@dataclass(frozen=True)
class StaticThreshold:
    """x̂ clamped to [−1, 1].

    Saharia et al. 2022 (Imagen), section 2.3 and figure A.10.

    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.tensor([-4.0, 0.5]), torch.zeros(2, 2))
    >>> StaticThreshold(oracle)(torch.zeros(1, 2), torch.zeros(1), Condition()).mean
    tensor([[-1.0000,  0.5000]])
    """

    denoiser: Denoiser

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        """The denoiser's posterior with a clamped mean."""
        posterior = self.denoiser(x_t, log_snr, condition)
        return replace(posterior, mean=posterior.mean.clamp(-1, 1))


@dataclass(frozen=True)
class DynamicThreshold:
    """x̂ clamped to [−s, s] and divided by s = max(1, `percentile` of |x̂| over all pixels and channels of an image).

    Each image has its own s; one that lies inside [−1, 1] is left alone, bit for bit. `percentile` is a fraction in
    (0, 1], interpolated linearly between order statistics. It looks at whole pictures, so it sits outside any tiling.

    Saharia et al. 2022 (Imagen), section 2.3 and figure A.10. Raises CascadeError for another percentile.

    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.tensor([-4.0, 1.0, 2.0]), torch.zeros(3, 3))
    >>> DynamicThreshold(oracle, percentile=0.5)(torch.zeros(1, 3), torch.zeros(1), Condition()).mean
    tensor([[-1.0000,  0.5000,  1.0000]])
    """

    denoiser: Denoiser
    percentile: float = 0.995

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 1:
            raise CascadeError(f"a percentile is a fraction above 0 and at most 1, like 0.995, not {self.percentile}")

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        """The denoiser's posterior with a thresholded mean."""
        posterior = self.denoiser(x_t, log_snr, condition)
        mean = posterior.mean
        # Over all pixels and channels of an image, kept as (B, 1, ..., 1).
        quantiles = torch.quantile(mean.abs().flatten(1), self.percentile, dim=1)
        s = quantiles.clamp_min(1).reshape(-1, *[1] * (mean.ndim - 1))
        return replace(posterior, mean=mean.clamp(-s, s) / s)
