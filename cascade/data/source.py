"""Open the dataset that a config names."""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from cascade import registry
from cascade.data.dataset import PictureDataset
from cascade.errors import CascadeError
from cascade.files import expanded

_FIRST = 256
"""So many pictures of a split are looked at before anything else is done."""


def check_source(config: Mapping[str, Any], resolution: int | None = None, splits: Collection[str] = ()) -> None:
    """Check what can be said of a source at once, without torch and without looking through it.

    Raises CascadeError for keys not given, folders that are not there, and parameters out of range; for `splits` at a
    resolution also where the first pictures of a folder are too small, or a cache is another one.
    """
    _refuse_missing(config)
    if resolution is not None and resolution < 1:
        raise CascadeError(f"the resolution must be at least 1, not {resolution}")
    if config["name"] == "folder":
        from cascade.data.folder import check_folder
        from cascade.data.listing import refuse_without_pictures

        keys = ("root", "small", "val_fraction", "workers")
        refuse_without_pictures(check_folder(**{key: config[key] for key in keys if key in config}))
        if resolution is not None:
            look_at_headers(config, resolution, splits, most=_FIRST)
    elif config["name"] == "cache":
        from cascade.data.cache import index_of, read_index

        root = expanded(config["root"])
        read_index(root) if resolution is None else index_of(root, resolution, splits)
    elif config["name"] == "procedural":
        for key, least in (("size", 1), ("val_size", 0)):
            if config.get(key) is not None and config[key] < least:
                raise CascadeError(f"data.{key}={config[key]} must be at least {least}")


def look_at_headers(
    config: Mapping[str, Any],
    resolution: int,
    splits: Collection[str],
    *,
    most: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Refuse a folder whose pictures are too small or too few by their headers, without torch; look at `most` at most.

    Of other sources `check_source` knows everything.
    """
    if config["name"] == "folder":
        from cascade.data.folder import check_pictures

        parameters = {key: value for key, value in config.items() if key not in ("name", "split")}
        for split in splits:
            check_pictures(resolution=resolution, split=split, most=most, progress=progress, **parameters)


def written_out(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a source with what it leaves to its other keys, so that it stays what it is.

    >>> written_out({"name": "procedural", "size": 480, "val_size": None})
    {'name': 'procedural', 'size': 480, 'val_size': 48}
    """
    if config["name"] != "procedural" or config.get("val_size") is not None:
        return dict(config)
    from cascade.data.procedural import ProceduralDataset, val_size_of

    return {**config, "val_size": val_size_of(config.get("size", ProceduralDataset.size))}


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
    _refuse_missing(config)
    context: dict[str, Any] = {"resolution": resolution, "split": split}
    if progress is not None and "name" in config:
        target = registry.resolve("data", config["name"])
        if "progress" in inspect.signature(target).parameters:
            context["progress"] = progress
    return registry.build("data", config, **context)


def _refuse_missing(config: Mapping[str, Any]) -> None:
    for key, value in config.items():
        if value == "???":
            raise CascadeError(f"data.{key} is not given; say data.{key}=…")
