"""Real pictures beside the samples: the training pictures that lie nearest to each, and one of its class."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cascade.commands.evaluate import chosen_features
from cascade.commands.photographs import TRAINED, UNSEEN, looked_at, mirrored
from cascade.data.source import open_dataset
from cascade.errors import CascadeError
from cascade.evaluation.neighbours import Nearest, nearest, share_nearer

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
        return self.shown.image(of[sample.seed % len(of)]) if of else None

    def spaces(self, pictures: "Callable[[int], Tensor]", count: int) -> list[Space]:
        """The nearest training pictures of samples, in pixels and in features."""
        features, side = chosen_features(self.plain, self.bars.console), self.compared_at
        bars, batch = self.bars, self.plain["batch"]

        def looked(picture: "Callable[[int], Tensor]", count: int, name: str) -> "tuple[Tensor, Tensor]":
            return looked_at(map(picture, range(count)), side, features, batch, lambda done: bars.at(name, done, count))

        trained = looked(self.trained.image, len(self.trained), "photographs that were trained on")
        sets = [looked(pictures, count, "samples")]
        if self.unseen is not None:
            sets.append(looked(self.unseen.image, len(self.unseen), "photographs that were not"))
        in_pixels = [mirrored(of[0], trained[0], side) for of in sets]
        in_features = [nearest(of[1], trained[1]) for of in sets]
        return [
            Space(name, unit, found[0], share_nearer(found[0].distance, found[1].distance) if found[1:] else None)
            for name, unit, found in (
                (f"pixels at {side} px", "levels", in_pixels),
                (f"{features.name} features", "", in_features),
            )
        ]

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
