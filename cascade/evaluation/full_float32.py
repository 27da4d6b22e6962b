"""Float32 that is float32: no TF32 on a GPU, no bfloat16 on a processor, and one algorithm for each convolution."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_PLACES = (
    torch.backends.cuda.matmul,
    torch.backends.cudnn.conv,
    torch.backends.cudnn.rnn,
    torch.backends.mkldnn.matmul,
    torch.backends.mkldnn.conv,
    torch.backends.mkldnn.rnn,
)


@contextmanager
def full_float32() -> Iterator[None]:
    """Within it no product of float32 rounds what goes in; whatever was set before is set again behind it.

    Left to itself cuDNN rounds the inputs of a convolution to the 10 bits of TF32, and a training may have allowed that
    for matrices too (`torch.set_float32_matmul_precision`): a figure would then depend on the card and on who asks.

    >>> with full_float32():
    ...     torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    ('ieee', 'ieee')
    """
    cudnn = torch.backends.cudnn
    precisions, algorithms = [place.fp32_precision for place in _PLACES], (cudnn.benchmark, cudnn.deterministic)
    try:
        for place in _PLACES:
            place.fp32_precision = "ieee"
        cudnn.benchmark, cudnn.deterministic = False, True
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = algorithms
        for place, precision in zip(_PLACES, precisions, strict=True):
            place.fp32_precision = precision
