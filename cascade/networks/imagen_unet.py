"""Imagen's Efficient U-Net: Saharia et al. 2022, appendix B.1 and figures A.27 to A.30."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade.networks.attention import SelfAttention
from cascade.networks.dropout import Dropout
from cascade.networks.embedding import ConditionEmbedding
from cascade.networks.layers import GroupNorm, check_counts, check_fits, check_sizes, zeroed


class ResNetBlock(nn.Module):
    """Figure A.27: W·x + conv(dropout(silu(norm(conv(silu(norm(x)))))), W a 1×1 convolution.

    W is the identity and the last convolution 0 before training, and so the block is the identity.

    >>> block, x = ResNetBlock(32, dropout=0.0), torch.randn(2, 32, 4, 4)
    >>> block(x).shape
    torch.Size([2, 32, 4, 4])
    """

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2, self.conv2 = GroupNorm(channels), zeroed(nn.Conv2d(channels, channels, 3, padding=1))
        self.dropout = Dropout(dropout)
        self.skip = nn.Conv2d(channels, channels, 1)
        nn.init.dirac_(self.skip.weight)
        nn.init.zeros_(self.skip.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(self.dropout(F.silu(self.norm2(h))))


class Level(nn.Module):
    """What DBlock and UBlock (figures A.28 and A.29) share: CombineEmbs, the residual blocks, attention or none.

    CombineEmbs is norm(x)·(1 + s) + b, s and b linear in the condition (the published `use_scale_shift_norm`).

    >>> level = Level(32, blocks=1, head_channels=None, embedding_dim=8, dropout=0.0)
    >>> level(torch.randn(2, 32, 4, 4), torch.randn(2, 8)).shape
    torch.Size([2, 32, 4, 4])
    """

    def __init__(
        self, channels: int, blocks: int, head_channels: int | None, embedding_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.norm, self.film = GroupNorm(channels, affine=False), nn.Linear(embedding_dim, 2 * channels)
        self.blocks = nn.ModuleList(ResNetBlock(channels, dropout) for _ in range(blocks))
        self.attention = SelfAttention(channels, head_channels, "group") if head_channels else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, C, H, W), embedding (B, E) after its SiLU → (B, C, H, W)."""
        scale, shift = self.film(embedding)[:, :, None, None].to(x.dtype).chunk(2, dim=1)
        x = torch.addcmul(shift, self.norm(x), 1 + scale)
        for block in self.blocks:
            x = block(x)
        return self.attention(x)


class ImagenUNet(nn.Module):
    """A U-Net that goes down before the convolutions of a level and up behind them, with most blocks at the bottom.

    Level l has `channels[l]` and works at 1/2^(l+1) of the side: a 3×3 convolution of stride 2 leads to it, `blocks[l]`
    residual blocks follow, and with `attention[l]` one layer of attention; on the way up as many, then each pixel 2×2
    times and a 3×3 convolution to the width above. Going up, a level reads (h + mirror image)/√2, of unit variance
    where both are and do not correlate; the first convolution, at full size, is the last mirror image. H and W are any
    multiples of `multiple` = 2^levels (else CascadeError). The output is exactly 0 before training.

    Imagen's text enters here as the class: its embedding stands for the pooled text in the condition, and there is no
    cross-attention. Its 256→1024 network (channels 128, 256, 512, 1024; 2, 4, 8, 8 blocks; no self-attention; 400 M
    with its text layers) has 427 M parameters here, and the 64→256 one, with self-attention of 8 heads at the last
    level, 435 M of 600. The figures leave open whether skips are added or concatenated; added is the smaller count. Its
    64 px base is no Efficient U-Net but ADM's with 512 channels and 3 blocks (2 B): network=adm.

    >>> network = ImagenUNet(channels=(16, 32), blocks=(1, 2), attention=(False, True), head_channels=16, num_classes=3)
    >>> network(torch.randn(2, 3, 8, 12), torch.zeros(2), label=torch.tensor([1, -1])).shape
    torch.Size([2, 3, 8, 12])
    >>> network.multiple
    4
    """

    receptive_radius = math.inf

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 3,
        num_classes: int = 0,
        augment_dim: int = 0,
        channels: Sequence[int] = (48, 96, 192),
        blocks: Sequence[int] = (1, 2, 4),
        attention: Sequence[bool] = (False, False, True),
        head_channels: int = 64,
        dropout: float = 0.0,
        embedding_dim: int = 256,
    ) -> None:
        super().__init__()
        if not len(channels) == len(blocks) == len(attention) > 0:
            raise ValueError(
                f"channels, blocks and attention name the same levels, not {len(channels)}, {len(blocks)} and "
                f"{len(attention)}"
            )
        check_sizes({"channels": channels, "head_channels": head_channels, "embedding_dim": embedding_dim})
        check_counts({"blocks": blocks})
        self.in_channels, self.out_channels, self.embedding_dim = in_channels, out_channels, embedding_dim
        self.multiple = 2 ** len(channels)
        above = (channels[0], *channels[:-1])

        def levels() -> nn.ModuleList:
            return nn.ModuleList(
                Level(width, count, head_channels if attends else None, embedding_dim, dropout)
                for width, count, attends in zip(channels, blocks, attention, strict=True)
            )

        self.embedding = ConditionEmbedding(embedding_dim, num_classes, augment_dim)
        self.input = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.shrink = nn.ModuleList(
            nn.Conv2d(a, c, 3, stride=2, padding=1) for a, c in zip(above, channels, strict=True)
        )
        self.down, self.up = levels(), levels()
        self.grow = nn.ModuleList(nn.Conv2d(c, a, 3, padding=1) for a, c in zip(above, channels, strict=True))
        self.norm = GroupNorm(channels[0])
        self.output = zeroed(nn.Conv2d(channels[0], out_channels, 1))

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
        h = self.input(x)
        mirror = []
        for shrink, level in zip(self.shrink, self.down, strict=True):
            mirror.append(h)
            h = level(shrink(h), embedding)
        for grow, level in zip(reversed(self.grow), reversed(self.up), strict=True):
            h = grow(F.interpolate(level(h, embedding), scale_factor=2.0, mode="nearest"))
            h = (h + mirror.pop()) * 0.5**0.5
        return self.output(F.silu(self.norm(h)))
