"""What `cascade tune` chooses: of the values of one setting the best on one half of the pictures, held to by the other.

All values are sampled from the same seeds and judged by the same photographs, so distances are compared picture by
picture: what they owe to the choice of the pictures cancels. The half that chooses flatters whatever it chooses (of
several values that are alike, one looks best); the half that confirms has had no say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cascade.commands.tune_points import Values

if TYPE_CHECKING:
    from torch import Tensor

    from cascade.evaluation.jackknife import Estimate
    from cascade.evaluation.measurement import Measurement

HALVES = ("choosing", "confirming")
STEPS = "steps"
"""The setting that costs time, of which the fewest that are as good as the best are the best."""


@dataclass(frozen=True, eq=False)
class Judged:
    """One value of a setting, by the pictures that it makes.

    values             all settings that differ from the cascade's own
    value              that of the setting which is tuned
    choosing, confirming
                       kernel distances of the two halves of the pictures to the two halves of the photographs
    precision, recall  fidelity and diversity, of all pictures
    detail             power above half of Nyquist over that of the photographs
    seconds            of a picture in the stage itself; None where that was not measured
    """

    values: Values
    value: float
    choosing: "Estimate"
    confirming: "Estimate"
    precision: float | None
    recall: float | None
    detail: float
    seconds: float | None

    def to_json(self, present: "Judged") -> dict[str, Any]:
        """Plain values; `present` is what it is compared with."""
        distances = {half: _plain(getattr(self, half)) for half in HALVES}
        gains = {half: _plain(gain(self, present, half)) for half in HALVES}
        rest = {key: getattr(self, key) for key in ("precision", "recall", "detail", "seconds")}
        return {"value": self.value, "values": dict(self.values), "distance": distances, "gain": gains, **rest}


@dataclass(frozen=True)
class Choice:
    """The best value of a setting, None where there is no gain, and why."""

    best: Judged | None
    why: str


def choose(key: str, judged: Sequence[Judged], present: Judged) -> Choice:
    """The best of several values beside the present one.

    On the half that chooses it must lie nearer to the photographs than the present one by more than two standard errors
    of the difference, and on the other half not farther. Of `steps`, the fewest are wanted of those that the best does
    not beat so: fewer than the present ones need only be as good, on both halves.
    """
    if key == STEPS:
        everything = [present, *judged]
        nearest = min(everything, key=lambda one: one.choosing.value)
        as_good = [one for one in everything if not gain(nearest, one, "choosing").beyond(2)]
        fewest = min(as_good, key=lambda one: one.value)
        if fewest.value <= present.value:
            return _cheaper(fewest, present)
        judged = [fewest]
    better = [one for one in judged if gain(one, present, "choosing").beyond(2)]
    if not better:
        return Choice(None, "no gain beyond two standard errors")
    best = min(better, key=lambda one: one.choosing.value)
    if gain(best, present, "confirming").value < 0:
        return Choice(None, "no gain: what looks best is not confirmed by the pictures that did not choose it")
    return Choice(best, "better beyond two standard errors, and no worse on pictures that did not choose it")


def _cheaper(fewest: Judged, present: Judged) -> Choice:
    """Fewer steps, unless they are worse than the present ones on either half."""
    if fewest is present:
        return Choice(None, "no gain: fewer steps are worse, and more no better")
    if any(gain(present, fewest, half).beyond(2) for half in HALVES):
        return Choice(None, "no gain: fewer steps are worse")
    return Choice(fewest, "as good as the present ones, in less time")


def gain(one: Judged, other: Judged, half: str) -> "Estimate":
    """By how much one lies nearer to the photographs than the other, with the error of that difference."""
    return getattr(other, half) - getattr(one, half)


def judge(
    values: Values,
    value: float,
    *,
    made: "tuple[Measurement, float | None]",
    photographs: "Measurement",
    halves: "tuple[Tensor, Tensor]",
    neighbours: int,
) -> Judged:
    """What is to be said of one value: `made` are its measurement and seconds, `photographs` theirs.

    Of the pictures the first half chooses, as all classes are in both; of the photographs those at `halves[0]`.
    """
    from cascade.evaluation.kernel import kernel_estimate
    from cascade.evaluation.precision_recall import precision_recall
    from cascade.evaluation.spectrum import high_band_ratio

    measurement, seconds = made
    parts = measurement.features.tensor_split(2)
    distances = [
        kernel_estimate(part, photographs.features[places], ("pictures", "photographs"))
        for part, places in zip(parts, halves, strict=True)
    ]
    enough = min(len(measurement.features), len(photographs.features)) > neighbours
    both = precision_recall(photographs.features, measurement.features, neighbours) if enough else None
    return Judged(
        values,
        value,
        *distances,
        None if both is None else both.precision,
        None if both is None else both.recall,
        high_band_ratio(measurement.spectrum, photographs.spectrum, 0.5),
        seconds,
    )


def _plain(estimate: "Estimate") -> dict[str, float]:
    return {"value": estimate.value, "standard_error": estimate.standard_error}
