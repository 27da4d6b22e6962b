"""Exponential moving averages of the weights."""

import math

import torch
from torch import nn


@torch.no_grad()
def move_average(ema_module: nn.Module, module: nn.Module, decay: float) -> None:
    """θ̄ ← d·θ̄ + (1 − d)·θ in place, of every parameter; buffers are copied."""
    weight = 1 - decay
    for average, value in zip(ema_module.parameters(), module.parameters(), strict=True):
        average.lerp_(value.to(average), weight)
    for average, value in zip(ema_module.buffers(), module.buffers(), strict=True):
        average.copy_(value)


class ExponentialEMA:
    """θ̄ ← d·θ̄ + (1 − d)·θ with d = min(decay, (1 + step)/(warmup + step)).

    While it warms up, the average is a power function of the step: its mean age is 1/warmup of the steps made so
    far, and what is left of the initial weights falls as steps^{1 − warmup}. warmup = 1 is a constant decay.

    >>> ema = ExponentialEMA(0.999)
    >>> ema.decay(0), ema.decay(10**6)
    (0.1, 0.999)
    """

    others: tuple["ExponentialEMA", ...] = ()
    """Averages of other lengths that are tracked beside it."""

    def __init__(self, decay: float = 0.9999, warmup: float = 10.0) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), not {decay}")
        if not 1 <= warmup < math.inf:
            raise ValueError(f"warmup must be at least 1, not {warmup}")
        self.max_decay = decay
        self.warmup = warmup

    def decay(self, step: int) -> float:
        """Return d of the update after optimizer step `step`, counted from 0."""
        return min(self.max_decay, (1 + step) / (self.warmup + step))

    def update(self, ema_module: nn.Module, module: nn.Module, step: int) -> None:
        """Move the averaged weights of `ema_module` towards `module`'s, in place; buffers are copied.

        >>> average, model = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> ExponentialEMA(decay=0.0).update(average, model, step=0)
        >>> torch.equal(average.weight, model.weight)
        True
        """
        move_average(ema_module, module, self.decay(step))
