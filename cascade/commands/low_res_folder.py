"""`low_res=FOLDER`: pictures to start from, with class and seed from CLASS/SEED.png where they are so named."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cascade.commands.sample_manifest import NAME as MANIFEST
from cascade.errors import CascadeError
from cascade.requests import check_seed

if TYPE_CHECKING:
    from torch import Tensor

CONTACT_SHEET = "contact_sheet.png"


@dataclass(frozen=True)
class LowRes:
    """A picture to start from: its path below the folder, the class folder and seed in its name if it has them."""

    path: Path
    relative: Path
    class_folder: str | None
    seed: int | None
    side: int

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of its pixels; raises CascadeError for a picture that cannot be read."""
        return hashlib.sha256(_pixels(self.path).numpy().tobytes()).hexdigest()


def list_low_res(folder: Path) -> list[LowRes]:
    """Look at every picture of the folder, in the order of class and seed; their pixels are read later.

    Raises CascadeError for a missing or empty folder, a file that is no picture, a name that is a number and no seed,
    and pictures that are not square or differ in size.
    """
    if not folder.is_dir():
        what = "a file" if folder.exists() else "no folder"
        raise CascadeError(f"low_res={folder} is {what}; give a folder of pictures, like CLASS/SEED.png")
    found = [_described(folder, path) for path in _pictures(folder)]
    if not found:
        raise CascadeError(f"low_res={folder} holds no pictures")
    for picture in found[1:]:
        if picture.side != found[0].side:
            raise CascadeError(
                f"the low_res pictures differ in size: {found[0].path} has {found[0].side} px and {picture.path} "
                f"has {picture.side} px"
            )
    return sorted(found, key=lambda p: (p.relative.parent.as_posix(), p.seed is None, p.seed or 0, p.relative.name))


class LowResImages:
    """The pictures as a sequence that reads one when it is asked for."""

    def __init__(self, pictures: Sequence[LowRes]) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> "Tensor":
        return _pixels(self.pictures[i].path)


def _pictures(folder: Path) -> Iterator[Path]:
    from cascade.data.picture import looks_like_picture

    # Of a folder of samples its pictures, not the stages' pictures that were kept beside them.
    samples = (folder / MANIFEST).exists()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts) or (samples and relative.parts[0] == "stages")
        if path.is_file() and not hidden and relative.name != CONTACT_SHEET and looks_like_picture(path):
            yield path


def _described(folder: Path, path: Path) -> LowRes:
    relative = path.relative_to(folder)
    try:
        seed = check_seed(int(relative.stem)) if re.fullmatch("[0-9]+", relative.stem) else None
    except CascadeError as error:
        raise CascadeError(f"low_res picture {path}: {error}; give it another name") from None
    return LowRes(path, relative, relative.parent.name or None, seed, _side(path))


def _side(path: Path) -> int:
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
    except (OSError, SyntaxError, ValueError) as error:
        raise CascadeError(f"low_res picture {path} cannot be read: {error}") from error
    if width != height:
        raise CascadeError(f"low_res picture {path} is {width}x{height} px, not square")
    return width


def _pixels(path: Path) -> "Tensor":
    from cascade.data.picture import UnreadablePicture, read_square

    try:
        return read_square(path, _side(path))[0]
    except (UnreadablePicture, OSError) as error:
        raise CascadeError(f"low_res picture {path} cannot be read: {error}") from error
