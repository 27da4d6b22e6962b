"""A published checkpoint read without executing anything in it."""

import pickle
import warnings
from pathlib import Path

import torch
from torch import Tensor

from cascade.errors import CascadeError


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the state dict that `torch.save` wrote to `path`, or a safetensors file, as float32 on the CPU.

    Only tensors and plain containers are read (`weights_only=True`). Raises CascadeError for a missing or damaged file,
    one that holds code, and one that is no state dict.
    """
    if not path.is_file():
        raise CascadeError(f"there is no checkpoint '{path}'")
    try:
        state = _load(path)
    except pickle.UnpicklingError as error:
        raise CascadeError(f"'{path}' holds something else than weights, and none of it is executed") from error
    except (RuntimeError, ValueError, EOFError, KeyError) as error:
        raise CascadeError(f"'{path}' is damaged or no checkpoint: {_first(error)}") from error
    if not isinstance(state, dict) or not state or not all(_is_weight(*item) for item in state.items()):
        raise CascadeError(f"'{path}' is no state dict: expected names with a tensor each")
    return {name: tensor.float() for name, tensor in state.items()}


def _load(path: Path) -> object:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the protocol of old files, which are read nevertheless
        return torch.load(path, map_location="cpu", weights_only=True)


def _is_weight(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
