"""`metrics=[floor,memorisation]` of `cascade evaluate`: photographs that were trained on beside some that were not.

floor         the distances of real from real, photographs of train from those of val: no samples can be expected nearer
memorisation  how near samples lie to training pictures, beside photographs that were not trained on
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.commands.evaluated_sides import Pictures, Sides
from cascade.commands.figure_table import named
from cascade.errors import CascadeError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from cascade.commands.measured_chunks import MeasuredChunks
    from cascade.evaluation.features import Features
    from cascade.evaluation.figures import Figure
    from cascade.evaluation.neighbours import Nearest
    from cascade.evaluation.pixels import BesidePixels

TRAINED, UNSEEN = "train", "val"
SHOWN = 8
"""Pairs of the contact sheet and the report: those that lie nearest."""


def sheet_of(side: int) -> str:
    """The name of the contact sheet of pictures of that side."""
    return f"neighbours-{side}.png"


def check_photographs(plain: Mapping[str, Any], metric: str) -> None:
    """Everything that can be said of the command line itself, before torch is imported."""
    if plain["reference"] is not None:
        raise CascadeError(f"{metric} compares with photographs of two splits: give data=..., not reference=")
    if plain["memorisation"]["side"] < 1:
        raise CascadeError(f"memorisation.side={plain['memorisation']['side']} must be at least 1")


@dataclass(frozen=True, eq=False)
class Photographs:
    """Samples and photographs of both splits, opened and not yet looked at."""

    plain: Mapping[str, Any]
    out: Path | None
    samples: Pictures
    trained: Pictures
    unseen: Pictures

    @classmethod
    def open(cls, sides: Sides, wanted: int | None = None) -> "Photographs":
        """Open samples and photographs; `wanted` of the training pictures (None: all)."""
        samples, trained = sides.generated, sides.of_data(TRAINED, wanted=wanted)
        return cls(sides.plain, sides.out, samples, trained, sides.of_data(UNSEEN, wanted=None))

    def looks(self, sides: Sides, features: "Features") -> "tuple[BesidePixels, list[MeasuredChunks]]":
        """What looks at all three, in pixels and in features."""
        from cascade.evaluation.pixels import BesidePixels

        seen = BesidePixels(features, min(self.plain["memorisation"]["side"], self.side))
        sets = {
            "pictures to evaluate": self.samples,
            "photographs that were trained on": self.trained,
            "photographs that were not": self.unseen,
        }
        return seen, [sides.look(pictures, seen, name) for name, pictures in sets.items()]

    def title(self) -> str:
        """What the table is of."""
        return f"{named(self.trained.source)} and {named(self.unseen.source)}"

    def floor(
        self, features: "Features", trained: "Tensor", unseen: "Tensor"
    ) -> "tuple[list[Figure], dict[str, Any], list[str]]":
        """Figures, record and lines of the distances of real from real, by the features of both splits."""
        from cascade.evaluation.figures import distances

        figures, left_out = distances(
            trained,
            unseen,
            features,
            seed=self.plain["seed"],
            allow_few_images=self.plain["allow_few_images"],
            neighbours=self.plain["neighbours"],
        )
        record = {"trained": self.trained.report(), "unseen": self.unseen.report()}
        return [replace(figure, name=f"floor: {figure.name}") for figure in figures], record, left_out

    def memorisation(
        self, seen: "BesidePixels", looks: "Sequence[MeasuredChunks]"
    ) -> "tuple[list[Figure], dict[str, Any]]":
        """Figures and record of the distances to the nearest training pictures, in pixels and in features."""
        features = seen.features
        in_pixels, in_features = neighbours(seen, [look.measurement().features for look in looks])
        spaces = {f"pixels at {seen.side} px": in_pixels, features.name: in_features}
        figures: list[Figure] = []
        record: dict[str, Any] = {key: getattr(self, key).report() for key in ("samples", "trained", "unseen")}
        for space, (ours, theirs) in spaces.items():
            figures += self._figures(space, ours, theirs, features if space == features.name else None)
            order = ours.distance.argsort()[:SHOWN].tolist()
            record[space] = [
                {"sample": i, "trained": int(ours.index[i]), "distance": float(ours.distance[i])} for i in order
            ]
        if self.out is not None:
            self._draw(self.out, {space: record[space] for space in spaces})
        return figures, record

    @property
    def side(self) -> int:
        """That of all pictures."""
        return int(self.trained.source["side"])

    def _figures(self, space: str, ours: "Nearest", theirs: "Nearest", features: "Features | None") -> "list[Figure]":
        from cascade.evaluation.figures import Figure
        from cascade.evaluation.neighbours import share_nearer

        common = {
            "num_images": len(ours.distance),
            "num_reference": self.trained.count,
            "resize": space if features is None else features.resize,
            "features": None if features is None else features.name,
            "sha256": None if features is None else features.sha256,
        }
        unit = "levels" if features is None else ""
        share, error = share_nearer(ours.distance, theirs.distance)
        medians = {"of samples": ours, "of photographs not trained on": theirs}
        return [
            Figure(
                "samples nearer to training pictures than such photographs (1/2: as near)",
                share,
                standard_error=error,
                **common,
            ),
            *(
                Figure(f"RMS distance to the nearest training picture, {of}", float(which.distance.median()),
                       unit=unit, **{**common, "num_images": len(which.distance)})
                for of, which in medians.items()
            ),
        ]  # fmt: skip

    def _draw(self, out: Path, spaces: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Under each of the nearest samples its training picture; `spaces` are the pairs of the record."""
        from cascade.commands.contact_sheet import write_contact_sheet

        pairs = [pair for of in spaces.values() for pair in of]
        samples = _picked(self.samples, {pair["sample"] for pair in pairs})
        trained = _picked(self.trained, {pair["trained"] for pair in pairs})
        rows: dict[str, list[Path | Image.Image]] = {}
        for space, of in spaces.items():
            rows[f"samples that lie nearest to a training picture, {space}"] = [samples[pair["sample"]] for pair in of]
            rows[f"their training pictures, {space}"] = [trained[pair["trained"]] for pair in of]
        write_contact_sheet(out / sheet_of(self.side), rows)


def neighbours(seen: "BesidePixels", rows: "Sequence[Tensor]") -> "tuple[list[Nearest], list[Nearest]]":
    """Of samples, and of photographs that were not trained on, the nearest training pictures: in pixels, in features.

    `rows` are what was seen of samples, of the training pictures, and of the others, if there are such. In pixels the
    mirror images of training pictures, which were trained on too, count as they do.
    """
    from cascade.evaluation.neighbours import nearest

    (samples, trained, *unseen), side = [seen.parted(of) for of in rows], seen.side
    turned = lambda pixels: pixels.view(-1, 3, side, side).flip(-1).flatten(1)  # noqa: E731
    in_pixels = [nearest(of, trained[0]).or_nearer(nearest(turned(of), trained[0])) for of, _ in (samples, *unseen)]
    return in_pixels, [nearest(of, trained[1]) for _, of in (samples, *unseen)]


def _picked(pictures: Pictures, places: Collection[int]) -> "dict[int, Image.Image]":
    """The pictures at these places, in one pass: they are decoded on the way."""
    from PIL import Image

    return {
        i: Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        for i, (image, _) in enumerate(pictures.pairs())
        if i in places
    }
