"""What an image-conditional stage is shown of a picture: the small one of a cascade, its greys, or a part of it.

Saharia et al., "Palette" (2022), and "SR3" (2021): super-resolution, colouring and filling in are one network, told
another function of the picture. That function is here, once for training, evaluation and sampling. It acts on the
picture as it is at the stage's low resolution. Importing this needs no torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cascade.errors import CascadeError

if TYPE_CHECKING:
    from torch import Tensor

    from cascade.rng import Name

LUMA = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in a grey (ITU-R BT.601, as Pillow's "L")."""


class ConditionPicture(Protocol):
    """picture (3, h, w) in [−1, 1] on 8-bit levels, and the names of its draws → what is shown, (channels, h, w).

    chained   whether that is what the stage before makes; else the stage stands first, and is given pictures
    channels  3, or with the mask of the known pixels 4
    """

    @property
    def chained(self) -> bool: ...
    @property
    def channels(self) -> int: ...
    def __call__(self, picture: "Tensor", *names: "Name") -> "Tensor": ...
    def check(self, resolution: int, low_resolution: int, *, noised: bool) -> None: ...


@dataclass(frozen=True)
class LowRes:
    """The picture itself: a stage of super-resolution.

    >>> import torch
    >>> LowRes()(torch.zeros(3, 2, 2)).shape
    torch.Size([3, 2, 2])
    """

    chained = True
    channels = 3

    def __call__(self, picture: "Tensor", *names: "Name") -> "Tensor":  # noqa: ARG002
        """Return the picture."""
        return picture

    def check(self, resolution: int, low_resolution: int, *, noised: bool) -> None:  # noqa: ARG002
        """Raise CascadeError for a picture of the same size, which leaves nothing to do."""
        if resolution == low_resolution:
            raise CascadeError(
                f"stage.low_resolution={low_resolution} is stage.resolution; of a whole picture of its own size a "
                "stage has nothing to make: choose what it is shown of it, like condition=grayscale"
            )


@dataclass(frozen=True)
class Grayscale:
    """The picture's greys, y = 0.299·R + 0.587·G + 0.114·B rounded to 8 bits, in each of 3 channels: colouring.

    A grey picture is left as it is, so that greys of a file are shown as the network met them.

    >>> import torch
    >>> Grayscale()(torch.tensor([1.0, -1.0, -1.0]).view(3, 1, 1)).flatten() * 127.5
    tensor([-51.5000, -51.5000, -51.5000])
    """

    chained = False
    channels = 3

    def __call__(self, picture: "Tensor", *names: "Name") -> "Tensor":  # noqa: ARG002
        """Return the greys (3, h, w)."""
        from cascade.data.degradation import from_uint8, to_uint8

        grey = sum(weight * channel for weight, channel in zip(LUMA, picture.unbind(-3), strict=True))
        return from_uint8(to_uint8(grey)).to(picture).unsqueeze(-3).expand_as(picture)

    def check(self, resolution: int, low_resolution: int, *, noised: bool) -> None:
        """Everything fits: small grey pictures too, and greys with noise."""


@dataclass(frozen=True)
class Masked:
    """z = [m·x, m]: the picture where it is known (m = 1), nothing where it is not, and the mask: filling in.

    `known(height, width, *names)` is m, bool (h, w). The draws of a picture are those of its names alone.

    >>> import torch
    >>> shown = mask_centre(0.5)(torch.ones(3, 4, 4))
    >>> shown.shape, shown[0].sum(), shown[3, 1]
    (torch.Size([4, 4, 4]), tensor(12.), tensor([1., 0., 0., 1.]))
    """

    known: "Callable[..., Tensor]"

    chained = False
    channels = 4

    def __call__(self, picture: "Tensor", *names: "Name") -> "Tensor":
        """Return [m·x, m] (4, h, w)."""
        import torch

        mask = self.known(*picture.shape[-2:], *names).to(picture)[None]
        return torch.cat([mask * picture, mask])

    def check(self, resolution: int, low_resolution: int, *, noised: bool) -> None:
        """Raise CascadeError unless known pixels are pixels of what is made, as they are."""
        if resolution != low_resolution:
            raise CascadeError(
                f"a mask hides a part of the picture that is made: stage.low_resolution={low_resolution} must be "
                f"stage.resolution={resolution}"
            )
        if noised:
            raise CascadeError("known pixels are shown as they are: with a mask say augmentation=none")


def mask_centre(share: float = 0.5) -> Masked:
    """Hide a square in the middle, whose side is `share` of the picture's.

    >>> mask_centre(0.25).known(8, 8).sum()
    tensor(60)
    """
    _check_share("share", share)
    return Masked(_Centre(share))


def mask_half() -> Masked:
    """Hide a half: above, below, left or right, as the names of the picture say.

    >>> mask_half().known(4, 4, "a").sum()
    tensor(8)
    """
    return Masked(_half)


MOST = 1_000
"""The most boxes of a mask: four numbers a box are drawn for each picture, of `most` boxes."""


def mask_boxes(least: int = 1, most: int = 4, share_min: float = 0.2, share_max: float = 0.5) -> Masked:
    """Hide `least` to `most` boxes, whose sides are each from `share_min` to `share_max` of the picture's.

    >>> import torch
    >>> one, again = (mask_boxes().known(16, 16, "seed", 3) for _ in range(2))
    >>> torch.equal(one, again)
    True
    """
    if not 1 <= least <= most <= MOST:
        raise ValueError(f"need 1 <= least <= most <= {MOST} boxes, not {least} and {most}")
    for name, share in (("share_min", share_min), ("share_max", share_max)):
        _check_share(name, share)
    if share_min > share_max:
        raise ValueError(f"share_min={share_min} is above share_max={share_max}")
    return Masked(_Boxes(least, most, share_min, share_max))


@dataclass(frozen=True)
class _Centre:
    share: float

    def __call__(self, height: int, width: int, *names: "Name") -> "Tensor":  # noqa: ARG002
        hidden = [max(1, round(self.share * side)) for side in (height, width)]
        starts = [(side - size) // 2 for side, size in zip((height, width), hidden, strict=True)]
        return _without(height, width, [(starts[0], starts[1], hidden[0], hidden[1])])


@dataclass(frozen=True)
class _Boxes:
    least: int
    most: int
    share_min: float
    share_max: float

    def __call__(self, height: int, width: int, *names: "Name") -> "Tensor":
        from cascade import rng

        draws = rng.uniform(*names, "boxes", shape=(1 + 4 * self.most,)).tolist()
        count = self.least + int(draws[0] * (self.most - self.least + 1))
        boxes = []
        for i in range(count):
            own = draws[1 + 4 * i : 5 + 4 * i]
            shares = [self.share_min + (self.share_max - self.share_min) * u for u in own[:2]]
            high, wide = (max(1, round(share * side)) for share, side in zip(shares, (height, width), strict=True))
            boxes.append((int(own[2] * (height - high + 1)), int(own[3] * (width - wide + 1)), high, wide))
        return _without(height, width, boxes)


def _half(height: int, width: int, *names: "Name") -> "Tensor":
    from cascade import rng

    which = int(4 * float(rng.uniform(*names, "half")))
    high, wide = (height // 2, width) if which < 2 else (height, width // 2)
    top, left = (height - high, width - wide) if which % 2 else (0, 0)
    return _without(height, width, [(top, left, high, wide)])


def _without(height: int, width: int, boxes: "list[tuple[int, int, int, int]]") -> "Tensor":
    import torch

    known = torch.ones(height, width, dtype=torch.bool)
    for top, left, high, wide in boxes:
        known[top : top + high, left : left + wide] = False
    return known


def _check_share(name: str, share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"{name} is a part of the side, above 0 and at most 1, not {share}")
