"""The brush of the procedural pictures: a strip of the unit square, one idea of shape and one idea of noise.

Everything is built on the *footprint* of a field, how much it changes from one pixel to the next. A shape is a field
that is negative inside, and its edge is one footprint wide; a pattern (stripes, noise) of so many cycles per footprint
is faded as the shrinking from a much larger picture would fade it. So the same function of (x, y) drawn at 64 px is,
closely, its drawing at 1024 px shrunk to 64, and detail appears when there are pixels to hold it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cascade import rng

_BORDER = 2  # pixels drawn beyond every side
_TILE = 512  # texels along the side of the noise tile
_WAVES = 64  # waves along it: 8 texels to a wave

Choice = TypeVar("Choice")


class Draws:
    """The random choices of one picture, in the order they are asked for; a pure function of `names`.

    >>> a, b = Draws("doc", 0), Draws("doc", 0)
    >>> a.between(2, 3) == b.between(2, 3), 2 <= a.between(2, 3) < 3
    (True, True)
    """

    def __init__(self, *names: rng.Name, count: int = 256) -> None:
        self._left = iter(rng.uniform(*names, shape=(count,)).tolist())

    def between(self, low: float, high: float) -> float:
        """Uniform on [low, high)."""
        return low + (high - low) * next(self._left)

    def pick(self, choices: Sequence[Choice]) -> Choice:
        """One of `choices`, each as likely."""
        return choices[int(next(self._left) * len(choices))]

    def place(self) -> tuple[float, float]:
        """A place on the noise tile, for `noise`."""
        return next(self._left), next(self._left)


@dataclass(frozen=True)
class Canvas:
    """Pixel centres of rows first..last−1 of an R×R picture, x to the right and y up, both in [−1, 1].

    Two pixels more are drawn on every side, so that footprints, and footprints of what came of footprints, are exact
    up to the border; `crop` takes them off.

    >>> canvas = Canvas.rows(4, 0, 4)
    >>> canvas.crop(canvas.x)[0].tolist()
    [-0.75, -0.25, 0.25, 0.75]
    """

    x: Tensor
    y: Tensor

    @classmethod
    def rows(cls, resolution: int, first: int, last: int) -> "Canvas":
        """The strip of rows first..last−1 of a square picture of `resolution` pixels."""
        x = (torch.arange(-_BORDER, resolution + _BORDER, dtype=torch.float32) + 0.5) * (2 / resolution) - 1
        y = 1 - (torch.arange(first - _BORDER, last + _BORDER, dtype=torch.float32) + 0.5) * (2 / resolution)
        return cls(x.repeat(len(y), 1), y[:, None].repeat(1, len(x)))

    @property
    def pixel(self) -> float:
        """Side of a pixel."""
        return 2 / (self.x.shape[1] - 2 * _BORDER)

    @staticmethod
    def crop(picture: Tensor) -> Tensor:
        """Take the border off (..., h + 4, w + 4)."""
        return picture[..., _BORDER:-_BORDER, _BORDER:-_BORDER]

    def turned(self, cx: float, cy: float, angle: float, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """Coordinates (u, v) about (cx, cy), axes turned anticlockwise by `angle` (radians), in units of `scale`."""
        c, s = math.cos(angle) / scale, math.sin(angle) / scale
        x, y = self.x - cx, self.y - cy
        return c * x + s * y, c * y - s * x


def footprint(field: Tensor) -> Tensor:
    """Change of `field` (h, w) per pixel, ‖(f(x+1, y) − f, f(x, y+1) − f)‖; a side of one pixel does not change."""
    dx, dy = field.diff(dim=1), field.diff(dim=0)
    dx = torch.cat((dx, dx[:, -1:]), dim=1) if dx.numel() else 0.0 * field
    dy = torch.cat((dy, dy[-1:]), dim=0) if dy.numel() else 0.0 * field
    return torch.hypot(dx, dy).clamp_min_(1e-6)


def slope(field: Tensor, towards: float) -> Tensor:
    """Central difference of `field` (h, w), per unit of the canvas, in the direction `towards` (radians)."""
    dx, dy = torch.zeros_like(field), torch.zeros_like(field)
    dx[:, 1:-1] = field[:, 2:] - field[:, :-2]
    dy[1:-1] = field[:-2] - field[2:]
    return (math.cos(towards) * dx + math.sin(towards) * dy) * ((field.shape[1] - 2 * _BORDER) / 4)


def smooth(low: float, high: float, value: Tensor) -> Tensor:
    """3t² − 2t³ with t = (value − low)/(high − low) clamped to [0, 1]; low > high falls instead of rising."""
    t = ((value - low) / (high - low)).clamp_(0, 1)
    return t * t * (3 - 2 * t)


def inside(field: Tensor, width: Tensor | float | None = None) -> Tensor:
    """Share of each pixel where `field` < 0, an edge one footprint (or `width`) wide.

    >>> inside(Canvas.rows(4, 0, 4).x)[2].tolist()
    [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """
    return (0.5 - field / (footprint(field) if width is None else width)).clamp_(0, 1)


def line(field: Tensor, half: Tensor | float, width: Tensor | None = None) -> Tensor:
    """Share of each pixel where |field| < half: a line thinner than a pixel is as faint as it is thin."""
    width = footprint(field) if width is None else width
    return inside(field - half, width) - inside(field + half, width)


def shadow(field: Tensor, reach: float) -> Tensor:
    """Soft shade in [0, 1] around where `field`, a distance, is negative, thrown down and to the right by the light."""
    return smooth(reach, -0.8 * reach, field + 0.5 * reach * slope(field, 2.2).clamp(-1.5, 1.5))


def lines(phase: Tensor, half: Tensor | float) -> Tensor:
    """Lines of half width `half` where `phase` is whole, as shares of each pixel."""
    return line(phase - phase.round(), half, footprint(phase).clamp_max_(1))


def kept(cycles: Tensor) -> Tensor:
    """What bicubic shrinking leaves of a wave of `cycles` per pixel: 1 below 0.15, about a half at 0.5, 0 above 0.9."""
    return smooth(0.9, 0.15, cycles)


def stripes(phase: Tensor, width: Tensor | None = None) -> Tensor:
    """cos 2π·phase, faded where it is too fine for the pixels; `width` is the footprint of a phase that has a seam."""
    return torch.cos(phase * (2 * math.pi)) * kept(footprint(phase) if width is None else width)


@cache
def _tile() -> Tensor:
    """A periodic tile of unit-variance noise, isotropic and one octave wide: (1, 1, _TILE + 3, _TILE + 3), wrapped."""
    white = torch.randn(_TILE, _TILE, generator=rng.generator("procedural", "noise"), dtype=torch.float64)
    waves = torch.fft.fftfreq(_TILE, 1 / _TILE, dtype=torch.float64)
    octave = torch.log2(torch.hypot(waves[:, None], waves).clamp_min(1e-3) / _WAVES)
    tile = torch.fft.ifft2(torch.fft.fft2(white) * torch.exp(-0.5 * (octave / 0.3) ** 2)).real
    # Rounded, so that the bits do not hang on how many threads the transform used.
    tile = (tile / tile.std() * 4096).round().float() / 4096
    return F.pad(tile[None, None], (1, 2, 1, 2), mode="circular")


def noise(u: Tensor, v: Tensor, place: tuple[float, float], octaves: int, gain: float = 0.5) -> Tensor:
    """Σₖ gainᵏ·n(2ᵏu, 2ᵏv), n of unit variance and about one wave to the unit; octaves too fine for the pixels fade.

    `place` (two numbers in [0, 1)) says where on the endless noise this one lies.
    """
    fine = torch.sqrt((footprint(u) ** 2 + footprint(v) ** 2) / 2)
    least, most = float(fine.min()), float(fine.max())
    turns, total = torch.stack((u, v), dim=-1) / _WAVES, torch.zeros_like(u)
    for k in range(octaves):
        if least * 2**k >= 0.9:
            break
        turn = torch.add(torch.tensor(place) + 0.381966 * k, turns, alpha=2**k)
        turn.sub_(turn.floor())
        # Texel i of the tile is texel i + 1 of its padding: from the wrapped turn to grid_sample's [−1, 1].
        where = turn.mul_(2 * _TILE / (_TILE + 2)).add_(2 / (_TILE + 2) - 1)[None]
        wave = F.grid_sample(_tile(), where, mode="bicubic", padding_mode="border", align_corners=True)[0, 0]
        total.add_(wave if most * 2**k <= 0.15 else wave * kept(fine * 2**k), alpha=gain**k)
    return total


def oklch(lightness: float, chroma: float, hue: float) -> Tensor:
    """The sRGB colour (3, 1, 1) in [0, 1] of an OKLCH one (Ottosson 2020), `hue` in degrees.

    >>> [round(value, 2) for value in oklch(1.0, 0.0, 0.0).flatten().tolist()]
    [1.0, 1.0, 1.0]
    """
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
    )
    linear = [min(max(value, 0.0), 1.0) for value in linear]
    srgb = [12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055 for value in linear]
    return torch.tensor(srgb).view(3, 1, 1)


def ramp(t: Tensor, colours: Sequence[Tensor]) -> Tensor:
    """Colours (3, h, w) on the broken line through `colours`, from the first at t = 0 to the last at t = 1."""
    t = t * (len(colours) - 1)
    total = colours[0]
    for k in range(len(colours) - 1):
        total = total + (colours[k + 1] - colours[k]) * (t - k).clamp(0, 1)
    return total


def lit(colour: Tensor, light: Tensor) -> Tensor:
    """`colour` (3, ...) under `light` (h, w), 1 = as it is; shadows gain chroma as they darken, so they stay clean."""
    return light * (colour + 0.6 * (1 - light) * (colour - colour.mean(0)))


def over(below: Tensor, above: Tensor, share: Tensor) -> Tensor:
    """`above` laid on `below` where `share` (h, w) is 1."""
    return torch.lerp(below, above.expand_as(below), share.expand_as(below))
