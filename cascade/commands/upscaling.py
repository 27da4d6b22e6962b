"""`metrics=[upscaling]` of `cascade evaluate`: a super-resolution stage on its own, beside bicubic upscaling.

Photographs are shrunk to what the last stage takes, and both make large pictures of that; both are compared, patch by
patch, with the photographs. So nothing that an earlier stage does badly is held against it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cascade.artifact import load_chain
from cascade.commands.evaluated_sides import LEAST, Pictures, Sides, open_data, pictures_at
from cascade.commands.evaluation_features import check_patches, patch_features
from cascade.commands.teacher_forced import TeacherForced, chosen_photographs
from cascade.errors import CascadeError
from cascade.requests import chosen_stages

if TYPE_CHECKING:
    from torch import Tensor

    from cascade.commands.measured_chunks import MeasuredChunks
    from cascade.evaluation.features import Features
    from cascade.evaluation.figures import Figure
    from cascade.evaluation.patches import PatchDistance, PatchFeatures

PHOTOGRAPHS, BICUBIC = "photographs", "bicubic"


def check_upscaling(plain: Mapping[str, Any]) -> None:
    """Everything that can be said of the command line itself, before torch is imported."""
    from cascade.data.listing import SPLITS
    from cascade.data.source import check_source
    from cascade.errors import suggest

    asked = plain["upscaling"]
    if plain["cascade"] is None:
        raise CascadeError("upscaling is asked of a stage: give cascade=FOLDER, not images=FOLDER")
    if asked["num_images"] < LEAST:
        raise CascadeError(f"upscaling.num_images={asked['num_images']} must be at least {LEAST}")
    if asked["split"] not in SPLITS:
        raise CascadeError(f"unknown split '{asked['split']}'; {suggest(asked['split'], SPLITS)}")
    check_source(plain["data"])
    configs = load_chain(plain["cascade"])
    last = configs[chosen_stages(configs, plain["stages"], None)][-1]
    if last.low_resolution is None:
        raise CascadeError(f"'{last.name}' is a base stage and upscales nothing; stages=2 or more end at one that does")
    check_patches(plain, last.resolution)


@dataclass(frozen=True, eq=False)
class Upscaling:
    """A stage and the photographs whose small versions it is given, opened and not yet computed with.

    `chosen` are places in the data, `looks` what measures the photographs and both ways of making them large again.
    """

    plain: Mapping[str, Any]
    stage: TeacherForced
    chosen: Sequence[int]
    features: "PatchFeatures"
    looks: "Mapping[str, MeasuredChunks]"

    @classmethod
    def open(cls, sides: Sides, features: "Features") -> "Upscaling":
        """Open the stage and the data, and check that they know the same classes and fit."""
        plain, samples = sides.plain, sides.samples
        configs = samples.pipeline.configs
        asked, chain = plain["upscaling"], configs[chosen_stages(configs, plain["stages"], None)]
        split, last = asked["split"], chain[-1]
        dataset = open_data(plain, last.resolution, split, sides.bars, table=last.class_names)
        chosen = chosen_photographs(dataset, plain["seed"], asked["num_images"])
        if len(chosen) < LEAST:
            raise CascadeError(f"the data hold {len(chosen)} pictures in the split {split}; {LEAST} are wanted")
        stage = TeacherForced.of(samples, len(chain), dataset, sides.out)
        seen = patch_features(plain, features, len(chosen))
        ways = {
            PHOTOGRAPHS: pictures_at(dataset, plain, split, chosen),
            BICUBIC: _bicubic(stage, chosen),
            stage.name: stage.as_side(chosen, str(plain["cascade"])),
        }
        looks = {name: sides.look(pictures, seen, name, seen.choice) for name, pictures in ways.items()}
        return cls(plain, stage, chosen, seen, looks)

    @property
    def name(self) -> str:
        """The name of the stage."""
        return self.stage.name

    def title(self) -> str:
        """What the table is of."""
        split = self.plain["upscaling"]["split"]
        return f"{self.name} and bicubic on photographs ({self.plain['data']['name']}, {split}) made small"

    def measure(self) -> "tuple[list[Figure], dict[str, Any], list[str]]":
        """Figures, record and lines of both ways of upscaling."""
        from cascade.evaluation.measurement import pixel_figures
        from cascade.evaluation.patches import patch_distances

        found = {name: look.measurement() for name, look in self.looks.items()}
        real, count = found.pop(PHOTOGRAPHS), len(self.chosen)
        figures: list[Figure] = []
        left_out: list[str] = []
        of_way: dict[str, list[PatchDistance]] = {}
        for name, measured in found.items():
            of_way[name], left_out = patch_distances(
                measured.features,
                real.features,
                self.features,
                pictures=count,
                seed=self.plain["seed"],
                allow_few_images=self.plain["allow_few_images"],
                paired=True,
            )
            figures += [
                replace(figure, name=f"{name}: {figure.name}")
                for figure in [one.figure for one in of_way[name]] + pixel_figures(measured, real)
            ]
        figures[:0] = [_share(self.name, *both) for both in zip(of_way[self.name], of_way[BICUBIC], strict=True)]
        record = {
            **self.stage.record,
            "cascade": str(self.plain["cascade"]),
            "data": {**self.plain["data"], "split": self.plain["upscaling"]["split"]},
            "side": self.stage.dataset.resolution,
            "pictures": list(self.chosen),
            "patches": {**self.plain["patches"], "of each picture": len(real.features) // count},
        }
        return figures, record, left_out


def _bicubic(stage: TeacherForced, chosen: Sequence[int]) -> Pictures:
    """The same small photographs made large by bicubic interpolation."""
    from cascade.evaluation.resize import bicubic

    side = stage.dataset.resolution

    def read(places: range) -> "Iterator[tuple[Tensor, Tensor]]":
        for place in chosen[places.start : places.stop]:
            low = stage.low_res(place)
            yield bicubic(low[None].float(), side)[0].round().clamp(0, 255).byte(), low

    keys = ("fingerprint", "low_resolution")
    identity = {"of": BICUBIC, "side": side, "chosen": list(chosen), **{key: stage.record[key] for key in keys}}
    return Pictures(read, len(chosen), {}, identity)


def _share(name: str, ours: "PatchDistance", bicubic: "PatchDistance") -> "Figure":
    """A distance of the stage over that of bicubic, with the error of the quotient: both are of the same pictures."""
    value, error = math.inf, None
    if bicubic.estimate.value:
        quotient = ours.estimate.over(bicubic.estimate)
        value, error = quotient.value, quotient.standard_error
    figure = ours.figure
    return replace(figure, name=f"{name} / bicubic: {figure.name}", value=value, standard_error=error, details={})
