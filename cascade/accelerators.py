"""Whether this machine lacks a kind of device, told in milliseconds: importing torch to ask it takes seconds."""

import ctypes
import re
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from cascade.errors import CascadeError, suggest

ACCELERATORS = ("auto", "cpu", "gpu", "mps")


def check_accelerator(accelerator: str) -> None:
    """Refuse a `trainer.accelerator` that is none, or whose device is certainly not here."""
    if accelerator not in ACCELERATORS:
        raise CascadeError(f"unknown trainer.accelerator '{accelerator}'; {suggest(str(accelerator), ACCELERATORS)}")
    refuse_missing(accelerator, is_missing)


def refuse_missing(accelerator: str, missing: Callable[[str], bool]) -> None:
    """Refuse a `trainer.accelerator` whose device ("cuda", "mps") is `missing`."""
    device, what = {"gpu": ("cuda", "GPU"), "mps": ("mps", "GPU of Apple's")}.get(accelerator, ("cpu", ""))
    if missing(device):
        raise CascadeError(
            f"trainer.accelerator={accelerator}, but torch finds no {what} here; say trainer.accelerator=cpu"
        )


@cache
def is_missing(kind: str) -> bool:
    """Whether it is certain without torch that `kind` of device ("cuda", "mps", ...) cannot be used here.

    False leaves it to torch. "cuda" is AMD's too.

    >>> is_missing("cpu")
    False
    """
    if kind == "mps":
        return sys.platform != "darwin"
    if kind != "cuda":
        return False
    built_for = _built_for()
    return not built_for or (built_for == {"cuda"} and sys.platform == "linux" and not _has_library("libcuda.so.1"))


def _built_for() -> set[str]:
    """Which of "cuda" and "hip" the installed torch was built for, as its file of versions says."""
    spec = find_spec("torch")
    file = None if spec is None or spec.origin is None else Path(spec.origin).with_name("version.py")
    if file is None or not file.is_file():
        return {"cuda", "hip"}  # nothing can be said
    return set(re.findall(r"^(cuda|hip)\b[^=]*= *['\"]", file.read_text(encoding="utf-8"), re.MULTILINE))


def _has_library(name: str) -> bool:
    """Whether the driver's library can be loaded, which torch does before anything else."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
