"""The mark of this program in a PNG that it wrote, so that it never replaces somebody else's."""

from collections.abc import Sequence
from pathlib import Path

from cascade.errors import CascadeError

MARK = ("Software", "cascade")
"""Key and text of a PNG text chunk."""


def refuse_foreign(folder: Path, files: Sequence[str]) -> None:
    """Raise CascadeError if one of `files`, which are to be written, is a sound picture of somebody else's."""
    from PIL import Image

    for file in files:
        if not (folder / file).exists():
            continue
        try:
            with Image.open(folder / file) as image:
                image.load()
                marked = getattr(image, "text", {}).get(MARK[0]) == MARK[1]
        except (OSError, SyntaxError, ValueError):
            continue  # cut short or broken: made again
        if not marked:
            raise CascadeError(f"{folder / file} was not made by cascade; choose another out, or move it away")
