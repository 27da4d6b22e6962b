"""The PNGs that the commands write, marked, so that a command never replaces somebody else's."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cascade.errors import CascadeError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

MARK = ("Software", "cascade")
"""Key and text of the PNG text chunk that marks a picture as this program's."""


def marked_png(image: "Image.Image", about: str | None = None) -> bytes:
    """The picture as a PNG with the mark, and with the text `about` under the key "cascade"."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(*MARK)
    if about is not None:
        info.add_itxt("cascade", about)
    raw = io.BytesIO()
    image.save(raw, "PNG", pnginfo=info)
    return raw.getvalue()


def sample_png(pixels: "Tensor", seed: int, class_name: str | None) -> bytes:
    """A sampled picture, uint8 (3, R, R), as a PNG that knows its seed and class.

    No settings are in it (a manifest has them), so a picture chained and one from a kept picture are the same file.
    """
    from PIL import Image

    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    return marked_png(image, json.dumps({"seed": seed, "class": class_name}, ensure_ascii=False))


def png_pixels(file: "Path | BinaryIO") -> "Tensor":
    """The pixels of a picture that was written here, uint8 (3, R, R); OSError, SyntaxError or ValueError for none."""
    import numpy as np
    import torch
    from PIL import Image

    with Image.open(file) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


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
