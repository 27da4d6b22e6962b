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
    """y = x·m/(1 − p) with m ~ Bernoulli(1 − p) in training; the identity in evaluation and at p = 0 (p to 16 bits).

    Srivastava et al., "Dropout" (2014), in its inverted form. Training outside `seeded_dropout` is a RuntimeError,
    since it would need a global generator.

    >>> dropout, x = Dropout(0.5), torch.ones(1, 6)
    >>> torch.equal(dropout.eval()(x), x)
    True
    >>> with seeded_dropout([torch.Generator().manual_seed(0)]):
    ...     sorted(set(dropout.train()(x.expand(1, 6)).flatten().tolist()))
    [0.0, 2.0]
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
        return x * self._mask(x, generators)

    def _mask(self, x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        # 16 random bits an element, four to a word: 5 times as fast as bernoulli_. Pictures are filled pixel by pixel
        # (channels last) whatever the layout of x, so the layout does not change the mask.
        dropped = min(round(self.p * 2**16), 2**16 - 1)
        count = x[0].numel()
        words = torch.empty(len(x), (count + 3) // 4, dtype=torch.int64)
        for row, generator in zip(words, generators, strict=True):
            row.random_(-(2**63), None, generator=generator)
        mask = (words.view(torch.int16)[:, :count] >= dropped - 2**15).to(x.dtype).mul_(2**16 / (2**16 - dropped))
        if x.ndim == 4:
            batch, channels, height, width = x.shape
            mask = mask.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        return mask.reshape(x.shape).to(x.device)
