"""Does a super-resolved picture still agree with the small picture it was made from?"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.data.degradation import from_uint8, shrink, to_uint8
from cascade.errors import CascadeError


@dataclass(frozen=True)
class Consistency:
    """Agreement of shrunk outputs with their low-res inputs.

    `rms` (B,) and `shift` (B, 3) are float64 in levels of 255: the root mean square of the difference, and its mean
    for each colour (positive: the output is brighter).

    >>> Consistency(torch.tensor([2.55]), torch.zeros(1, 3)).psnr  # in decibels: 20 lg(255/2.55)
    tensor([40.])
    """

    rms: Tensor
    shift: Tensor

    @property
    def psnr(self) -> Tensor:
        """20·log₁₀(255 / rms) in dB, (B,); +inf where the two are equal."""
        return 20 * torch.log10(255 / self.rms)


def low_res_consistency(images: Tensor, low_res: Tensor) -> Consistency:
    """Shrink uint8 `images` (B, 3, R, R) to the size of uint8 `low_res` (B, 3, r, r) and compare, picture by picture.

    The shrinking is the one of training (`cascade.data.degradation`), so a picture and its own low-res version agree
    exactly. Raises CascadeError for other types, another number of pictures, or a low-res picture that is the larger.

    >>> grey = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    >>> result = low_res_consistency(grey, grey[..., :2, :2] + 4)
    >>> result.rms.item(), result.shift[0].tolist(), round(result.psnr.item(), 1)
    (4.0, [-4.0, -4.0, -4.0], 36.1)
    """
    for pictures in (images, low_res):
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3:
            raise CascadeError(f"expected uint8 pictures (B, 3, H, W), not {pictures.dtype} {tuple(pictures.shape)}")
    if len(images) != len(low_res):
        raise CascadeError(f"{len(images)} pictures cannot be compared with {len(low_res)} low-res ones")
    small = to_uint8(shrink(from_uint8(images.cpu()), tuple(low_res.shape[-2:])))
    difference = small.double() - low_res.cpu().double()
    return Consistency(difference.square().mean((1, 2, 3)).sqrt(), difference.mean((2, 3)))


def pooled_rms(rms: Tensor) -> float:
    """Root mean square over all pictures, √(mean rms²), from those of each picture (B,).

    >>> pooled_rms(torch.tensor([3.0, 4.0]))
    3.53...
    """
    return math.sqrt(rms.double().square().mean().item())
