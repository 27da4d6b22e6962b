"""Open the dataset that a config names."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from cascade import registry
from cascade.data.dataset import PictureDataset
from cascade.errors import CascadeError


def open_dataset(
    config: Mapping[str, Any],
    resolution: int,
    split: str,
    progress: Callable[[int, int], object] | None = None,
) -> PictureDataset:
    """Open `{name: folder, root: …}` at a resolution; sources that take time to open tell `progress(done, total)`.

    >>> open_dataset({"name": "procedural", "size": 6}, resolution=16, split="train").image(0).shape
    torch.Size([3, 16, 16])
    """
    for key, value in config.items():
        if value == "???":
            raise CascadeError(f"data.{key} is not given; say data.{key}=…")
    context: dict[str, Any] = {"resolution": resolution, "split": split}
    if progress is not None and "name" in config:
        target = registry.resolve("data", config["name"])
        if "progress" in inspect.signature(target).parameters:
            context["progress"] = progress
    return registry.build("data", config, **context)
