"""JiT: "Back to Basics: Let Denoising Generative Models Denoise" (Li & He 2025): transformers on large patches."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade.networks.adaln import AdaLNBlock, AdaLNHead
from cascade.networks.dropout import Dropout
from cascade.networks.embedding import ConditionEmbedding
from cascade.networks.layers import check_counts, check_fits, check_sizes
from cascade.networks.tokens import (
    RMSNorm,
    TokenAttention,
    hidden_width,
    linear,
    patches,
    picture,
    rotary_angles,
    sincos_positions,
)


class SwiGLU(nn.Module):
    """W₃·dropout(silu(W₁·x)·W₂·x), W₁ and W₂ one matrix (Shazeer 2020, equation 6, with biases).

    >>> SwiGLU(8, hidden=12, dropout=0.0)(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.up, self.down = linear(dim, 2 * hidden), linear(hidden, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) → (B, N, dim)."""
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(self.dropout(F.silu(gate) * value))


class JiT(nn.Module):
    """A transformer on raw patches far wider than what they mean: it works where the target is x₀.

    A patch of patch²·channels numbers passes a linear bottleneck of `bottleneck` and gets fixed sin-cos positions.
    `depth` adaLN-Zero blocks of width `dim` with RMS norm, `heads` heads of normalised and rotated queries and keys
    (RoPE, half of each head for each axis) and SwiGLU, whose hidden width is ⅔·mlp_ratio·dim. From block `class_start`
    on, `class_tokens` tokens of the class embedding, each with a learned offset and no place to turn by, stand before
    the patches (none where there are no classes). `dropout` acts in the middle half of the blocks. The output is
    exactly 0 before training. H and W are any multiples of `multiple` = patch (else CascadeError).

    Use it under preconditioning=x0: a patch of noise fills all its dimensions, and a bottleneck cannot pass it; a patch
    of a photograph does not (the paper's sections 3 and 4).

    Its B/16, L/16, H/16 are dim 768, 1024, 1280, depth 12, 24, 32, heads 12, 16, 16, bottleneck 128, 128, 256 and
    class_start 4, 8, 10, with 131, 459 and 953 M parameters. Our embedding of the noise level reads 128 features where
    theirs reads 256, and positions are computed: at 256 px that is 384·dim fewer (0.3, 0.4, 0.5 M).

    >>> network = JiT(patch=4, dim=16, depth=2, heads=2, bottleneck=8, class_tokens=2, class_start=1, num_classes=3)
    >>> network(torch.randn(2, 3, 8, 12), torch.zeros(2), label=torch.tensor([1, -1])).shape
    torch.Size([2, 3, 8, 12])
    """

    receptive_radius = float("inf")

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 3,
        num_classes: int = 0,
        augment_dim: int = 0,
        patch: int = 8,
        dim: int = 256,
        depth: int = 8,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        bottleneck: int = 64,
        class_tokens: int = 8,
        class_start: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes({"patch": patch, "dim": dim, "heads": heads, "bottleneck": bottleneck})
        check_counts({"depth": depth}, least=1)
        check_counts({"class_tokens": class_tokens})
        if not 0 <= class_start < depth:
            raise ValueError(f"class_start={class_start} names none of the {depth} blocks")
        self.in_channels, self.out_channels, self.embedding_dim = in_channels, out_channels, dim
        self.patch, self.multiple, self.class_start = patch, patch, class_start
        self.head_dim = dim // heads
        norm: Callable[[], nn.Module] = lambda: RMSNorm(dim, eps=1e-6)  # noqa: E731
        hidden, middle = int(hidden_width(dim, mlp_ratio) * 2 / 3), range(depth // 4, 3 * (depth // 4))
        self.embedding = ConditionEmbedding(dim, num_classes, augment_dim)
        self.squeeze = linear(in_channels * patch**2, bottleneck, bias=False)
        self.input = linear(bottleneck, dim)
        self.places = nn.Parameter(torch.empty(class_tokens, dim)) if num_classes and class_tokens else None
        if self.places is not None:
            nn.init.normal_(self.places, std=0.02)
        self.blocks = nn.ModuleList(
            AdaLNBlock(
                dim,
                TokenAttention(dim, heads, qk_norm=True),
                SwiGLU(dim, hidden, dropout if number in middle else 0.0),
                norm,
                dim,
            )
            for number in range(depth)
        )
        self.output = AdaLNHead(dim, out_channels * patch**2, norm, dim)
        sincos_positions(1, 1, dim)  # these two refuse widths that have no positions
        rotary_angles(1, 1, self.head_dim)

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
        height, width = x.shape[-2:]
        rows, columns = height // self.patch, width // self.patch
        condition = F.silu(self.embedding(log_snr, label, augment, extra))
        h = self.input(self.squeeze(patches(x, self.patch)))
        h = h + sincos_positions(rows, columns, h.shape[-1]).to(condition)
        angles = rotary_angles(rows, columns, self.head_dim).to(condition)
        for number, block in enumerate(self.blocks):
            if number == self.class_start and self.places is not None:
                tokens = self.embedding.of_label(label, log_snr)[:, None] + self.places
                h = torch.cat([tokens.to(h.dtype), h], dim=1)
                angles = F.pad(angles, (0, 0, len(self.places), 0))  # the angle 0 turns nothing
            h = block(h, condition, angles)
        return picture(self.output(h[:, -rows * columns :], condition), height, self.patch)
