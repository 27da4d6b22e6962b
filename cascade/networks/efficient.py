"""A U-Net for small machines: space-to-depth at the input, most of its work where the map is small."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade.networks.attention import SelfAttention
from cascade.networks.embedding import ConditionEmbedding
from cascade.networks.layers import (
    NORMS,
    Grow,
    PixelHead,
    ResidualBlock,
    Shrink,
    check_counts,
    check_fits,
    check_sizes,
    places,
)


class EfficientUNet(nn.Module):
    """U-Net on `patch`×`patch` pixel patches, told its condition by FiLM.

    Ronneberger et al., "U-Net" (2015); Saharia et al., "Imagen" (2022), appendix B.1 ("Efficient U-Net"); the
    space-to-depth input of Hoogeboom et al., "simple diffusion" (2023), section 3.4.

    Level l works at 1/(patch·2^l) of the picture's side with `blocks[l]` residual blocks of `channels[l]` on the way
    down and as many on the way up, each of which also reads its mirror image on the way down; `attention[l]` adds
    global attention to each of them. H and W are any multiples of `multiple` = patch·2^(levels−1) (else CascadeError).
    Before training the output is exactly 0.

    norm="group" is the faster to train; norm="pixel" without attention makes the network local: a crop and the full
    frame agree at pixels further than `receptive_radius` from the crop's border. `head_channels` is the width of an
    attention head. With `place_features` so many waves (`places`) tell every level where in the picture each of its
    pixels is; without, zero padding alone tells it.

    >>> network = EfficientUNet(channels=(16, 32), blocks=(1, 1), attention=(False, False), norm="pixel", num_classes=3)
    >>> network(torch.randn(2, 3, 16, 24), torch.zeros(2), label=torch.tensor([1, -1])).shape
    torch.Size([2, 3, 16, 24])
    >>> network.multiple, network.receptive_radius
    (4, 31.0)
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 3,
        num_classes: int = 0,
        augment_dim: int = 0,
        patch: int = 2,
        channels: Sequence[int] = (64, 128, 192),
        blocks: Sequence[int] = (2, 2, 2),
        attention: Sequence[bool] = (False, False, True),
        head_channels: int = 64,
        norm: str = "group",
        dropout: float = 0.0,
        embedding_dim: int = 256,
        place_features: int = 0,
    ) -> None:
        super().__init__()
        levels = range(len(channels))
        if not len(channels) == len(blocks) == len(attention) > 0:
            raise ValueError(
                f"channels, blocks and attention name the same levels, not {len(channels)}, {len(blocks)} and "
                f"{len(attention)}"
            )
        sizes = {"patch": patch, "channels": channels, "head_channels": head_channels, "embedding_dim": embedding_dim}
        check_sizes(sizes)
        check_counts({"blocks": blocks, "place_features": place_features})
        if norm not in NORMS:
            raise ValueError(f"norm is one of {', '.join(NORMS)}, not '{norm}'")
        self.in_channels, self.out_channels, self.embedding_dim = in_channels, out_channels, embedding_dim
        self.patch, self.blocks, self.place_features = patch, tuple(blocks), place_features
        self.multiple = patch * 2 ** (len(channels) - 1)
        self.local = norm == "pixel" and not any(attention) and not place_features

        def stack(make: Callable[[int, int], nn.Module]) -> nn.ModuleList:
            return nn.ModuleList(nn.ModuleList(make(i, channels[i]) for _ in range(blocks[i])) for i in levels)

        def block(_: int, width: int) -> nn.Module:
            return ResidualBlock(width, embedding_dim, norm, dropout)

        def attend(level: int, width: int) -> nn.Module:
            return SelfAttention(width, head_channels, norm) if attention[level] else nn.Identity()

        self.embedding = ConditionEmbedding(embedding_dim, num_classes, augment_dim)
        self.input = nn.Conv2d(in_channels * patch**2, channels[0], 3, padding=1)
        self.places = nn.ModuleList(nn.Conv2d(place_features, channels[i], 1) for i in levels if place_features)
        self.down, self.down_attention = stack(block), stack(attend)
        self.shrink = nn.ModuleList(Shrink(channels[i], channels[i + 1]) for i in levels[:-1])
        self.fuse = stack(lambda _, width: nn.Conv2d(2 * width, width, 1))
        self.up, self.up_attention = stack(block), stack(attend)
        self.grow = nn.ModuleList(Grow(channels[i + 1], channels[i]) for i in levels[:-1])
        self.norm = NORMS[norm](channels[0])
        self.output = PixelHead(channels[0], out_channels, patch)

    def forward(
        self,
        x: Tensor,
        log_snr: Tensor,
        label: Tensor | None = None,
        *,
        augment: Tensor | None = None,
        extra: Tensor | None = None,
    ) -> Tensor:
        """x (B, in_channels, H, W) → (B, out_channels, H, W).

        log_snr (B,); label (B,) int64 or None; augment (B, augment_dim) or None; extra (B, embedding_dim) or None.
        """
        check_fits(x, self.in_channels, self.multiple)
        embedding = F.silu(self.embedding(log_snr, label, augment, extra))
        h = self.input(F.pixel_unshuffle(x, self.patch))
        mirror = []
        for level, (blocks, attentions) in enumerate(zip(self.down, self.down_attention, strict=True)):
            if level:
                h = self.shrink[level - 1](h)
            if self.places:
                h = h + self.places[level](places(h, self.place_features))
            for block, attend in zip(blocks, attentions, strict=True):
                h = attend(block(h, embedding))
                mirror.append(h)
        for level in reversed(range(len(self.up))):
            for fuse, block, attend in zip(self.fuse[level], self.up[level], self.up_attention[level], strict=True):
                h = fuse(torch.cat([h, mirror.pop()], dim=1))
                h = attend(block(h, embedding))
            if level:
                h = self.grow[level - 1](h)
        return self.output(F.silu(self.norm(h)))

    @property
    def receptive_radius(self) -> float:
        """Largest distance in pixels between an output and an input that it depends on; inf unless local.

        Found by walking back through the reach of every convolution, from each place of a pixel on the coarsest grid.
        To the left only: the mirrored network reaches as far to the right.
        """
        if not self.local:
            return math.inf
        firsts = [self.patch * self._first(pixel // self.patch) for pixel in range(self.multiple)]
        return float(max(pixel - first for pixel, first in enumerate(firsts)))

    def _first(self, patch: int) -> int:
        """First patch of the input, in one dimension, that a patch of the output depends on."""
        first = patch - 1  # the output convolution
        up = []
        for level, count in enumerate(self.blocks):
            first = (first // 2 if level else first) - 2 * count  # Grow, then the blocks on the way up
            up.append(first)
        for level, count in reversed(list(enumerate(self.blocks))):
            first = min(first, up[level]) - 2 * count  # from below or from the mirror image; the blocks on the way down
            first = 2 * first if level else first  # Shrink
        return first - 1  # the input convolution
