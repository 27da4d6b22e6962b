"""What a network costs: parameters, and floating-point operations of one call."""

from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from cascade.networks.low_res import BaseNetwork


@dataclass(frozen=True)
class Cost:
    """Number of parameters, and FLOP (a multiplication and an addition are two) of one forward pass on one image.

    A training step is three times the forward pass.

    >>> Cost(parameters=6_000_000, flop=1_800_000_000).flop
    1800000000
    """

    parameters: int
    flop: int


def cost(network: nn.Module, size: int, factor: int = 4, shown: int = 3) -> Cost:
    """Measure a wrapped network (shown pictures of `shown` channels, smaller by `factor`) at size × size pixels.

    Counts convolutions and matrix products, which are all but a few per cent. It is a matter of shapes, and no number
    is computed where the network lets itself be run without any.

    >>> from cascade.networks import BaseNetwork, EfficientUNet
    >>> cost(BaseNetwork(EfficientUNet(channels=(16,), blocks=(0,), attention=(False,), embedding_dim=8)), 8)
    Cost(parameters=4620, flop=112768)
    """
    parameters = sum(p.numel() for p in network.parameters())
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return Cost(parameters, _flop(network, size, factor, shown))
    except DataDependentOutputException:  # it looks at a number, so there must be some
        return Cost(parameters, _flop(network, size, factor, shown))


def _flop(network: nn.Module, size: int, factor: int, shown: int) -> int:
    some = next(network.parameters())
    x = torch.zeros(1, 3, size, size, device=some.device, dtype=some.dtype)
    level = torch.zeros(1, device=some.device, dtype=some.dtype)
    low = {}
    if not isinstance(network, BaseNetwork):
        low = {"low_res": x.new_zeros(1, shown, size // factor, size // factor), "aug_log_snr": level + torch.inf}
    named = None if getattr(getattr(network, "network", None), "null_label", True) else level.long()  # no class "none"
    training = network.training
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(x, level, named, **low)
    finally:
        network.train(training)
    return counter.get_total_flops()
