"""`metrics=[gap]` of `cascade evaluate`: each stage of a cascade with real low-res pictures and with generated ones.

What is compared, and how a stage is blamed, is said in `cascade.evaluation.gap`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.commands.evaluated_sides import LEAST, Pictures, Sides, open_data, pictures_at, sampled_pictures
from cascade.commands.evaluation_features import check_patches, patch_features
from cascade.commands.evaluation_report import features_record
from cascade.commands.gap_compared import KINDS, Compared, View
from cascade.commands.gap_table import gap_table, loss_figures
from cascade.commands.png import refuse_foreign
from cascade.commands.teacher_forced import TeacherForced
from cascade.errors import CascadeError, suggest
from cascade.files import expanded, write_whole

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

    from cascade.commands.evaluated_samples import EvaluatedSamples
    from cascade.data.dataset import PictureDataset
    from cascade.evaluation.features import RememberedFeatures
    from cascade.evaluation.figures import Figure

FIGURE = "gap.png"


def check_gap(plain: Mapping[str, Any]) -> None:
    """Everything that can be said of the command line itself, before torch is imported."""
    from cascade.data.listing import SPLITS

    asked = plain["gap"]
    if plain["cascade"] is None:
        raise CascadeError("gap asks the stages of a cascade: give cascade=FOLDER, not images=FOLDER")
    if plain["reference"] is not None:
        raise CascadeError("gap makes photographs small for each stage: give data=..., not reference=")
    if asked["num_images"] < LEAST:
        raise CascadeError(f"gap.num_images={asked['num_images']} must be at least {LEAST}")
    if asked["split"] not in SPLITS:
        raise CascadeError(f"unknown split '{asked['split']}'; {suggest(asked['split'], SPLITS)}")
    against = plain["data"]["split"]
    if asked["split"] != against and "all" in (asked["split"], against):
        raise CascadeError(
            f"gap.split={asked['split']} and data.split={against} share photographs; give two that share none, or one "
            "twice, which is parted"
        )
    check_patches(plain)
    if plain["out"] is not None:
        refuse_foreign(expanded(plain["out"]), [FIGURE])


@dataclass(frozen=True, eq=False)
class Gap:
    """Each stage beside photographs of its size, opened and not yet looked at."""

    plain: Mapping[str, Any]
    out: Path | None
    stages: Sequence[Compared]
    features: "RememberedFeatures"

    @classmethod
    def open(cls, sides: Sides, features: "RememberedFeatures") -> "Gap":
        """Open samples of every stage and photographs of every size, and check that they fit."""
        plain, samples = sides.plain, sides.samples
        samples = replace(samples, seeds=range(plain["first_seed"], plain["first_seed"] + plain["gap"]["num_images"]))
        names = [stage.name for stage in samples.plan()]
        photographs = _Photographs.open(sides, samples.pipeline.configs[len(names) - 1].resolution, samples.class_names)
        stages: list[Compared] = []
        chained: list[Pictures] = []
        for count in range(1, len(names) + 1):
            settings = {name: own for name, own in samples.settings.items() if name in names[:count]}
            chained.append(sampled_pictures(replace(samples, stages=count, settings=settings), plain))
            stages.append(_compared(sides, features, samples, photographs, chained))
        return cls(plain, sides.out, stages, features)

    def title(self) -> str:
        """What the table is of."""
        data = self.plain["data"]
        return f"where {self.plain['cascade']} loses quality (real: data={data['name']}, {self.plain['gap']['split']})"

    def measure(self) -> "tuple[list[Figure], dict[str, Any], list[str | Table]]":
        """The loss of each stage, the record, and the table and the sentence that are printed below."""
        from cascade.commands.gap_figure import draw_gap
        from cascade.evaluation.gap import UNIT, blame

        gaps = [stage.gap() for stage in self.stages]
        verdict = blame(gaps)
        of_stages = [stage.figures(self.plain, gap) for stage, gap in zip(self.stages, gaps, strict=True)]
        lines: list[str | Table] = [gap_table(self.stages, of_stages), verdict.sentence]
        if self.out is not None:
            write_whole(self.out / FIGURE, draw_gap(gaps, verdict, self.title()))
            lines.append(str(self.out / FIGURE))
        record = {
            "sentence": verdict.sentence,
            "stage": verdict.stage,
            "sure": verdict.sure,
            "unit": f"{UNIT}: MMD² over the variance of the real pictures' features in the space of its kernel",
            "features": features_record(self.features),
            "settings": dict(self.plain["gap"]),
            "stages": [
                {
                    **gap.to_json(),
                    **stage.record(),
                    "figures": {kind: [f.to_json() for f in of] for kind, of in figures},
                }
                for gap, stage, figures in zip(gaps, self.stages, (of.items() for of in of_stages), strict=True)
            ],
        }
        return loss_figures(self.stages, gaps), record, lines


@dataclass(frozen=True, eq=False)
class _Photographs:
    """Two sets of photographs, which share none: those shown to the stages, and those that all is compared with.

    `trained` and `unseen` are data of the largest size; what is drawn is drawn at every size, photographs are shrunk.
    """

    plain: Mapping[str, Any]
    unseen: "PictureDataset"
    trained: "PictureDataset"
    shown: Sequence[int]
    reference: Sequence[int]

    @classmethod
    def open(cls, sides: Sides, side: int, table: Sequence[str]) -> "_Photographs":
        plain = sides.plain
        split, against, wanted = plain["gap"]["split"], plain["data"]["split"], plain["gap"]["num_images"]
        unseen = open_data(plain, side, split, sides.bars, table=table)
        trained = unseen if against == split else open_data(plain, side, against, sides.bars, table=table)
        there = len(unseen) // 2 if against == split else len(unseen)
        if there < LEAST:
            raise CascadeError(
                f"the data hold {len(unseen)} pictures in the split {split}; "
                f"{LEAST if against != split else 2 * LEAST} are the least to compare"
            )
        shown = balanced_places(unseen, min(wanted, there), plain["seed"], split, ())
        most = plain["num_reference"] or wanted
        left_out = shown if against == split else ()
        return cls(plain, unseen, trained, shown, balanced_places(trained, most, plain["seed"], against, left_out))

    @property
    def count(self) -> int:
        """The largest number of pictures of a set."""
        return max(len(self.shown), len(self.reference), self.plain["gap"]["num_images"])

    def dataset(self, side: int) -> "PictureDataset":
        """The photographs that are shown, at that size."""
        return _at(self.unseen, side)

    def at(self, side: int) -> tuple[Pictures, Pictures]:
        """Both sets at that size."""
        shown = pictures_at(_at(self.unseen, side), self.plain, self.plain["gap"]["split"], self.shown)
        against = self.plain["data"]["split"]
        return shown, pictures_at(_at(self.trained, side), self.plain, against, self.reference)


def balanced_places(dataset: "PictureDataset", count: int, seed: int, split: str, left_out: Sequence[int]) -> list[int]:
    """So many places chosen by seed, but none of `left_out`: all classes equally often, as samples have them.

    Where a class has too few pictures the others fill up.
    """
    from cascade.rng import permutation

    taken, rank = set(left_out), dict[int, int]()
    rows = []
    for place in permutation("evaluation", "gap", seed, split, size=len(dataset)).tolist():
        if place not in taken:
            label = dataset.label(place)
            rank[label] = rank.get(label, 0) + 1
            rows.append((rank[label], place))
    return sorted(place for _, place in sorted(rows, key=lambda row: row[0])[:count])


def _at(dataset: "PictureDataset", side: int) -> "PictureDataset":
    """The same pictures at another size."""
    if dataset.resolution == side:
        return dataset
    return replace(dataset, resolution=side) if is_dataclass(dataset) else _Shrunk(dataset, side)


class _Shrunk:
    """Photographs made small by the rule of training."""

    def __init__(self, of: "PictureDataset", side: int) -> None:
        self.of, self.resolution = of, side
        self.class_names = of.class_names
        self.fingerprint = f"{of.fingerprint} shrunk to {side} px"

    def __len__(self) -> int:
        return len(self.of)

    def image(self, i: int) -> "Tensor":
        from cascade.data.degradation import from_uint8, shrink, to_uint8

        return to_uint8(shrink(from_uint8(self.of.image(i)), self.resolution))

    def label(self, i: int) -> int:
        return self.of.label(i)


def _compared(
    sides: Sides,
    features: "RememberedFeatures",
    samples: "EvaluatedSamples",
    photographs: _Photographs,
    chained: Sequence[Pictures],
) -> Compared:
    """The stage whose chained pictures are the last of `chained`."""
    config = samples.pipeline.configs[len(chained) - 1]
    low, shown = config.low_resolution, photographs.shown
    view = _view(sides, features, config.resolution, low, photographs.count)
    look = lambda kind, pictures: view.look(sides, pictures, f"{config.name}, {KINDS[kind]}")  # noqa: E731
    before = lambda kind, of: view.look_before(sides, of, f"{config.name}, {KINDS[kind]}, its input")  # noqa: E731
    floor, reference = photographs.at(config.resolution)
    own = {"floor": look("floor", floor)}
    if low is None:
        own |= {"chained": look("chained", chained[-1]), "reference": look("reference", reference)}
        return Compared(config.name, view, own, {}, None, shown)
    dataset = photographs.dataset(config.resolution)
    forced = TeacherForced.of(samples, len(chained), dataset, sides.out)
    own |= {
        "real": look("real", forced.as_side(shown, str(sides.plain["cascade"]))),
        "chained": look("chained", chained[-1]),
        "reference": look("reference", reference),
    }
    small, small_reference = photographs.at(low)
    inputs = {"floor": small, "chained": chained[-2], "reference": small_reference}
    return Compared(config.name, view, own, {kind: before(kind, of) for kind, of in inputs.items()}, forced, shown)


def _view(sides: Sides, features: "RememberedFeatures", side: int, low: int | None, count: int) -> View:
    """Patches of a picture of twice a patch's side or more, if there are such of its input; else whole pictures."""
    patch = sides.plain["patches"]["side"]
    if low is None or side < 2 * patch or patch * low % side:
        return View("pictures", features, features, None, side)
    own = patch_features(sides.plain, features.inner, count)
    before = patch_features(sides.plain, features.inner, count, patch * low // side)
    return View("patches", own, before, own.choice, side)
