"""Pictures inside a page: small ones as WebP, in the page's own text."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

_SIDES = ((200, 256), (1200, 160))
_LEAST = 96
_SHOWN = {".png", ".jpg", ".jpeg", ".webp", ".gif"}
_EXACT = 32
"""Pixels of a picture that is kept as it is: a lossy one would be no smaller."""


def thumbnail_side(count: int) -> int:
    """How large the pictures in a page of `count` samples are, so that it stays below some 20 MB.

    >>> thumbnail_side(16), thumbnail_side(1000), thumbnail_side(50000)
    (256, 160, 96)
    """
    return next((side for most, side in _SIDES if count <= most), _LEAST)


def data_uri(pixels: "Tensor", most: int) -> str:
    """A picture, uint8 (3, R, R), as a data URI of at most `most` pixels a side.

    >>> import torch
    >>> data_uri(torch.zeros(3, 8, 8, dtype=torch.uint8), 64)[:23]
    'data:image/webp;base64,'
    """
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    if max(image.size) > most:
        image = image.resize((most, most), Image.Resampling.LANCZOS)
    raw = io.BytesIO()
    image.save(raw, "WEBP", lossless=max(image.size) <= _EXACT, quality=84, method=4)
    return _uri("webp", raw.getvalue())


def shown(file: Path) -> bool:
    """Whether every browser shows such a file.

    >>> shown(Path("a.JPG")), shown(Path("a.tif"))
    (True, False)
    """
    return file.suffix.lower() in _SHOWN


def file_uri(file: Path) -> str:
    """A picture file as a data URI, of the kind that its name says."""
    return _uri(file.suffix[1:].lower().replace("jpg", "jpeg"), file.read_bytes())


def _uri(kind: str, raw: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode('ascii')}"
