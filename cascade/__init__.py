"""A pixel-space cascaded diffusion pipeline: train the stages apart, chain them to 1024 px, evaluate honestly.

`import cascade` is light: torch is imported when a public name is first used.

>>> import cascade
>>> "CascadePipeline" in dir(cascade)
True
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["CascadePipeline", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "CascadePipeline":
        return import_module("cascade.orchestrator").CascadePipeline
    raise AttributeError(f"module 'cascade' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
