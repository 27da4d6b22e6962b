"""Who judges in `cascade tune`: photographs that were not trained on, in two halves of which one has no say."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.artifact import StageConfig, load_chain
from cascade.commands.evaluated_sides import Pictures
from cascade.commands.tune_choice import Judged, judge
from cascade.commands.tune_jobs import Plain, measurement_of, result_of, sampled
from cascade.commands.tune_points import Values, in_words
from cascade.errors import CascadeError
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
        """Open the photographs and look at them, or read what was measured of them."""
        from cascade.commands.evaluate import chosen_features
        from cascade.commands.evaluated_sides import of_data, open_data
        from cascade.commands.measured_chunks import MeasuredChunks
        from cascade.commands.team import Team
        from cascade.progress import progress_bars
        from cascade.rng import permutation

        with progress_bars() as bars:
            split = plain["data"]["split"]
            table = class_table(load_chain(plain["cascade"]), sampled(plain, {}))
            dataset = open_data(plain, stage.resolution, split, bars, table=table)
            real = of_data(dataset, plain, split, wanted=plain["num_reference"])
            if real.count < 6:
                raise CascadeError(f"{real.count} photographs are too few to choose and to confirm: give 6 or more")
            features = chosen_features(plain, bars.console)
            asked = [real.identity, features.name, features.sha256, features.resize]
            digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]
            folder = Path(plain["out"]).expanduser() / "measured" / f"real-{digest}"
            look = MeasuredChunks(real, features, folder, Team(None), bars, "photographs", plain["batch"])
            first, second = permutation("tune", plain["seed"], size=real.count).tensor_split(2)
            return cls(plain, real, look.measurement(), (first, second), features)

    @property
    def name(self) -> str:
        """What the distance is called."""
        from cascade.evaluation.figures import names_of

        return names_of(self.features)[1]

    def __call__(self, values: Values, value: float) -> Judged:
        """Judge one point, which is there; `value` is that of what is tuned."""
        result = result_of(self.plain, values)
        assert result is not None, "only what is there is judged"
        if result["features"]["sha256"] != self.features.sha256:
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
        features = self.features
        return {
            "distance": self.name,
            "features": {"name": features.name, "sha256": features.sha256, "resize": features.resize},
            "reference": self.real.report(),
            "halves": "one half of the pictures and of the photographs chooses, the other confirms",
        }
