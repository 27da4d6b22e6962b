"""A picture as a row of tokens: patches and back, where they lie, and attention among them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade.networks.layers import WIDEST


def patches(x: Tensor, size: int) -> Tensor:
    """(B, C, H, W) → (B, N, C·size²): N = H/size·W/size patches, row by row.

    >>> patches(torch.arange(8.0).reshape(1, 1, 2, 4), 2)
    tensor([[[0., 1., 4., 5.],
             [2., 3., 6., 7.]]])
    """
    return F.pixel_unshuffle(x, size).flatten(2).transpose(1, 2)


def picture(tokens: Tensor, height: int, size: int) -> Tensor:
    """(B, N, C·size²) → (B, C, height, W): the inverse of `patches` for a picture of that height in pixels."""
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (height // size, -1)), size)


def _phases(length: int, count: int) -> Tensor:
    """Place times frequency, n·10000^{−i/count}: (length, count), float64."""
    rates = 10000.0 ** (-torch.arange(count, dtype=torch.float64) / count)
    return torch.arange(length, dtype=torch.float64)[:, None] * rates


def sincos_positions(height: int, width: int, dim: int) -> Tensor:
    """Fixed positions of height × width tokens, (N, dim), float64: sin and cos of the column, then of the row.

    Frequencies 10000^{−i/(dim/4)} (Vaswani et al. 2017, section 3.5, once for each axis, as in ViT and DiT). Made for
    whatever grid is asked for, so no picture is too large. Raises ValueError unless 4 divides dim.

    >>> sincos_positions(1, 2, 4)
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.8415, 0.5403, 0.0000, 1.0000]], dtype=torch.float64)
    """
    if dim % 4:
        raise ValueError(f"positions of two axes, sin and cos, need a width that 4 divides, not {dim}")
    column, row = (torch.cat([p.sin(), p.cos()], 1) for p in (_phases(width, dim // 4), _phases(height, dim // 4)))
    grid = torch.cat([column.expand(height, -1, -1), row[:, None].expand(-1, width, -1)], dim=2)
    return grid.flatten(0, 1)


def rotary_angles(height: int, width: int, dim: int) -> Tensor:
    """Angles by which the dim/2 pairs of a query or key are turned, (N, dim/2), float64: by row, then by column.

    n·10000^{−i/(dim/4)}: Su et al., "RoFormer" (2021), equation 15, half of the pairs for each axis. Raises ValueError
    unless 4 divides dim.

    >>> rotary_angles(1, 3, 4)
    tensor([[0., 0.],
            [0., 1.],
            [0., 2.]], dtype=torch.float64)
    """
    if dim % 4:
        raise ValueError(f"rotary positions of two axes need heads whose width 4 divides, not {dim}")
    row, column = _phases(height, dim // 4), _phases(width, dim // 4)
    grid = torch.cat([row[:, None].expand(-1, width, -1), column.expand(height, -1, -1)], dim=2)
    return grid.flatten(0, 1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair (x₂ᵢ, x₂ᵢ₊₁) of (..., N, d) by its angle, (N, d/2): lengths stay, ⟨q, k⟩ sees differences alone.

    >>> rotate(torch.tensor([[1.0, 0.0]]), torch.tensor([[torch.pi / 2]])).round()
    tensor([[-0., 1.]])
    """
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


class RMSNorm(nn.RMSNorm):
    """x/√(mean(x²) + ε)·w over the last axis (Zhang & Sennrich 2019, equation 4), in the dtype of x.

    >>> RMSNorm(2)(torch.tensor([[3.0, 4.0]])).square().mean().round(decimals=4).item()
    1.0
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) → (..., dim)."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class TokenAttention(nn.Module):
    """W_o·softmax(q kᵀ/√d)·v among tokens, in `heads` heads of d = dim/heads (Vaswani et al. 2017, equation 1).

    `qk_norm` gives each query and key unit RMS, times learned weights, which bounds the logits (Dehghani et al. 2023).
    Raises ValueError where the heads do not divide. It knows no place: permuted tokens give permuted outputs.

    >>> attention, x = TokenAttention(8, heads=2), torch.randn(1, 5, 8)
    >>> torch.allclose(attention(x.flip(1)), attention(x).flip(1), atol=1e-6)  # it knows no place
    True
    """

    def __init__(self, dim: int, heads: int, *, qk_norm: bool = False) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide a width of {dim}")
        self.heads = heads
        self.qkv, self.out = linear(dim, 3 * dim), linear(dim, dim)
        self.q_norm, self.k_norm = (RMSNorm(dim // heads, 1e-6) if qk_norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, angles: Tensor | None = None) -> Tensor:
        """(B, N, dim) → (B, N, dim); `angles` (N, d/2) turn queries and keys: see `rotary_angles`."""
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        mixed = attend(q.to(v.dtype), k.to(v.dtype), v)
        return self.out(mixed.transpose(1, 2).flatten(2))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ/√d)·v, each (B, heads, N, d)."""
    if q.device.type != "cpu" or q.shape[2] > 1024:
        return F.scaled_dot_product_attention(q, k, v)
    # Written out: with 64 to 288 tokens in bf16 on a CPU it trains 3 to 12 times as fast, in float32 as fast.
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return logits.softmax(dim=-1).to(v.dtype) @ v


def hidden_width(dim: int, mlp_ratio: float) -> int:
    """The width ⌊mlp_ratio·dim⌋ inside an MLP; ValueError where that is none.

    >>> hidden_width(192, 4.0)
    768
    """
    if not 1 <= mlp_ratio * dim <= 8 * WIDEST:
        raise ValueError(f"mlp_ratio={mlp_ratio} makes no width of {dim}")
    return int(mlp_ratio * dim)


def linear(in_features: int, out_features: int, *, zero: bool = False, bias: bool = True) -> nn.Linear:
    """A linear layer with Glorot's uniform weights (or 0) and no bias to begin with, as transformers are started."""
    layer = nn.Linear(in_features, out_features, bias=bias)
    nn.init.zeros_(layer.weight) if zero else nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
