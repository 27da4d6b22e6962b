"""Who judges in `cascade tune`: photographs that were not trained on, in two halves of which one has no say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cascade.artifact import StageConfig, load_chain
from cascade.commands.evaluated_sides import Pictures, Sides
from cascade.commands.tune_choice import Judged, judge
from cascade.commands.tune_jobs import Plain, device_here, in_patches, looked_at_by, measurement_of, result_of, sampled
from cascade.commands.tune_points import Values, in_words
from cascade.errors import CascadeError
from cascade.files import expanded
from cascade.requests import class_table

if TYPE_CHECKING:
    from torch import Tensor

    from cascade.evaluation.features import Features
    from cascade.evaluation.measurement import Measurement


@dataclass(frozen=True, eq=False)
class Judge:
    """The photographs, measured, and their places in the half that chooses and in the one that confirms."""

    plain: Plain
    real: Pictures
    photographs: "Measurement"
    halves: "tuple[Tensor, Tensor]"
    features: "Features"

    @classmethod
    def open(cls, plain: Plain, stage: StageConfig) -> "Judge":
        """Open the photographs and look at them, or read what was measured of them.

        That is done here, and on the processor where what waits for the jobs has no GPU.
        """
        import torch

        from cascade.commands.evaluated_sides import open_data, pictures_at
        from cascade.commands.gap import balanced_places
        from cascade.progress import progress_bars

        torch.set_num_threads(plain["threads"])
        here = {**plain, "device": device_here(plain["device"])}
        with progress_bars() as bars:
            split = plain["data"]["split"]
            table = class_table(load_chain(plain["cascade"]), sampled(plain, {}))
            dataset = open_data(plain, stage.resolution, split, bars, table=table)
            everything = plain["num_images"] if in_patches(plain) else len(dataset)  # there are many patches of each
            places = balanced_places(dataset, plain["num_reference"] or everything, plain["seed"], split, ())
            real = pictures_at(dataset, plain, split, places)
            if real.count < 6:
                raise CascadeError(f"{real.count} photographs are too few to choose and to confirm: give 6 or more")
            features = looked_at_by(here, bars.console)
            more = {**plain["patches"], "seed": plain["seed"]} if in_patches(plain) else None
            look = Sides(here, expanded(plain["out"]), bars).look(real, features, "photographs", more)
            return cls(plain, real, look.measurement(), halves_of(real.classes, plain["seed"]), features)

    @property
    def name(self) -> str:
        """What the distance is called."""
        from cascade.evaluation.figures import names_of

        return "patch-" * in_patches(self.plain) + names_of(self.features)[1]

    def __call__(self, values: Values, value: float) -> Judged:
        """Judge one point, which is there; `value` is that of what is tuned."""
        from cascade.commands.evaluation_report import features_record

        result = result_of(self.plain, values)
        assert result is not None, "only what is there is judged"
        if result["features"] != features_record(self.features):
            raise CascadeError(
                f"{in_words(values)} was measured by {result['features']['name']} and the photographs by "
                f"{self.features.name}: move the folder points in {self.plain['out']} away"
            )
        made = measurement_of(self.plain, values), result["seconds"]
        return judge(
            values,
            value,
            made=made,
            photographs=self.photographs,
            halves=self.halves,
            neighbours=self.plain["neighbours"],
        )

    def report(self) -> dict[str, Any]:
        """What the report says of the photographs and of how they judge."""
        from cascade.commands.evaluation_report import features_record

        return {
            "distance": self.name,
            "features": features_record(self.features),
            "reference": self.real.report(),
            "halves": "one half of the pictures and of the photographs chooses, the other confirms",
        }


def halves_of(classes: Sequence[str | None], seed: int) -> "tuple[Tensor, Tensor]":
    """The places of photographs of these classes in two halves, chosen by seed, as many of each class in both.

    >>> [half.tolist() for half in halves_of(["hat", "hat", "shoe", "shoe", "hat", "hat"], seed=0)]
    [[3, 4, 5], [0, 1, 2]]
    """
    import torch

    from cascade.rng import permutation

    order = permutation("tune", seed, size=len(classes)).tolist()
    by_class = sorted(order, key=lambda place: str(classes[place]))  # of one class, in the order of the seed
    return torch.tensor(sorted(by_class[::2])), torch.tensor(sorted(by_class[1::2]))
