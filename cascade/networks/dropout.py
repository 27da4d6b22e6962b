"""Dropout whose mask is a pure function of the image's own generator, not of the batch or the process it sits in."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

_GENERATORS: ContextVar[Sequence[torch.Generator] | None] = ContextVar("dropout_generators", default=None)


@contextmanager
def seeded_dropout(generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Within this context every `Dropout` draws the mask of image i from `generators[i]` (CPU generators), in turn.

    So the same global batch on one process or on two, in one piece or in micro-batches, meets the same masks.

    >>> from cascade.rng import generator
    >>> layer, x = Dropout(0.5), torch.ones(2, 1, 4, 4)
    >>> with seeded_dropout([generator("a"), generator("b")]):
    ...     both = layer(x)
    >>> with seeded_dropout([generator("b")]):
    ...     torch.equal(layer(x[1:]), both[1:])
    True
    """
    token = _GENERATORS.set(generators)
    try:
        yield
    finally:
        _GENERATORS.reset(token)


class Dropout(nn.Module):
    """y = x·m/(1 − p) with m ~ Bernoulli(1 − p) in training; the identity in evaluation and at p = 0.

    Srivastava et al., "Dropout" (2014), in its inverted form. Training outside `seeded_dropout` is a RuntimeError,
    since it would need a global generator.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"dropout is a probability in [0, 1), not {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of x (B, ...); image i by its own generator."""
        if self.p == 0.0 or not self.training:
            return x
        generators = _GENERATORS.get()
        if generators is None:
            raise RuntimeError("dropout in training needs `with seeded_dropout(generators):` around the forward pass")
        if len(generators) != len(x):
            raise RuntimeError(f"seeded_dropout holds {len(generators)} generators for a batch of {len(x)}")
        mask = torch.empty(x.shape, dtype=torch.float32)
        for row, generator in zip(mask, generators, strict=True):
            row.bernoulli_(1.0 - self.p, generator=generator)
        mask = mask.div_(1.0 - self.p).to(device=x.device, dtype=x.dtype)
        return x * mask
