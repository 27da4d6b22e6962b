"""One file of any kind that Pillow reads, as a square RGB picture of 8 bits."""

import stat
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image

if TYPE_CHECKING:
    from torch import Tensor

# What Pillow's readers raise on broken files (tried with some 10,000 of them).
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    ArithmeticError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
# Vector and container formats: their readers draw nothing by themselves, or start another program to do it.
_REFUSED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Photographs, but not for Pillow as it comes: they are named as unreadable rather than passed over in silence.
_FOREIGN = {".heic", ".heif", ".jxl", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".svg"}
_SHARP = 3.0  # reducing_gap: so large that averaging before the bicubic filter leaves no trace


class UnreadablePicture(Exception):
    """A file that gives no picture; the message is the reason, without the path.

    >>> raise UnreadablePicture("it is empty")
    Traceback (most recent call last):
    cascade.data.picture.UnreadablePicture: it is empty
    """


def looks_like_picture(path: Path) -> bool:
    """Whether the file is meant as a picture: by its suffix, or by its first bytes if it has none."""
    suffix = path.suffix.lower()
    if suffix:
        return suffix in _suffixes() or suffix in _FOREIGN
    try:
        _open(path).close()
    except _UNREADABLE:
        return False
    return True


def read_square(path: Path, resolution: int) -> "tuple[Tensor, tuple[int, int]]":
    """Read the centre square of a picture at `resolution`: uint8 (3, R, R), and (width, height) of the whole picture.

    Turned upright by its EXIF orientation; transparency over white; grey, palette, CMYK and 16 bits to 8-bit RGB. Of a
    file with several pictures the first. The largest centred square is resized by Pillow's antialiased bicubic filter
    (a square of R px is taken as it is). Raises UnreadablePicture with the reason.
    """
    import torch  # here, so that a folder can be listed and checked without

    _silence_pillow()
    try:
        _refuse_irregular(path)
        with _open(path) as picture:
            width, height = picture.size
            # A JPEG many times too large is decoded at a fraction of its size, still well above the resolution.
            picture.draft(None, tuple(int(side * _SHARP * resolution / min(width, height)) for side in picture.size))
            picture.load()
            upright = _upright(picture)
            if (upright.width < upright.height) != (width < height):
                width, height = height, width
            square = _resized(_rgb(_centre_square(upright)), resolution)
    except _UNREADABLE as error:
        raise UnreadablePicture(_one_line(error)) from error
    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()
    return pixels, (width, height)


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) as a picture's header has it, before it is turned; raises UnreadablePicture with the reason."""
    _silence_pillow()
    try:
        _refuse_irregular(path)
        with _open(path) as picture:
            return picture.size
    except _UNREADABLE as error:
        raise UnreadablePicture(_one_line(error)) from error


def _refuse_irregular(path: Path) -> None:
    if not stat.S_ISREG(path.stat().st_mode):
        raise UnreadablePicture("not a regular file")


def _open(path: Path) -> Image.Image:
    return Image.open(path, formats=_formats())


def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name not in _REFUSED]


def _suffixes() -> set[str]:
    readable = set(_formats())
    return {suffix for suffix, name in Image.registered_extensions().items() if name in readable}


def _upright(picture: Image.Image) -> Image.Image:
    """Turn a loaded picture by its EXIF orientation; broken EXIF in a sound picture turns nothing."""
    # Not ImageOps.exif_transpose: it writes the EXIF again, and fails where that is broken.
    try:
        turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except _UNREADABLE:
        return picture
    return picture if turn is None else picture.transpose(turn)


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        return Image.fromarray(_grey(picture)).convert("RGB")
    if picture.has_transparency_data:
        if picture.mode == "La":  # Pillow goes from La to RGBA by LA only
            picture = picture.convert("LA")
        coloured = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")
    return picture.convert("RGB")


def _grey(picture: Image.Image) -> np.ndarray:
    """Bring 16-bit integers, or floats in [0, 1], to 8 bits."""
    with np.errstate(invalid="ignore"):  # NaN is looked for below
        values = np.asarray(picture).astype(np.float64)
    top = 1.0 if picture.mode == "F" else 65535.0
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= top):
        raise UnreadablePicture(f"grey values outside 0…{top:g}, whose white is unknown")
    return np.rint(values * (255 / top)).astype(np.uint8)


def _centre_square(picture: Image.Image) -> Image.Image:
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    return picture.crop((left, top, left + side, top + side))


def _resized(square: Image.Image, resolution: int) -> Image.Image:
    if square.width == resolution:
        return square
    return square.resize((resolution, resolution), Image.Resampling.BICUBIC, reducing_gap=_SHARP)


def _one_line(error: BaseException) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture that Pillow can read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    return " ".join(str(error).split()) or type(error).__name__


_PILLOW_WARNINGS = ("ignore", Warning, r"PIL\.")


def _silence_pillow() -> None:
    """Keep Pillow's remarks on odd metadata off the screen, for thousands of files have thousands of them."""
    # Looked for first: changing the filters makes Python repeat every other warning of the process.
    action, category, module = _PILLOW_WARNINGS
    if not any(
        f[0] == action and f[2] is category and getattr(f[3], "pattern", None) == module for f in warnings.filters
    ):
        warnings.filterwarnings(action, category=category, module=module)
