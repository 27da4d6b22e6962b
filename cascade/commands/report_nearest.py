"""Real pictures beside the samples: the training pictures that lie nearest to each, and one of its class."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from cascade.commands.evaluation_features import chosen_features
from cascade.commands.photographs import TRAINED, UNSEEN, neighbours
from cascade.data.source import open_dataset
from cascade.errors import CascadeError
from cascade.evaluation.neighbours import Nearest, share_nearer
from cascade.evaluation.pixels import BesidePixels

if TYPE_CHECKING:
    from torch import Tensor

    from cascade.commands.report_samples import Sample
    from cascade.data.dataset import PictureDataset
    from cascade.progress import Bars


@dataclass(frozen=True)
class Space:
    """Where distances are measured: of each sample the nearest training picture, and how near photographs lie there.

    `share` is P(a sample is nearer to a training picture than a photograph that was not trained on), with its standard
    error; None without such photographs.

    >>> import torch
    >>> Space("pixels", "levels", Nearest(torch.tensor([4]), torch.tensor([2.0])), None).order(8)
    [0]
    """

    name: str
    unit: str
    found: Nearest
    share: tuple[float, float] | None

    def order(self, most: int) -> list[int]:
        """The samples that lie nearest to a training picture."""
        return self.found.distance.argsort()[:most].tolist()


class Real:
    """Photographs at the size of the samples: those that were trained on, and, where there are, those that were not."""

    def __init__(self, plain: Mapping[str, Any], side: int, bars: "Bars") -> None:
        self.plain, self.bars = plain, bars
        self.compared_at = min(plain["memorisation"]["side"], side)
        self.trained = self._open(TRAINED, side)
        try:
            unseen, self.why_none = self._open(UNSEEN, side), f"{UNSEEN} holds no pictures"
        except CascadeError as error:  # data that have no such split
            unseen, self.why_none = None, str(error)
        self.unseen = unseen if unseen is not None and len(unseen) else None
        shown = self.trained if self.unseen is None else self.unseen
        self._of_class: dict[str | None, list[int]] = {None: list(range(len(shown)))}
        for i in range(len(shown)) if shown.class_names else ():
            self._of_class.setdefault(shown.class_names[shown.label(i)], []).append(i)
        self.shown = shown

    def beside(self, sample: "Sample") -> "Tensor | None":
        """A photograph of the sample's class, the one that its seed names; not trained on, where there are such."""
        of = self._of_class.get(sample.class_name, [])
        return self.shown.image(of[sample.seed % len(of)]) if of and sample.seed is not None else None

    def spaces(self, pictures: "Callable[[int], Tensor]", count: int) -> list[Space]:
        """The nearest training pictures of samples, in pixels and in features."""
        seen = BesidePixels(chosen_features(self.plain, self.bars.console), self.compared_at)
        rows = [
            self._looked(seen, pictures, count, "samples"),
            self._looked(seen, self.trained.image, len(self.trained), "photographs that were trained on"),
        ]
        if self.unseen is not None:
            rows.append(self._looked(seen, self.unseen.image, len(self.unseen), "photographs that were not"))
        in_pixels, in_features = neighbours(seen, rows)
        return [
            Space(name, unit, found[0], share_nearer(found[0].distance, found[1].distance) if found[1:] else None)
            for name, unit, found in (
                (f"pixels at {seen.side} px", "levels", in_pixels),
                (f"{seen.features.name} features", "", in_features),
            )
        ]

    def _looked(self, seen: BesidePixels, picture: "Callable[[int], Tensor]", count: int, name: str) -> "Tensor":
        """What is seen of `count` pictures, `batch` of which are held at once."""
        found = []
        for start in range(0, count, self.plain["batch"]):
            places = range(start, min(start + self.plain["batch"], count))
            found.append(seen(torch.stack([picture(place) for place in places])))
            self.bars.at(name, places.stop, count)
        return torch.cat(found)

    def _open(self, split: str, side: int) -> "PictureDataset":
        looked = lambda done, total: self.bars.at("looking through the data", done, total)  # noqa: E731
        return open_dataset(self.plain["data"], side, split, looked)


def said(spaces: Sequence[Space], why_none: str) -> list[str]:
    """What the distances say of copying, in a sentence for each space."""
    lines = [
        f"In {space.name}, a sample is nearer to a training picture than a photograph that was not trained on in "
        f"{100 * space.share[0]:.0f} ± {100 * space.share[1]:.0f} of 100 pairs; 50 is as near, and far above it speaks "
        "of copies."
        for space in spaces
        if space.share is not None
    ]
    return lines or [f"There are no photographs that were not trained on to say how near is near: {why_none}."]
