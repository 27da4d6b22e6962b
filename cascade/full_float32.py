"""Float32 that is float32, no TF32 on a GPU and no bfloat16 on a processor, and one algorithm for each convolution."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch

_PLACES = (
    torch.backends.cuda.matmul,
    torch.backends.cudnn.conv,
    torch.backends.cudnn.rnn,
    torch.backends.mkldnn.matmul,
    torch.backends.mkldnn.conv,
    torch.backends.mkldnn.rnn,
)

_lock = Lock()
_found: list[tuple[list[str], bool, bool]] = []
"""What each that is within now has found set: the first of them what a training had."""


@contextmanager
def full_float32() -> Iterator[None]:
    """Within it no product of float32 rounds what goes in; whatever was set before is set again behind it.

    Left to itself cuDNN rounds the inputs of a convolution to the 10 bits of TF32, and a training may have allowed that
    for matrices too (`torch.set_float32_matmul_precision`): a figure would then depend on the card and on who asks.

    The switches are the process's: of several within it at once, in threads, the first keeps what was set and the last
    sets it again.

    >>> with full_float32():
    ...     torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    ('ieee', 'ieee')
    """
    with _lock:
        _found.append(_settings())
        _set((["ieee"] * len(_PLACES), False, True))
    try:
        yield
    finally:
        with _lock:
            first = _found[0]
            _found.pop()
            if not _found:
                _set(first)


@contextmanager
def one_gradient() -> Iterator[None]:
    """Within it cuDNN adds up the gradient of a convolution in one order, so that a resumed run is the unbroken one.

    Left to itself it may take an algorithm whose sums come in any order.

    >>> with one_gradient():
    ...     torch.backends.cudnn.deterministic
    True
    """
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def _settings() -> tuple[list[str], bool, bool]:
    cudnn = torch.backends.cudnn
    return [place.fp32_precision for place in _PLACES], cudnn.benchmark, cudnn.deterministic


def _set(settings: tuple[list[str], bool, bool]) -> None:
    precisions, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = settings
    for place, precision in zip(_PLACES, precisions, strict=True):
        place.fp32_precision = precision
