"""Pictures decoded once and for all: a folder that training reads by memory-map.

    CACHE/index.json      schema 1: resolution, class table; of each split the count, SHA-256, fingerprint, labels
    CACHE/train.u8        (N, 3, R, R) uint8, nothing else
    CACHE/val.u8
    CACHE/bad_files.csv   what was left out, and why

The folder is made under another name beside its place and renamed at the end: there is never a half-written cache.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade.class_tables import refuse_other_table
from cascade.data.dataset import UNLABELLED, PictureDataset
from cascade.data.folder import BadFile, FolderDataset, write_bad_files
from cascade.data.parallel import available_cores, ordered_map
from cascade.errors import CascadeError, suggest
from cascade.files import expanded, replace_folder, sha256_of, write_whole

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1
INDEX = "index.json"


class CachedDataset:
    """One split of a cache: the same pictures, labels and fingerprint as the dataset it was made from, bit for bit.

    The sizes of the files are checked at once, their SHA-256 with `verify=True`. Workers share the pages of the map.
    Raises CascadeError for a folder that is no cache, a damaged one, another resolution, or a split it lacks.

    >>> import tempfile, torch; from cascade.data.procedural import ProceduralDataset
    >>> source = ProceduralDataset(resolution=16, split="val", val_size=6)
    >>> folder = Path(tempfile.mkdtemp()) / "cache"
    >>> write_cache({"val": source}, folder)
    >>> torch.equal(CachedDataset(folder, resolution=16, split="val").image(5), source.image(5))
    True
    """

    def __init__(self, root: str | Path, resolution: int, split: str = "train", *, verify: bool = False) -> None:
        self.root, self.resolution, self.split = expanded(root), resolution, split
        index = index_of(self.root, resolution, [split])
        entry = index["splits"][split]
        self.class_names: list[str] = index["class_names"]
        self.labels: list[int] = entry["labels"]
        self.fingerprint: str = entry["fingerprint"]
        self.file = self.root / entry["file"]
        self._shape = (entry["count"], 3, resolution, resolution)
        self._map: np.memmap | None = None
        _check(self.file, self._shape, entry["sha256"] if verify else None)

    def __len__(self) -> int:
        return self._shape[0]

    def image(self, index: int) -> "Tensor":
        """Picture `index`, uint8 (3, R, R)."""
        import torch

        if self._map is None:
            self._map = np.memmap(self.file, dtype=np.uint8, mode="r", shape=self._shape)
        return torch.from_numpy(np.array(self._map[index]))

    def label(self, index: int) -> int:
        """The class of picture `index`, a place in `class_names`, or −1."""
        return self.labels[index]

    def __getstate__(self) -> dict[str, Any]:
        # A pickled map would carry all its pictures; a worker opens its own.
        return self.__dict__ | {"_map": None}


def write_cache(
    datasets: Mapping[str, PictureDataset],
    folder: str | Path,
    workers: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Write the splits in `datasets` (of one resolution and class table) to a new cache, whole or not at all.

    Pictures are decoded in `workers` threads (default: all cores) and `progress(done, total)` is told.
    Raises CascadeError if the folder holds something already, or the disk has too little room.
    """
    folder = Path(folder)
    first = next(iter(datasets.values()))
    for split, dataset in datasets.items():
        if dataset.resolution != first.resolution:
            raise CascadeError("the splits of a cache need the same resolution")
        named = (f"split '{next(iter(datasets))}'", first.class_names, f"split '{split}'", dataset.class_names)
        refuse_other_table(*named)
    refuse_occupied(folder)
    total = sum(len(dataset) for dataset in datasets.values())
    needed, free = total * 3 * first.resolution**2, _free_bytes(folder.absolute().parent)
    if needed > free:
        raise CascadeError(f"the cache {folder} needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free")

    def fill(new: Path) -> None:
        splits, bad_files, done = {}, [], 0
        for split, dataset in datasets.items():
            offset = done

            def tell(written: int, offset: int = offset) -> None:
                if progress is not None:
                    progress(offset + written, total)

            sha256 = _write_pictures(dataset, new / f"{split}.u8", workers or available_cores(), tell)
            splits[split] = {
                "file": f"{split}.u8",
                "count": len(dataset),
                "sha256": sha256,
                "fingerprint": dataset.fingerprint,
                "labels": [dataset.label(i) for i in range(len(dataset))],
                "paths": dataset.paths if isinstance(dataset, FolderDataset) else None,
            }
            bad_files += dataset.bad_files if isinstance(dataset, FolderDataset) else []
            done += len(dataset)
        _write_index(new, first, splits, list(dict.fromkeys(bad_files)))

    try:
        replace_folder(folder, fill)
    except OSError as error:
        raise CascadeError(f"the cache {folder} cannot be written: {error.strerror or error}") from error


def refuse_occupied(folder: Path) -> None:
    """Raise CascadeError if `folder` is there and not empty."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise CascadeError(f"{folder} exists already; choose another place, or remove it")


def index_of(root: Path, resolution: int, splits: Collection[str]) -> dict[str, Any]:
    """The index of a cache of pictures of this resolution with these splits; raises CascadeError for another one."""
    index = read_index(root)
    if index["resolution"] != resolution:
        raise CascadeError(
            f"the cache {root} holds pictures of {index['resolution']} px, not {resolution}; "
            f"`cascade prepare` makes one with resolution={resolution}"
        )
    for split in splits:
        if split not in index["splits"]:
            raise CascadeError(f"the cache {root} has no split '{split}'; {suggest(split, index['splits'])}")
    return index


def read_index(root: Path) -> dict[str, Any]:
    """Read and check `index.json` of a cache; raises CascadeError where it is missing or damaged."""
    path = root / INDEX
    if not root.is_dir():
        raise CascadeError(f"the folder {root} {'is a file' if root.exists() else 'does not exist'}")
    if not path.is_file():
        raise CascadeError(f"{root} is not a cache (it has no {INDEX}); `cascade prepare` makes one")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["schema"] != SCHEMA:
            raise CascadeError(f"{path} has schema {index['schema']}; this version reads {SCHEMA}")
        sound = isinstance(index["resolution"], int) and isinstance(index["class_names"], list)
        allowed = range(len(index["class_names"])) if index["class_names"] else (UNLABELLED,)
        for split, entry in index["splits"].items():
            sound = sound and entry["file"] == f"{split}.u8" and len(entry["labels"]) == entry["count"]
            sound = sound and {"sha256", "fingerprint"} <= set(entry) and all(n in allowed for n in entry["labels"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CascadeError(f"{path} is damaged ({type(error).__name__}: {error}); make the cache again") from error
    if not sound:
        raise CascadeError(f"{path} is damaged; make the cache again")
    return index


def _write_pictures(dataset: PictureDataset, path: Path, workers: int, tell: Callable[[int], object]) -> str:
    """Write (N, 3, R, R) uint8 and return its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for i, picture in enumerate(ordered_map(dataset.image, range(len(dataset)), workers)):
            raw = picture.numpy().tobytes()
            file.write(raw)
            digest.update(raw)
            tell(i + 1)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _write_index(folder: Path, dataset: PictureDataset, splits: dict[str, Any], bad_files: list[BadFile]) -> None:
    write_bad_files(folder / "bad_files.csv", bad_files)
    index = {
        "schema": SCHEMA,
        "resolution": dataset.resolution,
        "class_names": list(dataset.class_names),
        "splits": splits,
    }
    write_whole(folder / INDEX, json.dumps(index))


def _free_bytes(place: Path) -> int:
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _check(file: Path, shape: tuple[int, ...], sha256: str | None) -> None:
    expected = int(np.prod(shape, dtype=np.int64))
    actual = file.stat().st_size if file.is_file() else 0
    if actual != expected:
        raise CascadeError(f"{file} has {actual} bytes and should have {expected}; make the cache again")
    if sha256 is not None and sha256_of(file) != sha256:
        raise CascadeError(f"{file} is damaged: its SHA-256 is not that of {INDEX}; make the cache again")
