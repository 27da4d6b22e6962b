"""A super-resolution stage at several settings, each time on the same photographs made small: the loop of its table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.commands.evaluation_features import check_patches, patch_features
from cascade.commands.swept_points import Point, Result, at_point, clocked, kept_seconds
from cascade.commands.teacher_forced import TeacherForced, chosen_photographs
from cascade.errors import CascadeError
from cascade.files import expanded
from cascade.requests import chosen_stages

if TYPE_CHECKING:
    from cascade.artifact import StageConfig
    from cascade.commands.evaluated_samples import EvaluatedSamples
    from cascade.commands.evaluated_sides import Pictures
    from cascade.data.dataset import PictureDataset
    from cascade.evaluation.features import Features
    from cascade.evaluation.measurement import Measurement
    from cascade.evaluation.patches import PatchFeatures
    from cascade.progress import Bars


def check_photographs(plain: Mapping[str, Any], configs: "Sequence[StageConfig]", place: int) -> None:
    """What can be said without torch of the stage at that place alone, shown photographs."""
    config = configs[place]
    if config.low_resolution is None:
        raise CascadeError(f"'{config.name}' is a base stage and upscales no photographs; leave photographs=true out")
    if chosen_stages(configs, place + 1, config.low_resolution).start != place:
        raise CascadeError(f"a stage before '{config.name}' takes pictures of {config.low_resolution} px too")
    others = sorted(set(plain["per_stage"]) - {config.name})
    unset = {"guidance_scale": None, "first_seed": 0, "num_reference": None}
    if meant := [*(key for key, value in unset.items() if plain[key] != value), *others]:
        raise CascadeError(f"{meant[0]} says nothing of '{config.name}' on photographs=true; leave it out")
    check_patches(plain, config.resolution)


@dataclass(frozen=True, eq=False)
class SweptUpscaling:
    """The stage `stages` of `samples` and the photographs at the places `chosen` of `dataset`, measured by patches."""

    samples: "EvaluatedSamples"
    stages: int
    dataset: "PictureDataset"
    chosen: Sequence[int]
    real: "Pictures"
    features: "PatchFeatures"
    seed: int
    out: Path
    prefix = "patch-"
    """Of the distance's name."""

    @classmethod
    def open(
        cls, plain: Mapping[str, Any], samples: "EvaluatedSamples", features: "Features", bars: "Bars"
    ) -> "SweptUpscaling":
        """Choose `num_images` photographs by seed, or all where there are fewer."""
        from cascade.commands.evaluated_sides import open_data, pictures_at

        config = samples.pipeline.configs[samples.stages - 1]
        dataset = open_data(plain, config.resolution, plain["data"]["split"], bars, table=config.class_names)
        chosen = chosen_photographs(dataset, plain["seed"], plain["num_images"])
        real = pictures_at(dataset, plain, plain["data"]["split"], chosen)
        seen = patch_features(plain, features, len(chosen))
        return cls(samples, samples.stages, dataset, chosen, real, seen, plain["seed"], expanded(plain["out"]))

    def about(self) -> dict[str, Any]:
        """What a report says of the pictures."""
        return {"photographs": list(self.chosen)}

    def results(self, points: Sequence[Point], reference: "Measurement", bars: "Bars", batch: int) -> Iterator[Result]:
        """Sample and measure each point in turn. The distance is that of pictures and what they were made of."""
        from cascade.evaluation.measurement import measure
        from cascade.evaluation.patches import patch_distances
        from cascade.evaluation.spectrum import high_band_ratio

        stage = self.samples.pipeline.configs[self.stages - 1].name
        for number, point in enumerate(points):
            bars.at("settings", number, len(points))
            forced = TeacherForced.of(at_point(point, self.samples, stage), self.stages, self.dataset, self.out)
            note, clock = clocked(stage, forced.plan().steps, bars)
            told = replace(forced, on_progress=note)
            made = measure(told.pictures(self.chosen), self.features, batch=batch)
            *_, kernel = patch_distances(
                made.features, reference.features, self.features, pictures=len(self.chosen), seed=self.seed, paired=True
            )[0]
            seconds = kept_seconds(forced.folder, clock, forced.plan())
            detail = high_band_ratio(made.spectrum, reference.spectrum, 0.5)
            yield Result(point.varied, kernel.estimate, detail, seconds, len(self.chosen))
        bars.at("settings", len(points), len(points))
