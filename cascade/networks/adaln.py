"""Adaptive layer norm, zero-initialised: how a transformer is told its condition (Peebles & Xie 2023, section 3.2)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cascade.networks.tokens import TokenAttention, linear


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x·(1 + scale) + shift for tokens x (B, N, D) and shift, scale (B, D).

    >>> modulate(torch.ones(1, 2, 1), torch.tensor([[3.0]]), torch.tensor([[0.5]])).flatten()
    tensor([4.5000, 4.5000])
    """
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


class AdaLNBlock(nn.Module):
    """Transformer block: x ← x + g₁·attention(n(x)·(1 + s₁) + b₁), then x ← x + g₂·mlp(n(x)·(1 + s₂) + b₂).

    b₁, s₁, g₁, b₂, s₂, g₂ are linear in the condition and 0 before training, so the block is then the identity: adaLN-
    Zero. `norm` makes the two norms, of width `dim`.

    >>> block = AdaLNBlock(8, TokenAttention(8, heads=2), nn.Linear(8, 8), lambda: nn.LayerNorm(8), embedding_dim=4)
    >>> x = torch.randn(2, 5, 8)
    >>> torch.equal(block(x, torch.randn(2, 4)), x)  # before training
    True
    """

    def __init__(
        self, dim: int, attention: TokenAttention, mlp: nn.Module, norm: Callable[[], nn.Module], embedding_dim: int
    ) -> None:
        super().__init__()
        self.norm1, self.attention = norm(), attention
        self.norm2, self.mlp = norm(), mlp
        self.modulation = linear(embedding_dim, 6 * dim, zero=True)

    def forward(self, x: Tensor, condition: Tensor, angles: Tensor | None = None) -> Tensor:
        """x (B, N, dim), condition (B, embedding_dim) after its SiLU → (B, N, dim)."""
        b1, s1, g1, b2, s2, g2 = self.modulation(condition).chunk(6, dim=1)
        x = x + g1[:, None] * self.attention(modulate(self.norm1(x), b1, s1), angles)
        return x + g2[:, None] * self.mlp(modulate(self.norm2(x), b2, s2))


class AdaLNHead(nn.Module):
    """The last layer, W·(n(x)·(1 + s) + b): s and b linear in the condition, and all three 0 before training.

    >>> head = AdaLNHead(8, 3, lambda: nn.LayerNorm(8), embedding_dim=4)
    >>> head(torch.randn(2, 5, 8), torch.randn(2, 4)).abs().max().item()  # before training
    0.0
    """

    def __init__(self, dim: int, out_features: int, norm: Callable[[], nn.Module], embedding_dim: int) -> None:
        super().__init__()
        self.norm = norm()
        self.modulation = linear(embedding_dim, 2 * dim, zero=True)
        self.out = linear(dim, out_features, zero=True)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, N, dim), condition (B, embedding_dim) after its SiLU → (B, N, out_features)."""
        shift, scale = self.modulation(condition).chunk(2, dim=1)
        return self.out(modulate(self.norm(x), shift, scale))
