"""One stage of the gap: its pictures and those it was made from, under the features that it is judged by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cascade.errors import CascadeError

if TYPE_CHECKING:
    from cascade.commands.evaluated_sides import Pictures, Sides
    from cascade.commands.measured_chunks import MeasuredChunks
    from cascade.commands.teacher_forced import TeacherForced
    from cascade.evaluation.features import Features
    from cascade.evaluation.figures import Figure
    from cascade.evaluation.gap import StageGap
    from cascade.evaluation.jackknife import Estimate

KINDS = {
    "floor": "real against real",
    "real": "from real low-res",
    "chained": "chained",
    "reference": "real pictures",
}
"""What is compared, each of the first three with the last."""
_SETS = {"floor": "photographs", "real": "photographs", "chained": "seeds", "reference": "reference"}
"""The set whose picture i picture i is, or was made from."""


@dataclass(frozen=True)
class View:
    """What of the pictures is compared ("pictures" or "patches"), and the features of these.

    `before` are those of the stage's input: patches show the same part of a picture at both sizes. `more` is what the
    features depend on beside their name, weights and resizing; `side` is that of the stage's pictures.
    """

    of: str
    own: "Features"
    before: "Features"
    more: Mapping[str, Any] | None
    side: int

    def look(self, sides: "Sides", pictures: "Pictures", name: str) -> "MeasuredChunks":
        """What measures pictures of the stage."""
        return sides.look(pictures, self.own, name, self.more)

    def look_before(self, sides: "Sides", pictures: "Pictures", name: str) -> "MeasuredChunks":
        """What measures pictures of the size of its input."""
        return sides.look(pictures, self.before, name, self.more)


@dataclass(frozen=True, eq=False)
class Compared:
    """A stage: what measures each kind of its pictures, and of those of its input, of which "real" is the floor.

    `shown` are the places of the photographs; a base stage, to which nothing is handed, is not `forced`.
    """

    name: str
    view: View
    looks: "Mapping[str, MeasuredChunks]"
    before: "Mapping[str, MeasuredChunks]"
    forced: "TeacherForced | None"
    shown: Sequence[int]

    def gap(self) -> "StageGap":
        """All distances of the stage, in units of the spread of the real pictures."""
        from cascade.evaluation.gap import NOTHING, StageGap
        from cascade.evaluation.jackknife import Estimate

        own, unit = _distances(self.looks)
        before, unit_before = _distances(self.before) if self.before else ({}, unit)
        departs, spread = self._departs()

        def in_units(over: "Callable[[Estimate, Estimate], Estimate]") -> StageGap:
            inputs = {kind: over(distance, unit_before) for kind, distance in before.items()}
            return StageGap(
                self.name,
                floor=over(own["floor"], unit),
                chained=over(own["chained"], unit),
                real=over(own["real"], unit) if "real" in own else None,
                before=inputs["chained"] - inputs["floor"] if inputs else NOTHING,
                departs=over(departs, spread),
            )

        return replace(in_units(lambda distance, unit: distance * (1 / unit.value)), with_units=in_units(Estimate.over))

    def figures(self, plain: Mapping[str, Any], gap: "StageGap") -> "dict[str, list[Figure]]":
        """The metrics of each kind, and first its distance in the unit of the losses."""
        from cascade.evaluation.figures import distances
        from cascade.evaluation.gap import UNIT
        from cascade.evaluation.measurement import pixel_figures
        from cascade.evaluation.patches import patch_distances

        real, found = self.looks["reference"].measurement(), {}
        settings = {"seed": plain["seed"], "allow_few_images": plain["allow_few_images"]}
        for kind in (kind for kind in self.looks if kind != "reference"):
            look = self.looks[kind]
            made = look.measurement()
            if self.view.of == "patches":
                of_patches, _ = patch_distances(
                    made.features, real.features, self.view.own, pictures=look.pictures.count, **settings
                )
                figures = [one.figure for one in of_patches]
            else:
                figures, _ = distances(
                    made.features, real.features, self.view.own, neighbours=plain["neighbours"], **settings
                )
            own = getattr(gap, kind)
            distance = replace(
                figures[0], name="distance", value=own.value, standard_error=own.standard_error, unit=UNIT, details={}
            )
            found[kind] = [distance, *figures, *pixel_figures(made, real)]
        return found

    def record(self) -> dict[str, Any]:
        """What is compared, as plain JSON values."""
        return {
            "of": self.view.of,
            "side": self.view.side,
            "resize": self.view.own.resize,
            **{f"pictures, {KINDS[kind]}": look.pictures.report() for kind, look in self.looks.items()},
        }

    def _departs(self) -> "tuple[Estimate, Estimate]":
        """Mean rms² of the shrunk outputs from their real inputs, and that of two real inputs, 2·variance."""
        import torch

        from cascade.evaluation.gap import NOTHING
        from cascade.evaluation.jackknife import Estimate

        if self.forced is None:
            return NOTHING, Estimate(1.0)
        rms = self.looks["real"].measurement().rms
        assert rms is not None, "teacher-forced pictures have inputs"
        small = torch.stack([self.forced.low_res(place).flatten() for place in self.shown])
        variance = _positive(Estimate.of_variance(small, _SETS["real"]))
        return Estimate.of_mean(rms.double().square(), _SETS["real"]), variance * 2


def _distances(looks: "Mapping[str, MeasuredChunks]") -> "tuple[dict[str, Estimate], Estimate]":
    """MMD² of each kind from the reference, and their unit, the spread of the reference."""
    from cascade.evaluation.kernel import kernel_estimate, kernel_spread

    rows = {kind: look.measurement().features for kind, look in looks.items()}
    real = rows.pop("reference")
    group = len(real) // looks["reference"].pictures.count
    unit = _positive(kernel_spread(real, _SETS["reference"], group=group))
    sets = {kind: (_SETS[kind], _SETS["reference"]) for kind in rows}
    return {kind: kernel_estimate(rows[kind], real, sets[kind], group=group) for kind in rows}, unit


def _positive(spread: "Estimate") -> "Estimate":
    if not spread.value > 0:
        raise CascadeError("the real pictures are all the same, so that no distance has a unit")
    return spread
