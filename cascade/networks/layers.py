"""The parts of a convolutional network: two norms, a residual block told by an embedding, shrink, grow, the head."""

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade.errors import CascadeError
from cascade.networks.dropout import Dropout


class GroupNorm(nn.GroupNorm):
    """Zero mean and unit variance over each group of 16 channels and all pixels of an image (Wu & He, 2018).

    >>> GroupNorm(32)(3 + 2 * torch.randn(1, 32, 8, 8)).mean().abs().item() < 1e-5
    True
    """

    def __init__(self, channels: int, affine: bool = True) -> None:
        super().__init__(num_groups=max(1, channels // 16), num_channels=channels, affine=affine)


class PixelNorm(nn.LayerNorm):
    """Zero mean and unit RMS over the channels of each pixel: no statistic crosses pixels, so crops and frames agree.

    Liu et al., "ConvNeXt" (2022), section 2.6. The mean is taken out as well because the layer norm is one fused
    kernel, also in bf16: an RMS norm alone made a network 1.6 times slower to train on a CPU.

    >>> x = torch.randn(1, 8, 4, 4)
    >>> torch.equal(PixelNorm(8)(x)[..., :2, :2], PixelNorm(8)(x[..., :2, :2]))
    True
    """

    def __init__(self, channels: int, affine: bool = True) -> None:
        super().__init__(channels, elementwise_affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


NORMS: dict[str, type[GroupNorm] | type[PixelNorm]] = {"group": GroupNorm, "pixel": PixelNorm}


class ResidualBlock(nn.Module):
    """x + conv(dropout(silu(norm(conv(silu(norm(x))))·(1 + scale) + shift))), scale and shift linear in the embedding.

    FiLM: Perez et al. (2018); in diffusion: Dhariwal & Nichol (2021), section 3 ("adaptive group normalization").
    The last convolution is zero-initialised, so the block is the identity before training.

    >>> block, x = ResidualBlock(16, 4, "pixel", dropout=0.0), torch.randn(2, 16, 4, 4)
    >>> torch.equal(block(x, torch.randn(2, 4)), x)  # before training
    True
    """

    def __init__(self, channels: int, embedding_dim: int, norm: str, dropout: float) -> None:
        super().__init__()
        self.norm1 = NORMS[norm](channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = NORMS[norm](channels, affine=False)
        self.film = nn.Linear(embedding_dim, 2 * channels)
        self.dropout = Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, C, H, W), embedding (B, E) → (B, C, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(embedding)[:, :, None, None].to(h.dtype).chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return x + self.conv2(self.dropout(F.silu(h)))


class Shrink(nn.Conv2d):
    """Half the side by a 2×2 convolution of stride 2: an output reads its own 2×2 pixels, so aligned crops agree.

    >>> Shrink(3, 8)(torch.randn(2, 3, 8, 8)).shape
    torch.Size([2, 8, 4, 4])
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=2, stride=2)


class Grow(nn.Module):
    """Twice the side: a 1×1 convolution where there are fewer pixels, then each pixel repeated 2×2.

    >>> Grow(8, 3)(torch.randn(2, 8, 4, 4)).shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, out_channels, 2H, 2W)."""
        return F.interpolate(self.conv(x), scale_factor=2.0, mode="nearest")


class PixelHead(nn.Module):
    """Depth-to-space: one 3×3 convolution on patches gives all pixels of a patch. Zero before training.

    It is a transposed convolution of stride `patch` and a kernel of 3·`patch` pixels, so patches overlap. A further
    convolution at full resolution, where there are few channels, made training a fifth slower and the loss no better.

    >>> head = PixelHead(8, 3, patch=4)
    >>> head(torch.randn(2, 8, 4, 4)).shape, head(torch.randn(2, 8, 4, 4)).abs().max().item()
    (torch.Size([2, 3, 16, 16]), 0.0)
    """

    def __init__(self, in_channels: int, out_channels: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.conv = zeroed(nn.Conv2d(in_channels, out_channels * patch**2, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, out_channels, patch·H, patch·W)."""
        return F.pixel_shuffle(self.conv(x), self.patch)


def places(x: Tensor, count: int) -> Tensor:
    """Where each pixel of x (B, C, H, W) is: (1, count, H, W), the lowest waves cos(πju)·cos(πkv) on the unit square.

    Down the picture j and across it k half waves, in the order of j + k, then of j, without the constant; u and v are
    of the pixels' centres, so a larger picture is told the same places on a finer grid.

    >>> places(torch.zeros(1, 8, 1, 2), 1)
    tensor([[[[ 0.7071, -0.7071]]]])
    """
    waves = ((down, total - down) for total in itertools.count(1) for down in range(total + 1))
    down, across = (
        torch.cos(math.pi * torch.outer(halves, torch.arange(0.5, side, device=x.device) / side))
        for halves, side in zip(
            torch.tensor([*itertools.islice(waves, count)]).to(x.device).T, x.shape[-2:], strict=True
        )
    )
    return (down[:, :, None] * across[:, None])[None].to(x.dtype)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Return `layer` with weights and bias set to 0."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def check_fits(x: Tensor, in_channels: int, multiple: int) -> None:
    """Refuse (CascadeError) a picture x (B, C, H, W) of other channels, or whose sides `multiple` does not divide."""
    if x.shape[1] != in_channels:
        raise CascadeError(f"this network reads {in_channels} channels, not {x.shape[1]}")
    height, width = x.shape[-2:]
    if height % multiple or width % multiple:
        raise CascadeError(f"{height}×{width} pixels do not fit the network: make both multiples of {multiple}")


WIDEST, DEEPEST = 16_384, 1_000
"""The most channels and the most blocks: beyond them a wrong number would fill the memory before anything is said."""


def check_sizes(sizes: Mapping[str, int | Sequence[int]], least: int = 1, most: int = WIDEST) -> None:
    """Refuse (ValueError) a size, or one of several, below `least` or above `most`, by its name."""
    for name, size in sizes.items():
        each = size if isinstance(size, Sequence) else [size]
        if min(each, default=least) < least:
            raise ValueError(f"{name} must be at least {least}, not {min(each)}")
        if max(each, default=most) > most:
            raise ValueError(f"{name} must be at most {most}, not {max(each)}")


def check_counts(counts: Mapping[str, int | Sequence[int]], least: int = 0) -> None:
    """Refuse (ValueError) a number of blocks, or of what else is made one by one, as `check_sizes` does a size.

    >>> check_counts({"depth": 10**9})
    Traceback (most recent call last):
    ValueError: depth must be at most 1000, not 1000000000
    """
    check_sizes(counts, least, DEEPEST)


def check_divisors(attention: Sequence[int], levels: int) -> None:
    """Refuse (ValueError) attention at another divisor of the picture's side than 1, 2, 4, ... of the `levels`.

    >>> check_divisors((16, 8), levels=4)
    Traceback (most recent call last):
    ValueError: attention=[16, 8] names divisors of the side; 16 is none of [1, 2, 4, 8]
    """
    known = [2**level for level in range(levels)]
    for divisor in attention:
        if divisor not in known:
            raise ValueError(f"attention={list(attention)} names divisors of the side; {divisor} is none of {known}")
