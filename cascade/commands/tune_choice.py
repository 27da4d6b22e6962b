"""What `cascade tune` chooses: of the values of one setting the best on one half of the pictures, held to by the other.

All values are sampled from the same seeds and judged by the same photographs, so distances are compared picture by
picture: what they owe to the choice of the pictures cancels. The half that chooses flatters whatever it chooses (of
several values that are alike, one looks best); the half that confirms has had no say, and so it alone decides.
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
    precision, recall  fidelity and diversity, of all pictures or patches
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

    The half that chooses proposes the value whose gain less its error is the largest. It is taken where the other half,
    which compares nothing but these two, finds it nearer to the photographs by more than two standard errors of the
    difference: so it does not matter among how many it looked best. Of `steps` the fewest are wanted whose distance is
    within one standard error of the best on both halves (Breiman et al. 1984, the one-standard-error rule).
    """
    if not judged:
        return Choice(None, "no gain: no other value could be measured")
    choice = _confirmed(judged, present)
    if key != STEPS:
        return choice
    best = choice.best or present
    cheaper = [one for one in judged if one.value < best.value and _as_good(one, best)]
    if not cheaper:
        return choice
    return Choice(min(cheaper, key=lambda one: one.value), f"as good as {best.value:g} steps, in less time")


def _confirmed(judged: Sequence[Judged], present: Judged) -> Choice:
    gains = [gain(one, present, "choosing") for one in judged]
    place = max(range(len(judged)), key=lambda i: gains[i].value - gains[i].standard_error)
    if gains[place].value <= 0:
        return Choice(None, "no gain: nothing looks better")
    if not gain(judged[place], present, "confirming").beyond(2):
        return Choice(None, "no gain beyond two standard errors on the pictures that did not choose")
    return Choice(judged[place], "better beyond two standard errors on pictures that did not choose it")


def _as_good(one: Judged, best: Judged) -> bool:
    return not any(gain(best, one, half).beyond(1) for half in HALVES)


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

    Of the pictures the first half chooses: seeds that follow one another have the classes in turn. Of the photographs
    those at `halves[0]` do.
    """
    from cascade.evaluation.kernel import kernel_estimate
    from cascade.evaluation.precision_recall import precision_recall
    from cascade.evaluation.spectrum import high_band_ratio

    measurement, seconds = made
    made_of, real_of = (one.features.unflatten(0, (one.spectrum.count, -1)) for one in (measurement, photographs))
    patches = real_of.shape[1]  # of each picture
    distances = [
        kernel_estimate(
            part.flatten(0, 1),
            real_of[places].flatten(0, 1),
            (f"pictures, {half}", f"photographs, {half}"),
            group=patches,
        )
        for half, part, places in zip(HALVES, made_of.tensor_split(2), halves, strict=True)
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
