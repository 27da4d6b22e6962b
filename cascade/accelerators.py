"""Whether this machine lacks a kind of device, told in milliseconds: importing torch to ask it takes seconds."""

import ctypes
import re
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path


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
