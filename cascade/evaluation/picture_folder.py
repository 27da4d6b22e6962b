"""A folder of pictures of any size, read at one size."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from cascade.data.folder import BadFile
from cascade.data.listing import list_pictures
from cascade.data.parallel import available_cores, ordered_map
from cascade.data.picture import UnreadablePicture, read_square
from cascade.errors import CascadeError
from cascade.files import expanded, sha256_of

_MANIFEST = "manifest.jsonl"
_GLANCE = 16  # px: a JPEG is read to its end, but most of its pixels are never made


class PictureFolder:
    """The pictures below `root`, in order of their names; a folder of `cascade sample` gives what its manifest lists.

    `side` is the shortest side of any picture, and `uniform` says that all are squares of it. Pictures that lie beside
    class folders (contact sheets) are passed over; `left_out` names them. Every file is decoded once at the beginning
    (`progress(done, total)` is told): those that cannot be read are no part of it, and `bad_files` names them.
    `classes` names the class of each picture, None where neither its folder nor the manifest does.
    Raises CascadeError for a folder without a picture that can be read.

    >>> import tempfile; from PIL import Image
    >>> root = tempfile.mkdtemp()
    >>> Image.new("RGB", (24, 16), "red").save(f"{root}/one.png")
    >>> folder = PictureFolder(root)
    >>> len(folder), folder.side, folder.image(0, 8)[:, 0, 0].tolist()
    (1, 16, [255, 0, 0])
    """

    def __init__(self, root: str | Path, progress: Callable[[int, int], object] | None = None) -> None:
        self.root = expanded(root)
        if (self.root / _MANIFEST).is_file():
            of, self.left_out = self._in_manifest(), []
        else:
            listing = list_pictures(self.root, "all")
            of = {found.path: found.category for found in listing.pictures}
            self.left_out = [path for path, _ in listing.left_out]
        self.paths = list(of)
        self.bad_files: list[BadFile] = []
        sizes, self._digests = self._look_through(progress)
        self.classes = [of[path] for path in self.paths]
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

    def fingerprint(self) -> str:
        """A SHA-256 of the names and the contents of the pictures' files."""
        lines = "".join(f"{digest} {path}\n" for digest, path in zip(self._digests, self.paths, strict=True))
        return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()

    def rule(self, side: int) -> str | None:
        """Say in words how the pictures are brought to `side` px; None where they are taken as they are."""
        return None if self.uniform and side == self.side else f"centre square, bicubic to {side} px"

    def _in_manifest(self) -> dict[str, str | None]:
        file = self.root / _MANIFEST
        try:
            # Not splitlines: the name of a class may hold U+2028.
            lines = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
            of = {str(line["file"]): line.get("class") for line in lines}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CascadeError(f"{file} is not a manifest of cascade sample") from error
        if not of:
            raise CascadeError(f"{file} names no picture")
        return dict(sorted(of.items()))

    def _look_through(self, progress: Callable[[int, int], object] | None) -> tuple[set[tuple[int, int]], list[str]]:
        """Sizes and hashes of the pictures that can be read; the others go from `paths` to `bad_files`."""
        sizes, digests, good = set(), [], []
        looks = ordered_map(self._look, self.paths, available_cores())
        for done, (path, look) in enumerate(zip(self.paths, looks, strict=True), 1):
            if isinstance(look, str):
                self.bad_files.append(BadFile(path, look))
            else:
                sizes.add(look[0])
                digests.append(look[1])
                good.append(path)
            if progress is not None:
                progress(done, len(self.paths))
        if not good:
            first = self.bad_files[0]
            raise CascadeError(
                f"none of the {len(self.paths)} pictures in {self.root} can be read; the first, {first.path}: "
                f"{first.reason}"
            )
        self.paths = good
        return sizes, digests

    def _look(self, path: str) -> tuple[tuple[int, int], str] | str:
        """The size of a picture and the SHA-256 of its file, or the reason why it cannot be read."""
        try:
            return read_square(self.root / path, _GLANCE)[1], sha256_of(self.root / path)
        except (UnreadablePicture, OSError) as error:
            return str(error)


def common_side(folders: Sequence[PictureFolder]) -> int:
    """The side at which folders are compared: the shortest of all, so that none is blown up."""
    return min(folder.side for folder in folders)
