"""DiT: "Scalable Diffusion Models with Transformers" (Peebles & Xie 2023)."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from cascade.networks.adaln import AdaLNBlock, AdaLNHead
from cascade.networks.dropout import Dropout
from cascade.networks.embedding import ConditionEmbedding
from cascade.networks.layers import check_counts, check_fits, check_sizes
from cascade.networks.tokens import TokenAttention, hidden_width, linear, patches, picture, sincos_positions


def mlp(dim: int, hidden: int, dropout: float) -> nn.Module:
    """W₂·dropout(gelu(W₁·x)), with the tanh form of the GELU."""
    return nn.Sequential(linear(dim, hidden), nn.GELU("tanh"), Dropout(dropout), linear(hidden, dim))


class DiT(nn.Module):
    """A plain transformer on `patch`×`patch` pixel patches, told its condition by adaLN-Zero alone.

    Tokens are a linear map of the patches plus fixed sin-cos positions; `depth` blocks of width `dim` with `heads`
    heads and an MLP `mlp_ratio` times as wide; a linear map back to patches. Every block is the identity before
    training, and the output exactly 0. H and W are any multiples of `multiple` = patch (else CascadeError): positions
    are computed, not stored.

    Peebles & Xie (2023), table 1 and section 3.2: S, B, L, XL are dim 384, 768, 1024, 1152, depth 12, 12, 24, 28 and 6,
    12, 16, 16 heads. With 4 channels in, 8 out, patch 2 and 1,000 classes they have 33, 130, 458 and 675 M parameters.
    Ours are 384·dim fewer (XL: 0.4 M of 675): 256·dim of theirs are stored positions, and our embedding of the noise
    level reads 128 features where theirs reads 256.

    >>> import torch
    >>> network = DiT(patch=2, dim=16, depth=1, heads=2, num_classes=3)
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
        patch: int = 4,
        dim: int = 192,
        depth: int = 6,
        heads: int = 3,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes({"patch": patch, "dim": dim, "heads": heads})
        check_counts({"depth": depth})
        self.in_channels, self.out_channels, self.embedding_dim = in_channels, out_channels, dim
        self.patch, self.multiple = patch, patch
        sincos_positions(1, 1, dim)  # refuses a width that has no positions
        norm: Callable[[], nn.Module] = lambda: nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)  # noqa: E731
        self.embedding = ConditionEmbedding(dim, num_classes, augment_dim)
        self.input = linear(in_channels * patch**2, dim)
        self.blocks = nn.ModuleList(
            AdaLNBlock(dim, TokenAttention(dim, heads), mlp(dim, hidden_width(dim, mlp_ratio), dropout), norm, dim)
            for _ in range(depth)
        )
        self.output = AdaLNHead(dim, out_channels * patch**2, norm, dim)

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
        condition = F.silu(self.embedding(log_snr, label, augment, extra))
        h = self.input(patches(x, self.patch))
        h = h + sincos_positions(height // self.patch, width // self.patch, h.shape[-1]).to(condition)
        for block in self.blocks:
            h = block(h, condition)
        return picture(self.output(h, condition), height, self.patch)
