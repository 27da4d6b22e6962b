"""Magnitude-preserving layers of EDM2 (Karras et al. 2024, "Analyzing and Improving the Training Dynamics").

What goes in with unit mean square comes out so, in expectation, and no layer has a bias. Numbers are those of arXiv
2312.02696v2.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-4


def normalize(x: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """x scaled to unit mean square over `dim` (None: all but the first); the length is taken in float32.

    Equation 30 over channels (pixel norm), 47 and 66 over fan-in (weights); ε stands as in algorithm 1.

    >>> normalize(torch.tensor([[3.0, 4.0]])).square().mean().round(decimals=3)
    tensor(1.)
    """
    if dim is None:
        dim = tuple(range(1, x.ndim))
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    rms = length * math.sqrt(length.numel() / x.numel())
    return x / (EPS + rms).to(x.dtype)


# Equation 81.
def mp_silu(x: Tensor) -> Tensor:
    """silu(x)/0.596, the root mean square of silu on N(0, 1)."""
    return F.silu(x) / 0.596


# Equation 88.
def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """((1 − t)·a + t·b)/√((1 − t)² + t²): unit for uncorrelated a and b of unit magnitude."""
    return a.lerp(b, t) / math.hypot(1 - t, t)


# Equation 103.
def mp_cat(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Channels of a and b, of which b makes the share t of what a convolution behind them sees.

    √((N_a + N_b)/((1−t)² + t²))·[(1 − t)/√N_a·a, t/√N_b·b].
    """
    n_a, n_b = a.shape[1], b.shape[1]
    scale = math.sqrt((n_a + n_b) / ((1 - t) ** 2 + t**2))
    return torch.cat([scale * (1 - t) / math.sqrt(n_a) * a, scale * t / math.sqrt(n_b) * b], dim=1)


# Equation 75.
class MPFourier(nn.Module):
    """√2·cos(2π(f·x + φ)), f ~ N(0, 1), φ ~ U(0, 1) drawn once: (B,) → (B, channels), at least float32.

    >>> MPFourier(256)(torch.zeros(1)).square().mean().round().item()  # of unit magnitude
    1.0
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * nn.init.normal_(torch.empty(channels)))
        self.register_buffer("phases", 2 * math.pi * nn.init.uniform_(torch.empty(channels)))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return math.sqrt(2) * (x[:, None] * self.freqs.to(x.dtype) + self.phases.to(x.dtype)).cos()


# Equation 47, with the forced weight normalisation of equation 66.
class MPConv(nn.Module):
    """Convolution (or with kernel 0 a linear layer) by weights of unit length for each output: ŵ/√fan-in · gain.

    In training the stored weights are set back to unit magnitude before they are used, so that the learning rate alone
    decides how far a step turns them. No bias; the padding is half of the kernel.

    >>> layer = MPConv(64, 16, 0)
    >>> layer(torch.randn(4, 64)).shape
    torch.Size([4, 16])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *([kernel] * 2 if kernel else [])))
        nn.init.normal_(self.weight)

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """x (B, C, H, W), or (B, C) with kernel 0."""
        if self.training:
            with torch.no_grad():
                self.weight.copy_(normalize(self.weight))
        weight = normalize(self.weight) * (gain / math.sqrt(self.weight[0].numel()))
        if weight.ndim == 2:
            return F.linear(x, weight.to(x.dtype))
        return F.conv2d(x, weight.to(x.dtype), padding=weight.shape[-1] // 2)
