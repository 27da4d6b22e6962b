"""A folder of pictures of any size, read at one size."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from cascade.data.listing import list_pictures
from cascade.data.picture import UnreadablePicture, read_square
from cascade.errors import CascadeError

_MANIFEST = "manifest.jsonl"


class PictureFolder:
    """The pictures below `root`, in order of their names; a folder of `cascade sample` gives what its manifest lists.

    `side` is the shortest side of any picture, and `uniform` says that all are squares of it. Pictures that lie beside
    class folders (contact sheets) are passed over; `left_out` names them. An unreadable file raises CascadeError: a
    figure on the other files would be one of another set.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()
        if (self.root / _MANIFEST).is_file():
            self.paths, self.left_out = self._in_manifest(), []
        else:
            listing = list_pictures(self.root, "all")
            self.paths = [found.path for found in listing.pictures]
            self.left_out = [path for path, _ in listing.left_out]
        sizes = {self._size(path) for path in self.paths}
        self.side = min(min(size) for size in sizes)
        self.uniform = sizes == {(self.side, self.side)}

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, i: int, side: int) -> Tensor:
        """Return picture i, uint8 (3, side, side): its centre square, by Pillow's antialiased bicubic filter."""
        try:
            return read_square(self.root / self.paths[i], side)[0]
        except UnreadablePicture as error:
            raise CascadeError(f"'{self.root / self.paths[i]}' cannot be read: {error}") from error

    def rule(self, side: int) -> str | None:
        """Say in words how the pictures are brought to `side` px; None where they are taken as they are."""
        return None if self.uniform and side == self.side else f"centre square, bicubic to {side} px"

    def _in_manifest(self) -> list[str]:
        file = self.root / _MANIFEST
        try:
            lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            paths = sorted({line["file"] for line in lines})
        except (ValueError, KeyError, TypeError) as error:
            raise CascadeError(f"{file} is not a manifest of cascade sample") from error
        if not paths:
            raise CascadeError(f"{file} names no picture")
        return paths

    def _size(self, path: str) -> tuple[int, int]:
        try:
            with Image.open(self.root / path) as picture:
                return picture.size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a picture of Pillow's"
            raise CascadeError(f"'{self.root / path}' cannot be read: {reason}") from error


def common_side(folders: Sequence[PictureFolder]) -> int:
    """The side at which folders are compared: the shortest of all, so that none is blown up."""
    return min(folder.side for folder in folders)
