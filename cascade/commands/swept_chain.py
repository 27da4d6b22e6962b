"""A stage behind those before it at several settings, each time with the same seeds: the loop of its table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cascade.commands.swept_points import Point, Result, measured

if TYPE_CHECKING:
    from cascade.commands.evaluated_samples import EvaluatedSamples
    from cascade.commands.evaluated_sides import Pictures
    from cascade.evaluation.features import Features
    from cascade.evaluation.measurement import Measurement
    from cascade.progress import Bars


@dataclass(frozen=True, eq=False)
class SweptChain:
    """The last stage of `samples`, its pictures measured whole beside the `real` ones."""

    samples: "EvaluatedSamples"
    real: "Pictures"
    features: "Features"
    prefix = ""
    """Of the distance's name."""

    @classmethod
    def open(
        cls, plain: Mapping[str, Any], samples: "EvaluatedSamples", features: "Features", bars: "Bars"
    ) -> "SweptChain":
        """Choose `num_reference` real pictures by seed, or all."""
        from cascade.commands.evaluated_sides import of_data, open_data

        split, side = plain["data"]["split"], samples.plan()[-1].stage.config.resolution
        dataset = open_data(plain, side, split, bars, table=samples.class_names)
        return cls(samples, of_data(dataset, plain, split, wanted=plain["num_reference"]), features)

    def about(self) -> dict[str, Any]:
        """What a report says of the pictures."""
        return {"first_seed": self.samples.seeds[0]}

    def results(self, points: Sequence[Point], reference: "Measurement", bars: "Bars", batch: int) -> Iterator[Result]:
        """Sample and measure each point in turn; `samples` has the settings of the other stages.

        `batch` pictures are held at once.
        """
        from cascade.evaluation.kernel import kernel_estimate
        from cascade.evaluation.spectrum import high_band_ratio

        stage = self.samples.plan()[-1].name
        for number, point in enumerate(points):
            bars.at("settings", number, len(points))
            made, seconds = measured(point, self.samples, stage, self.features, bars=bars, batch=batch)
            distance = kernel_estimate(made.features, reference.features, ("pictures", "photographs"))
            detail = high_band_ratio(made.spectrum, reference.spectrum, 0.5)
            yield Result(point.varied, distance, detail, seconds, len(made.features))
        bars.at("settings", len(points), len(points))
