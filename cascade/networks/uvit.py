"""U-ViT of "simple diffusion" (Hoogeboom et al. 2023): convolutions around a transformer that does most of the work."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade.networks.dropout import Dropout
from cascade.networks.embedding import ConditionEmbedding
from cascade.networks.layers import NORMS, Grow, PixelHead, ResidualBlock, Shrink, check_counts, check_fits, check_sizes
from cascade.networks.tokens import TokenAttention, hidden_width, linear, sincos_positions


class ViTBlock(nn.Module):
    """x ← x + attention(n(x)), then x ← x + W₂·dropout(gelu(W₁·(n(x)·(1 + s) + b))), s and b linear in the condition.

    Attention normalises queries and keys. Both last layers are 0 before training, and the block then the identity.

    >>> block, x = ViTBlock(8, heads=2, hidden=16, dropout=0.0, embedding_dim=4), torch.randn(2, 5, 8)
    >>> torch.equal(block(x, torch.randn(2, 4)), x)  # before training
    True
    """

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, embedding_dim: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), TokenAttention(dim, heads, qk_norm=True)
        self.norm2, self.film = nn.LayerNorm(dim, elementwise_affine=False), nn.Linear(embedding_dim, 2 * dim)
        self.up, self.dropout, self.down = linear(dim, hidden), Dropout(dropout), linear(hidden, dim, zero=True)
        nn.init.zeros_(self.attention.out.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, N, dim), embedding (B, E) after its SiLU → (B, N, dim)."""
        x = x + self.attention(self.norm1(x))
        scale, shift = self.film(embedding)[:, None].chunk(2, dim=2)
        h = torch.addcmul(shift, self.norm2(x), 1 + scale)
        return x + self.down(self.dropout(F.gelu(self.up(h), approximate="tanh")))


class UViT(nn.Module):
    """A U-Net whose lowest level is a transformer: parameters and work stand where the map is small.

    Hoogeboom et al. (2023), sections 3.2 to 3.4. Level l of the convolutions works at 1/(patch·2^l) of the side with
    `blocks[l]` residual blocks of `channels[l]` on the way down and as many on the way up, each of which also reads its
    mirror image. Below them stand `depth` transformer blocks of width `dim` at 1/(patch·2^levels), 16×16 at best, which
    have no such skips and are told where they stand by sin-cos positions (the paper learns them for one size).
    `dropout` acts in the transformer alone: at high resolution it harms. H and W are any multiples of `multiple` =
    patch·2^levels (else CascadeError). The output is exactly 0 before training. `norm` is "group" or "pixel", of the
    convolutions.

    The paper's is 2 B parameters: patch 2, channels 128, 256, 512 with 2 blocks each, and 36 blocks of 2,048.

    >>> network = UViT(patch=2, channels=(16,), blocks=(1,), dim=32, depth=1, heads=2, embedding_dim=16, num_classes=3)
    >>> network(torch.randn(2, 3, 8, 12), torch.zeros(2), label=torch.tensor([1, -1])).shape
    torch.Size([2, 3, 8, 12])
    >>> network.multiple
    4
    """

    receptive_radius = float("inf")

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 3,
        num_classes: int = 0,
        augment_dim: int = 0,
        patch: int = 2,
        channels: Sequence[int] = (64,),
        blocks: Sequence[int] = (2,),
        dim: int = 192,
        depth: int = 6,
        heads: int = 3,
        mlp_ratio: float = 4.0,
        norm: str = "group",
        dropout: float = 0.0,
        embedding_dim: int = 256,
    ) -> None:
        super().__init__()
        if not len(channels) == len(blocks) > 0:
            raise ValueError(f"channels and blocks name the same levels, not {len(channels)} and {len(blocks)}")
        check_sizes({"patch": patch, "channels": channels, "dim": dim, "heads": heads, "embedding_dim": embedding_dim})
        check_counts({"blocks": blocks, "depth": depth})
        if norm not in NORMS:
            raise ValueError(f"norm is one of {', '.join(NORMS)}, not '{norm}'")
        sincos_positions(1, 1, dim)  # refuses a width that has no positions
        self.in_channels, self.out_channels, self.embedding_dim = in_channels, out_channels, embedding_dim
        self.patch, self.multiple = patch, patch * 2 ** len(channels)
        widths = (*channels, dim)

        def convolutions() -> nn.ModuleList:
            return nn.ModuleList(
                nn.ModuleList(ResidualBlock(width, embedding_dim, norm, 0.0) for _ in range(count))
                for width, count in zip(channels, blocks, strict=True)
            )

        def fuse() -> nn.ModuleList:
            return nn.ModuleList(
                nn.ModuleList(nn.Conv2d(2 * width, width, 1) for _ in range(count))
                for width, count in zip(channels, blocks, strict=True)
            )

        levels = range(len(channels))
        self.embedding = ConditionEmbedding(embedding_dim, num_classes, augment_dim)
        self.input = nn.Conv2d(in_channels * patch**2, channels[0], 3, padding=1)
        self.down, self.shrink = convolutions(), nn.ModuleList(Shrink(widths[i], widths[i + 1]) for i in levels)
        self.transformer = nn.ModuleList(
            ViTBlock(dim, heads, hidden_width(dim, mlp_ratio), dropout, embedding_dim) for _ in range(depth)
        )
        self.grow = nn.ModuleList(Grow(widths[i + 1], widths[i]) for i in levels)
        self.fuse, self.up = fuse(), convolutions()
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
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            for block in blocks:
                h = block(h, embedding)
                mirror.append(h)
            h = shrink(h)
        h = self._transform(h, embedding)
        for level in reversed(range(len(self.up))):
            h = self.grow[level](h)
            for fuse, block in zip(self.fuse[level], self.up[level], strict=True):
                h = block(fuse(torch.cat([h, mirror.pop()], dim=1)), embedding)
        return self.output(F.silu(self.norm(h)))

    def _transform(self, h: Tensor, embedding: Tensor) -> Tensor:
        height, width = h.shape[-2:]
        tokens = h.flatten(2).transpose(1, 2)
        tokens = tokens + sincos_positions(height, width, tokens.shape[2]).to(embedding)
        for block in self.transformer:
            tokens = block(tokens, embedding)
        return tokens.transpose(1, 2).unflatten(2, (height, width)).to(h.dtype)
