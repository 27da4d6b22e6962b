"""From a high-resolution picture to its low-resolution one: the one function of training, evaluation and sampling.

A super-resolution stage must meet in sampling what it met in training. So the low-res picture is always made here: the
whole picture shrunk by an antialiased bicubic filter (a = −½, Pillow's), clamped and rounded to 8 bits, because that is
also what one stage hands to the next.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cascade.errors import CascadeError

_REACH = 4  # low-res pixels: the filter reaches 2, the rest is room for rounding of its ends


def to_uint8(images: Tensor) -> Tensor:
    """Round [−1, 1] to 8 bits: u = round(clamp(127.5·(x + 1), 0, 255)), half to even; any shape.

    Raises ValueError on NaN, which has no nearest grey.

    >>> to_uint8(torch.tensor([-1.5, -1.0, 0.0, 1.0])).tolist()
    [0, 0, 128, 255]
    """
    if torch.isnan(images).any():
        raise ValueError("a picture with NaN cannot be rounded to 8 bits")
    return ((images.to(_at_least_float32(images)) + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """Map 8 bits to float32 in [−1, 1]: x = u/127.5 − 1, the inverse of `to_uint8` on its 256 levels.

    >>> torch.equal(to_uint8(from_uint8(torch.arange(256, dtype=torch.uint8))), torch.arange(256, dtype=torch.uint8))
    True
    """
    return images.to(torch.float32) / 127.5 - 1


def shrink(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Shrink whole pictures (…, C, H, W) in [−1, 1] to `size` (one number, or height and width), on 8-bit levels.

    Antialiased bicubic, then clamp and round: bicubic overshoots. Agrees with Pillow's BICUBIC to one level
    (but where Pillow clips between its two directions).
    Raises CascadeError if a side would grow.

    >>> shrink(torch.ones(2, 3, 8, 8), 2).shape, shrink(torch.ones(3, 8, 4), (4, 2)).shape
    (torch.Size([2, 3, 2, 2]), torch.Size([3, 4, 2]))
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height > images.shape[-2] or width > images.shape[-1]:
        raise CascadeError(
            f"a picture of {images.shape[-1]}×{images.shape[-2]} px cannot be shrunk to {width}×{height}; "
            "the low-res picture is the smaller one"
        )
    # Contiguous, because a channels-last picture would take another kernel and other last bits.
    batch = images.reshape(-1, *images.shape[-3:]).to(_at_least_float32(images)).contiguous()
    small = F.interpolate(batch, size=(height, width), mode="bicubic", antialias=True)
    return from_uint8(to_uint8(small)).reshape(*images.shape[:-2], height, width)


def shrink_crop(image: Tensor, factor: int, top: int, left: int, size: int) -> Tensor:
    """Return rows top…top+size, columns left…left+size of `shrink(image, side // factor)`, bit for bit.

    `image` is uint8 (3, R, R); top, left and size count low-res pixels. Only the part of the picture that the filter
    can see is shrunk: for a 256 px crop of a 1024 px picture this is 30 times faster than shrinking all of it.

    >>> picture = torch.arange(3 * 32 * 32).reshape(3, 32, 32).to(torch.uint8)
    >>> part = shrink_crop(picture, 4, 2, 3, 4)
    >>> torch.equal(part, shrink(from_uint8(picture), 8)[:, 2:6, 3:7])
    True
    """
    (top0, top1), (left0, left1) = (
        (max(0, start - _REACH), min(side // factor, start + size + _REACH))
        for start, side in ((top, image.shape[-2]), (left, image.shape[-1]))
    )
    seen = from_uint8(image[..., top0 * factor : top1 * factor, left0 * factor : left1 * factor])
    small = shrink(seen, (top1 - top0, left1 - left0))
    return small[..., top - top0 : top - top0 + size, left - left0 : left - left0 + size]


def _at_least_float32(images: Tensor) -> torch.dtype:
    return torch.promote_types(images.dtype, torch.float32)
