"""Your own photographs: a folder of pictures of any size and format, with class folders or without."""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cascade.data.dataset import UNLABELLED
from cascade.data.listing import Found, Listing, list_pictures, rank
from cascade.data.parallel import available_cores, ordered_map
from cascade.data.picture import UnreadablePicture, read_square, size_of
from cascade.errors import CascadeError, suggest
from cascade.files import expanded, sha256_of, write_whole

if TYPE_CHECKING:
    from torch import Tensor

SMALL = ("error", "skip", "upscale")
VERSION = 1  # goes up when the same file gives other pixels

Progress = Callable[[int, int], object]
"""progress(done, total), called for every file."""


@dataclass(frozen=True)
class BadFile:
    """A file that was left out: its path below the root, and why.

    >>> BadFile("hat/7.png", "it is cut short").path
    'hat/7.png'
    """

    path: str
    reason: str


def write_bad_files(path: str | Path, bad_files: list[BadFile]) -> None:
    """Write `bad_files.csv`: a header, then one row (path, reason) for each file, in order."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "reason"])
    writer.writerows((bad.path, bad.reason) for bad in bad_files)
    # A file name that is not UTF-8 is written as the bytes it has on disk.
    write_whole(path, text.getvalue().encode("utf-8", "surrogateescape"))


def check_folder(
    root: str | Path, small: str = "error", val_fraction: float = 0.05, workers: int | None = None
) -> Path:
    """Check the parameters of a `FolderDataset` without looking into the folder, and return the root."""
    if small not in SMALL:
        raise CascadeError(f"data.small={small}: unknown choice; {suggest(str(small), SMALL)}")
    if not 0 <= val_fraction < 1:
        raise CascadeError(f"data.val_fraction={val_fraction} must be at least 0 and less than 1")
    if workers is not None and workers < 1:
        raise CascadeError(f"data.workers={workers} must be at least 1")
    path = expanded(root)
    if not path.is_dir():
        raise CascadeError(f"the folder {path} {'is a file' if path.exists() else 'does not exist'}")
    return path


class FolderDataset:
    """The centre squares of the pictures in a folder, at one resolution, decoded whenever they are asked for.

    ROOT/{train,val}/CLASS/…, ROOT/CLASS/… or ROOT/… (`list_pictures`); `labelled=False` ignores the class folders.
    `split` is "train", "val" or "all". Every file is decoded once at the beginning, so that a file that cannot be read
    is left out, named in `bad_files` and counted, whatever the number of loader workers or processes. Where a part of
    the pictures is chosen for validation, one that can be read is in it.
    `small` says what happens to pictures whose shorter side is less than the resolution: "error", "skip" (they go to
    `bad_files`) or "upscale". `workers` threads look the files through (default: all cores) and tell `progress`.

    Raises CascadeError for a root without (readable) pictures, pictures that are too small, a class without pictures.

    >>> import tempfile; from PIL import Image; root = Path(tempfile.mkdtemp())
    >>> for name in ("cat", "dog"):
    ...     (root / name).mkdir(); Image.new("L", (40, 32), 128).save(root / name / "1.png")
    >>> dataset = FolderDataset(root, resolution=16, split="all")
    >>> dataset.class_names, dataset.label(1), dataset.image(1).shape
    (['cat', 'dog'], 1, torch.Size([3, 16, 16]))
    """

    def __init__(
        self,
        root: str | Path,
        resolution: int,
        split: str = "train",
        *,
        labelled: bool = True,
        val_fraction: float = 0.05,
        small: str = "error",
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        if resolution < 1:
            raise CascadeError(f"resolution={resolution} must be at least 1")
        self.root = check_folder(root, small, val_fraction, workers)
        self.resolution, self.split = resolution, split
        listing = list_pictures(self.root, split, labelled, val_fraction)
        look = partial(_look, self.root, resolution)
        seen = _look_through(look, listing.pictures, workers, progress)
        kept = _kept(seen, self.root, resolution, small)
        if listing.others is not None:
            usable = (look(found).usable(resolution, small) for found in listing.others)
            kept = _with_one_for_validation(kept, split, usable, self.root)
        self.class_names = listing.class_names
        self.bad_files = sorted(
            [BadFile(*left) for left in listing.left_out]
            + [BadFile(look.found.path, look.reason) for look in kept if look.reason],
            key=lambda bad: bad.path,
        )
        good = _good(kept, self.root)
        places = {name: place for place, name in enumerate(self.class_names)}
        self.paths = [look.found.path for look in good]
        self.labels = [UNLABELLED if look.found.category is None else places[look.found.category] for look in good]
        if split != "val":
            _refuse_empty_classes(listing, good, self.root, split)
        self.fingerprint = _fingerprint(good, self.labels, self.class_names, resolution)

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> "Tensor":
        """Picture `index`, uint8 (3, R, R)."""
        try:
            return read_square(self.root / self.paths[index], self.resolution)[0]
        except UnreadablePicture as error:
            raise CascadeError(
                f"{self.root / self.paths[index]} could be read when the folder was looked through, "
                f"but not any more: {error}"
            ) from error

    def label(self, index: int) -> int:
        """The class of picture `index`, a place in `class_names`, or −1."""
        return self.labels[index]


@dataclass(frozen=True)
class _Look:
    """What decoding a file once has shown: its size and SHA-256, or the reason why it is left out."""

    found: Found
    size: tuple[int, int] = (0, 0)
    sha256: str = ""
    reason: str = ""

    def usable(self, resolution: int, small: str) -> "_Look | None":
        """This one, if it could be read and is not too small; else None."""
        too_small = small != "upscale" and min(self.size) < resolution
        return None if self.reason or too_small else self


def check_pictures(
    root: str | Path,
    resolution: int,
    split: str = "train",
    *,
    labelled: bool = True,
    val_fraction: float = 0.05,
    small: str = "error",
    workers: int | None = None,
    most: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Refuse what `FolderDataset` would, as far as the names of the files and the sizes in their headers say it.

    Nothing is decoded, and torch is not needed. `most`: look into so many files only.
    """
    folder = check_folder(root, small, val_fraction, workers)
    listing = list_pictures(folder, split, labelled, val_fraction)
    seen = _look_through(partial(_glance, folder), listing.pictures[:most], workers, progress)
    kept = _kept(seen, folder, resolution, small, first=len(seen) < len(listing.pictures))
    if len(kept) == len(listing.pictures):
        good = _good(kept, folder)
        if split != "val":
            _refuse_empty_classes(listing, good, folder, split)


def _look_through(
    look: "Callable[[Found], _Look]", pictures: list[Found], workers: int | None, progress: Progress | None
) -> list[_Look]:
    looks = []
    for seen in ordered_map(look, pictures, workers or available_cores()):
        looks.append(seen)
        if progress is not None:
            progress(len(looks), len(pictures))
    return looks


def _glance(root: Path, found: Found) -> _Look:
    try:
        return _Look(found, size_of(root / found.path))
    except UnreadablePicture as error:
        return _Look(found, reason=str(error))


def _look(root: Path, resolution: int, found: Found) -> _Look:
    try:
        _, size = read_square(root / found.path, resolution)
        return _Look(found, size, sha256_of(root / found.path))
    except (UnreadablePicture, OSError) as error:
        return _Look(found, reason=str(error))


def _with_one_for_validation(looks: list[_Look], split: str, others: Iterator[_Look | None], root: Path) -> list[_Look]:
    """Give validation a picture that can be used, if it has none: that of the lowest rank, taken from training.

    `others` are those of the other split, None for one that cannot be used; no more is looked at than is needed.
    """
    good = sorted((look for look in looks if not look.reason), key=lambda look: rank(look.found))
    if split == "val" and good:
        return looks
    other = next((look for look in others if look is not None), None)
    if split == "val":
        return looks if other is None else [*looks, other]
    if other is not None or not good:
        return looks
    if len(good) == 1:
        raise CascadeError(
            f"{root} holds one picture that can be used, {good[0].found.path}, which cannot be split; "
            "set data.val_fraction=0 to train on it"
        )
    return [look for look in looks if look is not good[0]]


def _kept(looks: list[_Look], root: Path, resolution: int, small: str, *, first: bool = False) -> list[_Look]:
    """Apply the rule for small pictures; `first`: there are more than these."""
    too_small = [look for look in looks if not look.reason and min(look.size) < resolution]
    if small == "upscale" or not too_small:
        return looks
    if small == "error":
        width, height = too_small[0].size
        raise CascadeError(
            f"{len(too_small)} of {'the first ' if first else ''}{len(looks)} pictures in {root} are smaller than "
            f"{resolution} px (the first: "
            f"{too_small[0].found.path}, {width}×{height}); data.small=skip leaves them out, data.small=upscale "
            "enlarges them"
        )
    reasons = {look.found.path: f"{look.size[0]}×{look.size[1]}, smaller than {resolution} px" for look in too_small}
    return [
        _Look(look.found, reason=reasons[look.found.path]) if look.found.path in reasons else look for look in looks
    ]


def _good(looks: list[_Look], root: Path) -> list[_Look]:
    good = [look for look in looks if not look.reason]
    if not good:
        first = min(looks, key=lambda look: look.found.path)
        raise CascadeError(
            f"none of the {len(looks)} pictures in {root} can be used; the first, {first.found.path}: {first.reason}"
        )
    return good


def _refuse_empty_classes(listing: Listing, good: list[_Look], root: Path, split: str) -> None:
    counts = Counter(look.found.category for look in good)
    for name in listing.class_names:
        if not counts[name]:
            raise CascadeError(
                f"class '{name}' in {root} has no picture that can be used for {split}; "
                "add some, remove its folder, or lower data.val_fraction"
            )


def _fingerprint(looks: list[_Look], labels: list[int], class_names: list[str], resolution: int) -> str:
    rows = [[look.found.name, look.sha256, label] for look, label in zip(looks, labels, strict=True)]
    content = json.dumps(["folder", VERSION, resolution, class_names, rows])
    return hashlib.sha256(content.encode()).hexdigest()
