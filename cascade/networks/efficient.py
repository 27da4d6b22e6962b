"""A U-Net for small machines: space-to-depth at the input, most of its work where the map is small."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade.errors import CascadeError
from cascade.networks.attention import SelfAttention
from cascade.networks.embedding import ConditionEmbedding
from cascade.networks.layers import NORMS, Double, Halve, ResidualBlock


class EfficientUNet(nn.Module):
    """U-Net on `patch`×`patch` pixel patches with FiLM conditioning.

    Ronneberger et al., "U-Net" (2015); Saharia et al., "Imagen" (2022), appendix B.1 ("Efficient U-Net"); the
    space-to-depth input of Hoogeboom et al., "simple diffusion" (2023), section 3.4.

    Level l of `channels` works at 1/(patch·2^l) of the picture's side with `blocks[l]` residual blocks on the way down
    and as many on the way up, each of which reads the matching output of the way down. x is (B, in_channels, H, W) with
    H and W multiples of patch·2^(levels−1) (else CascadeError), log_snr (B,), the result (B, out_channels, H, W), exactly
    0 before training.

    norm="pixel" without attention makes the network local: a crop and the full frame agree at pixels that are further
    than `receptive_radius` from the crop's border.

    >>> network = EfficientUNet(channels=(16, 32), blocks=(1, 1), attention=(False, True), num_classes=3)
    >>> x, log_snr = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)), torch.zeros(2)
    >>> network(x, log_snr, label=torch.tensor([1, -1])).shape
    torch.Size([2, 3, 16, 24])
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        num_classes: int = 0,
        augment_dim: int = 0,
        patch: int = 2,
        channels: Sequence[int] = (64, 128, 192),
        blocks: Sequence[int] = (2, 2, 2),
        attention: Sequence[bool] = (False, False, True),
        head_channels: int = 32,
        norm: str = "group",
        dropout: float = 0.0,
        embedding_dim: int = 256,
    ) -> None:
        super().__init__()
        levels = len(channels)
        if not len(blocks) == len(attention) == levels:
            raise ValueError(
                f"channels, blocks and attention must be of one length, not {levels}, {len(blocks)}, {len(attention)}"
            )
        if norm not in NORMS:
            raise ValueError(f"norm is one of {', '.join(NORMS)}, not '{norm}'")
        self.in_channels, self.out_channels, self.num_classes = in_channels, out_channels, num_classes
        self.embedding_dim, self.patch, self.blocks = embedding_dim, patch, tuple(blocks)
        self.multiple = patch * 2 ** (levels - 1)
        self.local = norm == "pixel" and not any(attention)

        self.embedding = ConditionEmbedding(embedding_dim, num_classes, augment_dim)
        self.input = nn.Conv2d(in_channels * patch**2, channels[0], 3, padding=1)

        def block(level: int) -> nn.Module:
            return ResidualBlock(channels[level], embedding_dim, norm, dropout)

        def attend(level: int) -> nn.Module:
            width = channels[level]
            return SelfAttention(width, head_channels, NORMS[norm](width)) if attention[level] else nn.Identity()

        def each(level: int, make: object) -> nn.ModuleList:
            return nn.ModuleList(make(level) for _ in range(blocks[level]))

        every = range(levels)
        self.down = nn.ModuleList(each(level, block) for level in every)
        self.down_attention = nn.ModuleList(each(level, attend) for level in every)
        self.shrink = nn.ModuleList(Halve(channels[level], channels[level + 1]) for level in every[:-1])
        self.fuse = nn.ModuleList(
            each(level, lambda level: nn.Conv2d(2 * channels[level], channels[level], 1)) for level in every
        )
        self.up = nn.ModuleList(each(level, block) for level in every)
        self.up_attention = nn.ModuleList(each(level, attend) for level in every)
        self.grow = nn.ModuleList(Double(channels[level + 1], channels[level]) for level in every[:-1])
        self.norm = NORMS[norm](channels[0])
        self.output = nn.Conv2d(channels[0], out_channels * patch**2, 3, padding=1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        x: Tensor,
        log_snr: Tensor,
        label: Tensor | None = None,
        augment: Tensor | None = None,
        extra: Tensor | None = None,
    ) -> Tensor:
        """x (B, in_channels, H, W), log_snr (B,), label (B,) or None, augment (B, k) or None, extra (B, embedding_dim)."""
        self._check(x)
        embedding = F.silu(self.embedding(log_snr, label, augment, extra))
        h = self.input(F.pixel_unshuffle(x, self.patch))
        skips = []
        for level, blocks in enumerate(self.down):
            if level:
                h = self.shrink[level - 1](h)
            for block, attend in zip(blocks, self.down_attention[level], strict=True):
                h = attend(block(h, embedding))
                skips.append(h)
        for level in reversed(range(len(self.up))):
            for fuse, block, attend in zip(self.fuse[level], self.up[level], self.up_attention[level], strict=True):
                h = fuse(torch.cat([h, skips.pop()], dim=1))
                h = attend(block(h, embedding))
            if level:
                h = self.grow[level - 1](h)
        return F.pixel_shuffle(self.output(F.silu(self.norm(h))), self.patch)

    def _check(self, x: Tensor) -> None:
        if x.shape[1] != self.in_channels:
            raise CascadeError(f"this network reads {self.in_channels} channels, not {x.shape[1]}")
        height, width = x.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise CascadeError(
                f"{height}×{width} pixels do not fit this network: both must be multiples of {self.multiple}"
            )

    @property
    def receptive_radius(self) -> float:
        """Largest distance in pixels between an output and an input it depends on; inf with group norm or attention."""
        if not self.local:
            return math.inf
        radius = 0
        for pixel in range(self.multiple):
            low, high = self._interval(pixel // self.patch, pixel // self.patch)
            radius = max(radius, pixel - low * self.patch, (high + 1) * self.patch - 1 - pixel)
        return float(radius)

    def _interval(self, low: int, high: int) -> tuple[int, int]:
        """Walk back from patches low..high of the output to the patches of the input that they depend on."""
        low, high = low - 1, high + 1
        needed: list[tuple[int, int]] = []
        for level, count in enumerate(self.blocks):
            for _ in range(count):
                low, high = low - 2, high + 2
                needed.append((low, high))
            if level + 1 < len(self.blocks):
                low, high = low // 2, high // 2
        for level in reversed(range(len(self.blocks))):
            for _ in range(self.blocks[level]):
                skip_low, skip_high = needed.pop()
                low, high = min(low, skip_low) - 2, max(high, skip_high) + 2
            if level:
                low, high = 2 * low, 2 * high + 1
        return low - 1, high + 1
