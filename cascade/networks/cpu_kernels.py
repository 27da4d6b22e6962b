"""Attention and group norm on a processor in bf16, where torch's own are half as fast as its matrix products allow.

They are the same functions, for the networks that ask for them; elsewhere (float32, a graphics card, under a compiler)
torch's own run, and torch's attention also on processors with AMX or without products in bf16, where it is faster.
Both can be differentiated once.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SCORES = 2**20
"""Elements of the score matrices made at a time, so that they stay in the cache; a head that has more is torch's."""
NORMED = 2**18
"""Elements that are normalised at a time."""


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ/√d) v for q, k, v (B, H, T, d) → (B, H, T, d).

    In bf16 on a processor some heads at a time, whose scores are rounded to bf16 as those of a half-precision GPU are.

    >>> q, k, v = torch.randn(3, 2, 1, 8, 4).bfloat16()
    >>> torch.allclose(attention(q, k, v).float(), F.scaled_dot_product_attention(q, k, v).float(), atol=0.05)
    True
    """
    alike = k.shape == v.shape and (*q.shape[:2], q.shape[3]) == (*k.shape[:2], k.shape[3])
    fits = alike and q.numel() and 0 < q.shape[2] * k.shape[2] <= SCORES
    if not (fits and _on_cpu_in_bf16(q) and _is_faster()):
        return F.scaled_dot_product_attention(q, k, v)
    heads = [part.reshape(-1, *part.shape[-2:]) for part in (q * q.shape[-1] ** -0.5, k, v)]
    return _Attention.apply(*heads).view_as(q)


class _Attention(torch.autograd.Function):
    """softmax(q kᵀ) v of (N, T, d), whose scores are made again for the gradient instead of being kept."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        out = torch.empty_like(q)
        for part in _parts(len(q), q.shape[1] * k.shape[1], SCORES):
            torch.bmm(_probabilities(q[part], k[part]), v[part], out=out[part])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = ctx.saved_tensors
        gradient = gradient.contiguous()
        dq, dk, dv = (torch.empty_like(of) for of in (q, k, v))
        for part in _parts(len(q), q.shape[1] * k.shape[1], SCORES):
            p = _probabilities(q[part], k[part])
            torch.bmm(p.mT, gradient[part], out=dv[part])
            dp = torch.bmm(gradient[part], v[part].mT)
            ds = torch._softmax_backward_data(dp, p, -1, p.dtype)  # p·(dp − Σ p·dp)
            torch.bmm(ds, k[part], out=dq[part])
            torch.bmm(ds.mT, q[part], out=dk[part])
        return dq, dk, dv


def _probabilities(q: Tensor, k: Tensor) -> Tensor:
    return torch.bmm(q, k.mT).softmax(-1)


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """γ·(x − μ)/√(σ² + ε) + β, μ and σ² of each group of channels of an image: x (B, C, H, W) → (B, C, H, W).

    In bf16 on a processor with channels last in memory its gradient is made some images at a time, in float32.

    >>> x, weight, bias = torch.randn(2, 4, 3, 3), torch.ones(4), torch.zeros(4)
    >>> group_norm(x, 2, weight, bias, 1e-5).view(2, 2, -1).mean(-1).abs().max() < 1e-6
    tensor(True)
    """
    learning = torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight, bias))
    if learning and x.numel() and _on_cpu_in_bf16(x) and x.is_contiguous(memory_format=torch.channels_last):
        return _GroupNorm.apply(x, weight, bias, groups, eps)
    return F.group_norm(x, groups, weight, bias, eps)


class _GroupNorm(torch.autograd.Function):
    """Group norm of channels-last maps.

    With s = Σ dy·x, b = Σ dy over the pixels of a channel, r = 1/√(σ² + ε) and n the elements of a group,
    dx = γr·dy + c·x − (cμ + r/n·Σ γb), c = r³/n·(μ·Σ γb − Σ γs), the sums over its channels.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:  # noqa: PLR0917
        batch, channels, height, width = x.shape
        y, mean, rstd = torch.native_group_norm(
            x, weight.float(), bias.float(), batch, channels, height * width, groups, eps
        )
        ctx.save_for_backward(x, mean.float(), rstd.float(), weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, mean, rstd, weight = ctx.saved_tensors
        batch, groups = mean.shape
        dy, x = (_pixels(of) for of in (gradient.contiguous(memory_format=torch.channels_last), x))
        _, pixels, channels = x.shape
        parts = _parts(batch, pixels * channels, NORMED)
        wide = torch.empty(2, parts[0].stop, pixels, channels, dtype=torch.float32)
        s, b = torch.empty(2, batch, channels, dtype=torch.float32).unbind()
        for part in parts:
            dy32, x32 = _wide(wide, dy[part], x[part])
            torch.sum(dy32, 1, out=b[part])
            torch.sum(x32.mul_(dy32), 1, out=s[part])
        mean, rstd, gamma = mean[..., None], rstd[..., None], weight.float().view(groups, -1)
        s, b = s.view(batch, groups, -1), b.view(batch, groups, -1)
        of_x = (mean * (gamma * b).sum(-1, keepdim=True) - (gamma * s).sum(-1, keepdim=True)) * rstd**3
        of_x = of_x / (pixels * gamma.shape[1])
        of_one = of_x * mean + rstd * (gamma * b).sum(-1, keepdim=True) / (pixels * gamma.shape[1])
        factors = [f.expand_as(s).reshape(batch, 1, channels) for f in (gamma * rstd, of_x, of_one)]
        dx = torch.empty_like(dy)
        for part in parts:
            dy32, x32 = _wide(wide, dy[part], x[part])
            of_dy, of_x, of_one = (f[part] for f in factors)
            dx[part].copy_(dy32.mul_(of_dy).sub_(of_one).addcmul_(x32, of_x))
        dweight, dbias = (of.sum(0).flatten().to(weight.dtype) for of in (rstd * (s - mean * b), b))
        return dx.view(batch, *gradient.shape[2:], channels).movedim(-1, 1), dweight, dbias, None, None


def _pixels(maps: Tensor) -> Tensor:
    """(B, C, H, W) with the channels last in memory → (B, HW, C), no copy."""
    return maps.movedim(1, -1).flatten(1, 2)


def _wide(room: Tensor, *narrow: Tensor) -> list[Tensor]:
    """The same numbers in float32, in room that is there: new memory costs more than what is done in it."""
    return [of[: len(part)].copy_(part) for of, part in zip(room, narrow, strict=True)]


def _parts(count: int, size: int, most: int) -> list[slice]:
    """Slices of `count` things of that size each, equally long, of `most` elements or of one thing.

    Equally, so that what is computed of a thing does not depend on its place.

    >>> _parts(24, 10, 160)
    [slice(0, 12, None), slice(12, 24, None)]
    """
    step = max(n for n in range(1, count + 1) if count % n == 0 and (n * size <= most or n == 1))
    return [slice(start, start + step) for start in range(0, count, step)]


def _on_cpu_in_bf16(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.bfloat16 and not torch.compiler.is_compiling()


@cache
def _is_faster() -> bool:
    """Whether products are in bf16 here (else they take 3 times as long), and not by tiles, which torch's does well."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16")) and not able.get("amx_bf16")
