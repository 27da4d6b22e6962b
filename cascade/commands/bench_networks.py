"""What `cascade bench` times: the ADM U-Net here, diffusers' of the same size, and the calls that bound both."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from cascade.networks.adm import ADMUNet

MULT, BLOCKS, ATTENTION, HEAD = (1, 2, 3, 4), 2, (2, 4, 8), 64
_BOUND = ("convolution", "mm", "addmm", "bmm", "baddbmm", "softmax", "_softmax", "_scaled_dot_product")
"""Beginnings of the names of what no network can do without: convolutions, matrix products, attention."""


@dataclass(frozen=True, eq=False)
class Case:
    """A network in bf16 autocast and channels-last, and a batch for it; `made` reads its picture of what it returns.

    >>> case = Case.of_cascade(channels=32, side=8, batch=1, device=torch.device("cpu"))
    >>> case.forward().shape
    torch.Size([1, 3, 8, 8])
    """

    network: nn.Module
    x: Tensor
    made: Callable[[Any], Tensor] = lambda output: output

    @classmethod
    def of_cascade(cls, *, channels: int, side: int, batch: int, device: torch.device) -> "Case":
        """The one of this library: 64 channels at 64 px are "ADM, 64 channels, mult 1,2,3,4, attention 32,16,8"."""
        network = ADMUNet(
            channels=channels, channel_mult=MULT, blocks=BLOCKS, attention=ATTENTION, head_channels=_head(channels)
        )
        return cls(*_placed(network, side, batch, device))

    @classmethod
    def of_diffusers(cls, *, channels: int, side: int, batch: int, device: torch.device) -> "Case | None":
        """diffusers' of the same size; None where it is not installed."""
        try:
            from diffusers import UNet2DModel
        except ImportError:
            return None
        network = UNet2DModel(
            sample_size=side,
            layers_per_block=BLOCKS,
            block_out_channels=tuple(channels * times for times in MULT),
            down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * 3),
            up_block_types=(*["AttnUpBlock2D"] * 3, "UpBlock2D"),
            attention_head_dim=_head(channels),
            resnet_time_scale_shift="scale_shift",
            downsample_type="resnet",
            upsample_type="resnet",
        )
        return cls(*_placed(network, side, batch, device), made=lambda output: output.sample)

    @property
    def parameters(self) -> int:
        """How many it has."""
        return sum(p.numel() for p in self.network.parameters())

    def __call__(self) -> Tensor:
        """The output for the batch, at one noise level."""
        with torch.autocast(self.x.device.type, torch.bfloat16):
            return self.made(self.network(self.x, torch.full((len(self.x),), 500.0, device=self.x.device)))

    def forward(self) -> Tensor:
        """The output alone."""
        with torch.no_grad():
            return self()

    def training(self) -> None:
        """Output, loss and gradients."""
        self.network.zero_grad(set_to_none=True)
        (self().float() - self.x).square().mean().backward()


def _head(channels: int) -> int:
    return min(HEAD, channels)


def _placed(network: nn.Module, side: int, batch: int, device: torch.device) -> tuple[nn.Module, Tensor]:
    x = torch.linspace(-1, 1, batch * 3 * side * side, device=device).view(batch, 3, side, side)
    layout = torch.channels_last
    return network.to(device=device, memory_format=layout), x.contiguous(memory_format=layout)


@dataclass(frozen=True)
class _Like:
    """A tensor's shape, layout and type, without its numbers."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def made(self, device: torch.device) -> Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=device).fill_(0.5)


class Recorded(TorchDispatchMode):
    """The convolutions, products and attention of what runs inside, each kind and shape with how often it is called.

    >>> with Recorded() as calls:
    ...     _ = torch.ones(2, 3) @ torch.ones(3, 4) + 1
    >>> calls.number
    1
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[Any, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.__name__.startswith(_BOUND):
            self.counts[func, _frozen(args), _frozen(tuple(sorted(kwargs.items())))] += 1
        return func(*args, **kwargs)

    @property
    def number(self) -> int:
        """How many calls there were."""
        return self.counts.total()

    def replay(self, device: torch.device, seconds: Callable[[Callable[[], Any]], float]) -> float:
        """The time of all calls alone, by a clock of one call: each kind once, times how often it was made."""
        total = 0.0
        for (function, args, kwargs), times in self.counts.items():
            given, named = _thawed(args, device), dict(_thawed(kwargs, device))
            total += times * seconds(lambda f=function, a=given, k=named: f(*a, **k))
        return total


def _frozen(values: Any) -> Any:
    like = tree_map_only(Tensor, lambda t: _Like(tuple(t.shape), t.stride(), t.dtype), values)
    return _hashable(like)


def _hashable(values: Any) -> Any:
    return tuple(_hashable(v) for v in values) if isinstance(values, list | tuple) else values


def _thawed(values: Any, device: torch.device) -> Any:
    if isinstance(values, _Like):
        return values.made(device)
    return tuple(_thawed(v, device) for v in values) if isinstance(values, tuple) else values


def cases(sizes: Mapping[str, Any]) -> "dict[str, Case]":
    """The networks that are there, by name, the one of this library first."""
    ours, theirs = Case.of_cascade(**sizes), Case.of_diffusers(**sizes)
    return {"cascade": ours, **({} if theirs is None else {"diffusers": theirs})}
