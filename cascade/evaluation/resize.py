"""How a picture is brought to a feature network's size: a figure depends on it, so it is named with the figure."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cascade.errors import CascadeError, suggest


def bilinear_antialias(images: Tensor, size: int) -> Tensor:
    """Bilinear with a filter as wide as the step down: torchmetrics' rule since 1.8.

    >>> bilinear_antialias(torch.arange(4.0).expand(1, 1, 4, 4), 2)[0, 0, 0]
    tensor([0.7143, 2.2857])
    """
    return F.interpolate(images.contiguous(), size=(size, size), mode="bilinear", antialias=True)


def bilinear_tf1(images: Tensor, size: int) -> Tensor:
    """Bilinear between the two pixels at j·(old/new), without half-pixel centres and without antialias.

    TensorFlow 1's rule, that of the published FIDs (Parmar et al. 2022, "On Aliased Resizing", Section 3).

    >>> bilinear_tf1(torch.arange(4.0).expand(1, 1, 4, 4), 2)[0, 0, 0]
    tensor([0., 2.])
    """
    for dim in (-2, -1):
        old = images.shape[dim]
        if old != size:
            place = torch.arange(size, device=images.device, dtype=images.dtype) * (old / size)
            below = place.long().clamp(max=old - 1)
            above = (below + 1).clamp(max=old - 1)
            fraction = (place - below).reshape(-1, *[1] * (-1 - dim))
            images = torch.lerp(images.index_select(dim, below), images.index_select(dim, above), fraction)
    return images


def bicubic(images: Tensor, size: int) -> Tensor:
    """Bicubic (a = −½, Pillow's) with a filter as wide as the step down; float levels, neither rounded nor clamped.

    >>> bicubic(torch.tensor([0.0, 8.0]).expand(1, 1, 2, 2), 4)[0, 0, 0].mean().round()
    tensor(4.)
    """
    return F.interpolate(images.contiguous(), size=(size, size), mode="bicubic", antialias=True)


def bicubic_clean(images: Tensor, size: int) -> Tensor:
    """Pillow's antialiased bicubic of each channel in float32, clipped to 0…255 and not rounded: clean-fid's rule.

    Only the pictures that go in are of 8 bits (Parmar et al. 2022, Section 3; `cleanfid/resize.py`, mode "clean").

    >>> bicubic_clean(torch.tensor([0.0, 0.0, 255.0, 255.0]).expand(1, 3, 4, 4), 3)[0, 0, 0]
    tensor([  0.0000, 127.5000, 255.0000])
    """
    planes = images.cpu().float().flatten(0, 1).numpy()
    made = [Image.fromarray(plane).resize((size, size), Image.Resampling.BICUBIC) for plane in planes]
    resized = torch.from_numpy(np.stack([np.asarray(plane) for plane in made])).clamp(0, 255)
    return resized.unflatten(0, images.shape[:2]).to(images.device)


RULES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "bilinear_antialias": bilinear_antialias,
    "bilinear_tf1": bilinear_tf1,
    "bicubic_clean": bicubic_clean,
}


@dataclass(frozen=True)
class Resize:
    """A named rule to a square of `size` pixels; maps uint8 or float pictures (B, 3, H, W) to float32 levels.

    >>> str(Resize("bilinear_tf1", 299))
    'bilinear_tf1 to 299 px'
    """

    rule: str
    size: int

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise CascadeError(f"unknown resize rule '{self.rule}'; {suggest(self.rule, RULES)}")

    def __str__(self) -> str:
        return f"{self.rule} to {self.size} px"

    def __call__(self, images: Tensor) -> Tensor:
        return RULES[self.rule](images.float(), self.size)
