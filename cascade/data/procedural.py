"""Six classes of pictures that need no download: each is a seeded function on the unit square, at any resolution."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cascade.data.degradation import from_uint8, shrink, to_uint8
from cascade.data.painting import Canvas, Draws
from cascade.data.scenes import SCENES
from cascade.errors import CascadeError, suggest

VERSION = 3  # goes up when any picture changes
SPLITS = ("train", "val")
_DIRECT = 128  # smaller pictures are drawn at twice their size and shrunk
_STRIP = 1 << 16  # pixels drawn at once, so that a field stays in the cache of the processor


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch from sharing out what is done here, thousands of small steps: on a busy machine they wait for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def val_size_of(size: int) -> int:
    """How many pictures validate, where nobody says it: a tenth of those that train, each class once, 600 at the most.

    >>> [val_size_of(size) for size in (1, 48, 480, 6000, 50000)]
    [6, 6, 48, 600, 600]
    """
    return min(600, max(len(SCENES), size // 10))


@dataclass(frozen=True)
class ProceduralDataset:
    """Planets, flowers, shells, leaves, gems and mountains; index i is the same picture at every resolution.

    The label is i mod 6. All of picture i is drawn from the numbers named ("procedural", split, i), so the two splits
    never meet, and `size` and `val_size` only say where the two lists end. None: `val_size_of(size)`.

    >>> dataset = ProceduralDataset(resolution=16, split="val", val_size=12)
    >>> len(dataset), dataset.image(2).shape, dataset.class_names[dataset.label(2)]
    (12, torch.Size([3, 16, 16]), 'shell')
    """

    resolution: int
    split: str = "train"
    size: int = 6000
    val_size: int | None = None
    class_names: ClassVar[list[str]] = list(SCENES)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise CascadeError(f"unknown split '{self.split}' of the procedural data; {suggest(self.split, SPLITS)}")
        if not 8 <= self.resolution <= 8192:
            raise CascadeError(f"procedural pictures of {self.resolution} px: the resolution must be in 8..8192")
        if self.val_size is None:
            object.__setattr__(self, "val_size", val_size_of(self.size))
        for key in ("size", "val_size"):
            if getattr(self, key) < (1 if key == self._own_size else 0):
                raise CascadeError(f"data.{key}={getattr(self, key)}: procedural pictures are 1 or more")

    @property
    def _own_size(self) -> str:
        return "size" if self.split == "train" else "val_size"

    def __len__(self) -> int:
        return getattr(self, self._own_size)

    @property
    def fingerprint(self) -> str:
        """Name of the data: which pictures, how many, at which resolution."""
        names = ("procedural", VERSION, self.split, len(self), self.resolution)
        return hashlib.sha256(repr(names).encode()).hexdigest()

    def label(self, i: int) -> int:
        """The class of picture i, a place in `class_names`."""
        return self._checked(i) % len(SCENES)

    def image(self, i: int) -> Tensor:
        """Picture i, uint8 (3, resolution, resolution)."""
        with _one_thread():
            if self.resolution < _DIRECT:
                return to_uint8(shrink(from_uint8(self._draw(i, 2 * self.resolution)), self.resolution))
            return self._draw(i, self.resolution)

    def _draw(self, i: int, resolution: int) -> Tensor:
        scene = list(SCENES.values())[self.label(i)]
        rows = max(1, _STRIP // resolution)
        strips = []
        for first in range(0, resolution, rows):
            canvas = Canvas.rows(resolution, first, min(first + rows, resolution))
            # Each strip draws the picture's choices again from the start, so all strips agree.
            strips.append(canvas.crop(scene(canvas, Draws("procedural", self.split, i))))
        return (torch.cat(strips, dim=1).clamp_(0, 1) * 255).round_().to(torch.uint8)

    def _checked(self, i: int) -> int:
        if not 0 <= i < len(self):
            raise IndexError(f"picture {i} of {len(self)}")
        return i
