"""The parts of ADM's networks, under the key names of the published state dicts."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade.networks.cpu_kernels import attention, group_norm
from cascade.networks.dropout import Dropout
from cascade.networks.layers import zeroed

QKV_ORDERS = ("heads_first", "qkv_first")
"""Layouts of the channels of `qkv`: [head, (q, k, v), channel], ADM's "legacy" order, or [(q, k, v), head, channel]."""


def step_embedding(step: Tensor, dim: int) -> Tensor:
    """cos and sin of step·10000^{−i/(dim/2)}, i < dim/2: (B,) → (B, dim), at least float32; 0 in an odd last place.

    Vaswani et al. 2017, section 3.5, in the order of Ho et al. 2020's code as ADM has it.

    >>> step_embedding(torch.tensor([0.0]), 4)
    tensor([[1., 1., 0., 0.]])
    """
    step = step.to(torch.promote_types(step.dtype, torch.float32))
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, dtype=step.dtype, device=step.device) * (-math.log(10000) / half))
    phases = step[:, None] * frequencies
    return F.pad(torch.cat([phases.cos(), phases.sin()], dim=-1), (0, dim % 2))


class Norm(nn.GroupNorm):
    """Group norm of 32 groups. Raises ValueError where 32 does not divide the channels.

    >>> Norm(64).num_groups
    32
    """

    def __init__(self, channels: int) -> None:
        if channels % 32:
            raise ValueError(f"ADM normalises 32 groups of channels, and {channels} is no multiple of 32")
        super().__init__(32, channels)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class Told(nn.Sequential):
    """Layers in turn, of which the residual blocks are told the embedding.

    >>> Told(nn.Conv2d(3, 32, 1), Down(32, conv=False))(torch.randn(2, 3, 8, 8), torch.randn(2, 16)).shape
    torch.Size([2, 32, 4, 4])
    """

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, C, H, W), embedding (B, E), after its SiLU."""
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ADMBlock) else layer(x)
        return x


class Down(nn.Module):
    """Half the side: the mean of 2×2 pixels, or with `conv` a 3×3 convolution of stride 2.

    >>> Down(1, conv=False)(torch.arange(4.0).reshape(1, 1, 2, 2))
    tensor([[[[1.5000]]]])
    """

    def __init__(self, channels: int, conv: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if conv else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H/2, W/2)."""
        return self.op(x)


class Up(nn.Module):
    """Twice the side: each pixel 2×2 times, with `conv` a 3×3 convolution behind.

    >>> Up(1, conv=False)(torch.ones(1, 1, 1, 1)).shape
    torch.Size([1, 1, 2, 2])
    """

    def __init__(self, channels: int, conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, 2H, 2W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class ADMBlock(nn.Module):
    """BigGAN's residual block, told by adaptive group normalisation (Dhariwal & Nichol 2021, section 3.1 and table 3).

    h = conv(silu(norm(x))); with `scale_shift` h ← norm(h)·(1 + a) + b, else h ← norm(h + b), a and b linear in
    silu(embedding); y = skip(x) + conv(dropout(silu(h))). `resample` (`Down` or `Up` without convolution) changes the
    side between the first SiLU and its convolution, and of x. The last convolution is 0 before training.

    >>> block = ADMBlock(32, 64, 16, dropout=0.0, scale_shift=True)
    >>> block(torch.randn(2, 32, 8, 8), torch.randn(2, 16)).shape
    torch.Size([2, 64, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_dim: int,
        *,
        dropout: float,
        scale_shift: bool,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = nn.Identity() if resample is None else resample
        conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.in_layers = nn.Sequential(Norm(in_channels), nn.SiLU(), conv)
        told = 2 * out_channels if scale_shift else out_channels
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding_dim, told))
        last = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.out_layers = nn.Sequential(Norm(out_channels), nn.SiLU(), Dropout(dropout), last)
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, C, H, W), embedding (B, E) after its SiLU → (B, out_channels, H′, W′)."""
        norm, silu, conv = self.in_layers
        h = conv(self.resample(silu(norm(x))))
        # The SiLU of emb_layers is taken once for the whole network; the layer holds its place among the keys.
        told = self.emb_layers[1](embedding)[:, :, None, None].to(h.dtype)
        norm, silu, dropout, conv = self.out_layers
        if self.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            h = torch.addcmul(shift, norm(h), 1 + scale)
        else:
            h = norm(h + told)
        return self.skip_connection(self.resample(x)) + conv(dropout(silu(h)))


class Attention(nn.Module):
    """x + W_o·softmax(qᵀk/√d)·v over all pixels, in heads of d channels; q, k, v and W_o are 1×1 convolutions.

    `qkv_order` is one of `QKV_ORDERS`. W_o is 0 before training. Raises ValueError where the heads do not divide.

    >>> attention, x = Attention(32, heads=2, qkv_order="qkv_first"), torch.randn(2, 32, 4, 4)
    >>> torch.equal(attention(x), x)  # before training
    True
    """

    def __init__(self, channels: int, heads: int, qkv_order: str) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{heads} heads do not divide {channels} channels")
        if qkv_order not in QKV_ORDERS:
            raise ValueError(f"qkv_order is {' or '.join(QKV_ORDERS)}, not '{qkv_order}'")
        self.heads, self.heads_first = heads, qkv_order == "heads_first"
        self.norm = Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        batch, channels, height, width = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        mixed = attend(pointwise(self.qkv, tokens), self.heads, self.heads_first)
        mixed = pointwise(self.proj_out, mixed)
        return x + mixed.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def pointwise(conv: nn.Conv1d, tokens: Tensor) -> Tensor:
    """A 1×1 convolution on (B, T, C), where it is a matrix product and no copy."""
    return F.linear(tokens, conv.weight.squeeze(-1), conv.bias)


def attend(qkv: Tensor, heads: int, heads_first: bool) -> Tensor:
    """(B, T, 3C) → softmax(q kᵀ/√d) v in each head, (B, T, C)."""
    batch, length, width = qkv.shape
    if heads_first:
        q, k, v = qkv.reshape(batch, length, heads, 3, -1).permute(3, 0, 2, 1, 4)
    else:
        q, k, v = qkv.reshape(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
    mixed = attention(q, k, v)
    return mixed.transpose(1, 2).reshape(batch, length, width // 3)
