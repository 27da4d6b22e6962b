"""Which files of a folder are its pictures, in which class and in which split; nothing is decoded here."""

import hashlib
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from cascade.data.picture import looks_like_picture
from cascade.errors import CascadeError, suggest

SPLITS = ("train", "val", "all")
VAL_FOLDERS = ("val", "valid", "validation", "test")
"""Names of the folder of validation pictures beside `train`, the first that is there."""


@dataclass(frozen=True)
class Found:
    """A picture file: its path below the root with forward slashes, and its class (None: unlabelled).

    >>> Found("hat/7.png", "hat").category
    'hat'
    """

    path: str
    category: str | None = None

    @property
    def name(self) -> str:
        """The path as every system spells it: macOS decomposes accents (NFD), Linux keeps what it was given."""
        return unicodedata.normalize("NFC", self.path)


@dataclass(frozen=True)
class Listing:
    """The pictures of one split in their order, the class table of all splits, and files left out with the reason.

    `others`, where a part of the pictures is chosen for validation: those of the other split, in the order of choice.

    >>> listing = Listing([Found("hat/7.png", "hat")], ["dress", "hat"], [("hat/8.png", "it is empty")])
    >>> len(listing.pictures), listing.left_out[0][1]
    (1, 'it is empty')
    """

    pictures: list[Found]
    class_names: list[str]
    left_out: list[tuple[str, str]] = field(default_factory=list)
    others: list[Found] | None = None


def list_pictures(root: Path, split: str, labelled: bool = True, val_fraction: float = 0.05) -> Listing:
    """List ROOT/{train,val}/CLASS/…, ROOT/CLASS/… or ROOT/… (in this order of preference; … to any depth).

    Beside `train` the validation pictures may also be in valid, validation or test (the first that is there); a `train`
    folder beside others without any of them raises CascadeError, as it may be a class or not.
    Without train and val folders about `val_fraction` of the pictures are "val": those whose path has a small SHA-256,
    and at least one; so a picture stays in its split when others are added. "all" is both splits. Nothing is read here:
    that one must be a picture that can be read is for `FolderDataset` to see to, with `Listing.others`.
    Hidden files and folders, `__MACOSX` and files that are not pictures are passed over; links are followed, but not
    round in circles. Pictures beside class folders are left out; so many of them that the folders can hardly be
    classes, or different classes in train and val, raise CascadeError, as does a root that holds no picture, and a
    class whose name is not UTF-8.
    """
    if split not in SPLITS:
        raise CascadeError(f"unknown split '{split}'; {suggest(split, SPLITS)}")
    if not 0 <= val_fraction < 1:
        raise CascadeError(f"data.val_fraction={val_fraction} must be at least 0 and less than 1")
    if not root.is_dir():
        raise CascadeError(f"the folder {root} {'is a file' if root.exists() else 'does not exist'}")
    _, folders = _visible(root)
    if "train" in folders and len(folders) > 1:
        return _from_split_folders(root, _val_folder(root, folders), split, labelled)
    base = "train/" if folders == ["train"] else ""
    listing = _list_base(root, base, labelled)
    _refuse_empty(listing.pictures, root)
    pictures, others = _hash_split(listing.pictures, split, val_fraction, root)
    return Listing(pictures, listing.class_names, listing.left_out, others)


def _val_folder(root: Path, folders: list[str]) -> str:
    for name in VAL_FOLDERS:
        if name in folders:
            return name
    other = next(name for name in folders if name != "train")
    raise CascadeError(
        f"{root} has a folder train beside '{other}' and none for validation: name that one "
        f"{', '.join(VAL_FOLDERS[:-1])} or {VAL_FOLDERS[-1]}, or keep train alone; "
        f"if 'train' is a class, put all classes into {root / 'train'}"
    )


def _from_split_folders(root: Path, val_folder: str, split: str, labelled: bool) -> Listing:
    train, val = (_list_base(root, f"{name}/", labelled) for name in ("train", val_folder))
    for part, name, listing in (("train", "train", train), ("val", val_folder, val)):
        if split in (part, "all"):
            _refuse_empty(listing.pictures, root / name)
    if bool(train.class_names) != bool(val.class_names) and train.pictures and val.pictures:
        with_classes, without = ("train", val_folder) if train.class_names else (val_folder, "train")
        raise CascadeError(
            f"{root / with_classes} has class folders and {root / without} has none; "
            "data.labelled=false ignores classes"
        )
    for name in val.class_names:
        if name not in train.class_names:
            raise CascadeError(f"class '{name}' of {root / val_folder} is not in {root / 'train'}")
    parts = {"train": [train], "val": [val], "all": [train, val]}[split]
    return Listing(
        [found for part in parts for found in part.pictures],
        train.class_names,
        [left for part in parts for left in part.left_out],
    )


def _list_base(root: Path, base: str, labelled: bool) -> Listing:
    """List the pictures below ROOT/BASE: in class folders, or all together."""
    beside: list[Found] = []
    inside: list[Found] = []
    for path in _walk(root, base):
        first, *deeper = path[len(base) :].split("/")
        if labelled and deeper:
            _refuse_no_text(first, root / base)
            inside.append(Found(path, unicodedata.normalize("NFC", first)))
        else:
            beside.append(Found(path))
    if len(beside) > len(inside) > 0:
        raise CascadeError(
            f"{root / base} holds {len(beside)} pictures beside folders with only {len(inside)}: "
            "put them into class folders, or set data.labelled=false to ignore classes"
        )
    pictures, left_out = (inside, beside) if inside else (beside, [])
    return Listing(
        sorted(pictures, key=lambda found: (found.name, found.path)),
        sorted({found.category for found in pictures if found.category is not None}),
        sorted((found.path, "beside the class folders, so without a class") for found in left_out),
    )


def _refuse_no_text(name: str, folder: Path) -> None:
    """Refuse the name of a class that is no text, which a stage and its samples could not be told by."""
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(name).decode(errors="replace")
        raise CascadeError(f"the class folder '{shown}' in {folder} has a name that is not UTF-8: rename it") from None


def _hash_split(
    pictures: list[Found], split: str, val_fraction: float, root: Path
) -> tuple[list[Found], list[Found] | None]:
    """The pictures of the split, and those of the other one in the order of their ranks."""
    if split == "val" and val_fraction == 0:
        raise CascadeError(f"{root} has no val folder and data.val_fraction=0: there are no validation pictures")
    if split == "all" or val_fraction == 0:
        return pictures, None
    if len(pictures) < 2:
        raise CascadeError(f"{root} holds one picture, which cannot be split; set data.val_fraction=0 to train on it")
    threshold = max(val_fraction, min(map(rank, pictures)))
    chosen = [found for found in pictures if (rank(found) <= threshold) == (split == "val")]
    others = sorted((found for found in pictures if (rank(found) <= threshold) != (split == "val")), key=rank)
    if not chosen:
        raise CascadeError(
            f"data.val_fraction={val_fraction} takes all {len(pictures)} pictures in {root} for validation and leaves "
            "none for training; lower it"
        )
    return chosen, others


def rank(found: Found) -> float:
    """A number in [0, 1) that belongs to the path; where pictures are chosen for validation, the lowest are."""
    digest = hashlib.sha256(found.name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _walk(root: Path, base: str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Paths below `root` of the pictures below `base` ('' or 'folder/'), not entering a folder from inside itself."""
    try:
        status = (root / base).stat()
    except OSError:  # a broken mount, or gone since its parent was listed
        return
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    files, folders = _visible(root / base)
    yield from (base + name for name in files if looks_like_picture(root / base / name))
    for name in folders:
        yield from _walk(root, f"{base}{name}/", above | {identity})


def _visible(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the files and of the folders in `folder` that are not hidden, sorted."""
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name != "__MACOSX":
                    (folders if entry.is_dir() else files).append(entry.name)
    except OSError as error:
        raise CascadeError(f"the folder {folder} cannot be listed: {error.strerror}") from error
    return sorted(files), sorted(folders)


def refuse_without_pictures(folder: Path) -> None:
    """Raise CascadeError if there is no picture anywhere in the folder; no more is looked at than is needed."""
    _refuse_empty([Found(path) for path in islice(_walk(folder, ""), 1)], folder)


def _refuse_empty(pictures: list[Found], folder: Path) -> None:
    if not pictures:
        raise CascadeError(f"the folder {folder} holds no picture that Pillow reads (jpg, png, webp, tiff, …)")
