"""Conditioning augmentation: noise (and blur) on the low-resolution picture that a super-resolution stage is given.

Ho et al., "Cascaded Diffusion Models" (2022), section 4; Saharia et al., "Imagen" (2022), section 2.5. Each training
image has its own level, the network is told it as a log-SNR, and sampling chooses one inside the trained range.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cascade.diffusion.log_snr import alpha_sigma, over
from cascade.diffusion.schedule import as_tensor, check_range
from cascade.errors import CascadeError
from cascade.trained_levels import untrained

CLEAN = math.inf
"""The level of a picture without augmentation, as a log-SNR."""


class Augmentation(Protocol):
    """What training and sampling need. `default` is the level of sampling unless another is asked for."""

    default: float

    def level(self, u: Tensor) -> Tensor: ...
    def apply(self, low_res: Tensor, aug_log_snr: Tensor, eps: Tensor) -> Tensor: ...
    def check(self, aug_log_snr: Tensor | float) -> None: ...
    def blur_sigma(self, u_apply: Tensor, u_sigma: Tensor) -> Tensor: ...
    def blur(self, low_res: Tensor, sigma: Tensor) -> Tensor: ...


def augment(low_res: Tensor, aug_log_snr: Tensor, eps: Tensor) -> Tensor:
    """Return α_a·low + σ_a·ε for low, ε (B, 3, h, w) and λ_a (B,); +inf leaves an image as it is, bit for bit.

    >>> low, eps = torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    >>> augment(low, torch.tensor([0.0, CLEAN]), eps)[:, 0, 0, 0]
    tensor([0.7071, 1.0000])
    """
    level = over(aug_log_snr, low_res)
    alpha, sigma = alpha_sigma(level)
    return torch.where(level == CLEAN, low_res, alpha * low_res + sigma * eps)


@dataclass(frozen=True)
class NoAugmentation:
    """The identity: every level is +inf, and the low-res picture stays as it is.

    >>> NoAugmentation().level(torch.tensor([0.3]))
    tensor([inf])
    """

    default = CLEAN

    def level(self, u: Tensor) -> Tensor:
        """Return +inf for each u."""
        return torch.full_like(u, CLEAN)

    def apply(self, low_res: Tensor, aug_log_snr: Tensor, eps: Tensor) -> Tensor:  # noqa: ARG002
        """Return the low-res picture."""
        self.check(aug_log_snr)
        return low_res

    def check(self, aug_log_snr: Tensor | float) -> None:
        """Raise CascadeError unless every level is +inf."""
        if not bool((as_tensor(aug_log_snr) == CLEAN).all()):
            raise CascadeError("the stage was trained without augmentation: its only level is inf (clean)")

    def blur_sigma(self, u_apply: Tensor, u_sigma: Tensor) -> Tensor:  # noqa: ARG002
        """Return 0 (no blur) for each image."""
        return torch.zeros_like(u_sigma)

    def blur(self, low_res: Tensor, sigma: Tensor) -> Tensor:  # noqa: ARG002
        """Return the low-res picture."""
        return low_res


@dataclass(frozen=True)
class GaussianAugmentation:
    """Gaussian noise at a random level, uniform in λ over the trained range, and optionally a Gaussian blur.

    default           the level used at sampling unless another is asked for
    blur_probability  share of the images that are blurred, σ ~ U(blur_sigma_min, blur_sigma_max) pixels
    include_clean     share of the training images that keep level +inf; only with it may sampling ask for +inf

    >>> augmentation = GaussianAugmentation(-2.0, 6.0, default=3.0)
    >>> augmentation.level(torch.tensor([0.0, 0.5, 1.0]))
    tensor([-2.,  2.,  6.])
    >>> augmentation.check(7.0)
    Traceback (most recent call last):
    cascade.errors.CascadeError: augmentation level 7 was not trained; choose a log-SNR from -2 to 6: ...
    """

    log_snr_min: float
    log_snr_max: float
    default: float
    blur_probability: float = 0.0
    blur_sigma_min: float = 0.4
    blur_sigma_max: float = 0.6
    include_clean: float = 0.0

    def __post_init__(self) -> None:
        check_range(self.log_snr_min, self.log_snr_max)
        for name in ("blur_probability", "include_clean"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], not {getattr(self, name)}")
        if not 0 < self.blur_sigma_min <= self.blur_sigma_max < math.inf:
            raise ValueError(
                f"need 0 < blur_sigma_min <= blur_sigma_max, not {self.blur_sigma_min} and {self.blur_sigma_max}"
            )
        try:
            self.check(self.default)
        except CascadeError as error:
            raise ValueError(f"default: {error}") from error

    def level(self, u: Tensor) -> Tensor:
        """Return λ_a for uniform u ∈ [0, 1]: the first `include_clean` of it is +inf, the rest covers the range."""
        rest = (u - self.include_clean) / (1 - self.include_clean) if self.include_clean < 1 else torch.zeros_like(u)
        level = self.log_snr_min + (self.log_snr_max - self.log_snr_min) * rest
        return torch.where(u < self.include_clean, CLEAN, level.clamp(self.log_snr_min, self.log_snr_max))

    def apply(self, low_res: Tensor, aug_log_snr: Tensor, eps: Tensor) -> Tensor:
        """Return α_a·low + σ_a·ε; +inf leaves an image as it is, bit for bit. The range is not checked here."""
        return augment(low_res, aug_log_snr, eps)

    def check(self, aug_log_snr: Tensor | float) -> None:
        """Raise CascadeError if a level lies outside the trained range."""
        level = as_tensor(aug_log_snr)
        trained = (level >= self.log_snr_min) & (level <= self.log_snr_max)
        if self.include_clean > 0:
            trained |= level == CLEAN
        if not bool(trained.all()):
            worst = float(level[~trained].flatten()[0])
            raise untrained(worst, self.log_snr_min, self.log_snr_max, clean=self.include_clean > 0)

    def blur_sigma(self, u_apply: Tensor, u_sigma: Tensor) -> Tensor:
        """Return the blur of each image in pixels, 0 = none, from two uniform numbers each in [0, 1)."""
        sigma = self.blur_sigma_min + (self.blur_sigma_max - self.blur_sigma_min) * u_sigma
        return torch.where(u_apply < self.blur_probability, sigma, 0.0)

    def blur(self, low_res: Tensor, sigma: Tensor) -> Tensor:
        """Return the pictures (B, 3, h, w) blurred by a 3×3 Gaussian of σ (B,) pixels, reflected at the border.

        σ = 0 leaves an image as it is, bit for bit. (CDM, section 4.2; kernel of 3 as there.)
        """
        if not bool((sigma > 0).any()):
            return low_res
        # kornia takes seconds to import, and most trainings never blur.
        from kornia.filters import gaussian_blur2d

        sharp = sigma.to(low_res) <= 0
        safe = torch.where(sharp, 1.0, sigma.to(low_res))
        blurred = gaussian_blur2d(low_res, (3, 3), safe[:, None].expand(-1, 2), border_type="reflect")
        return torch.where(sharp[:, None, None, None], low_res, blurred)
