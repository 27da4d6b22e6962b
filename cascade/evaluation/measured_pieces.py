"""A measurement made in pieces: each as bytes on a disk, and all in order put together again."""

import json
from collections.abc import Sequence

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from cascade.errors import CascadeError
from cascade.evaluation.measurement import Measurement
from cascade.evaluation.spectrum import RadialSpectrum

_SPECTRUM = ("frequency", "power", "cells")
_OF_EACH = ("rms", "shift")


def to_bytes(piece: Measurement) -> bytes:
    """A measurement as safetensors, which hold no code: features and all else, not only sums.

    >>> spectrum = RadialSpectrum(*torch.ones(3, 4, dtype=torch.float64), count=2)
    >>> from_bytes(to_bytes(Measurement(torch.zeros(2, 5), spectrum, side=8))).side
    8
    """
    tensors = {"features": piece.features}
    tensors |= {name: getattr(piece.spectrum, name) for name in _SPECTRUM}
    tensors |= {name: getattr(piece, name) for name in _OF_EACH if getattr(piece, name) is not None}
    numbers = {"side": piece.side, "low_res": piece.low_res, "count": piece.spectrum.count}
    return safetensors.torch.save(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, {"measurement": json.dumps(numbers)}
    )


def from_bytes(data: bytes) -> Measurement:
    """Read what `to_bytes` has made; raises CascadeError for anything else."""
    try:
        tensors = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        numbers = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["measurement"])
        spectrum = RadialSpectrum(*(tensors.pop(name) for name in _SPECTRUM), count=numbers["count"])
        features = tensors.pop("features")
        return Measurement(features, spectrum, numbers["side"], numbers["low_res"], **tensors)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CascadeError("it is no measurement of pictures") from error


def merged(pieces: Sequence[Measurement]) -> Measurement:
    """The measurement of all pictures, from those of pieces in their order.

    The power of all is Σ nᵢ·powerᵢ / Σ nᵢ. Raises CascadeError for no pieces, or pieces that do not fit together.

    >>> of = lambda power: RadialSpectrum(torch.ones(1), torch.tensor([power]), torch.ones(1), count=1)
    >>> merged([Measurement(torch.zeros(1, 2), of(power), side=8) for power in (1.0, 3.0)]).spectrum.power
    tensor([2.])
    """
    if not pieces:
        raise CascadeError("there are no pictures to measure")
    first = pieces[0]
    for other in pieces[1:]:
        if (other.side, other.low_res) != (first.side, first.low_res):
            raise CascadeError(f"pictures of {first.side} and of {other.side} px cannot be measured together")
    count, power = 0, torch.zeros_like(first.spectrum.power)
    for piece in pieces:
        count += piece.spectrum.count
        power = power + piece.spectrum.count * piece.spectrum.power
    spectrum = RadialSpectrum(first.spectrum.frequency, power / count, first.spectrum.cells, count)
    rms, shift = (_joined([getattr(piece, name) for piece in pieces]) for name in _OF_EACH)
    features = torch.cat([piece.features for piece in pieces])
    return Measurement(features, spectrum, first.side, first.low_res, rms, shift)


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None
