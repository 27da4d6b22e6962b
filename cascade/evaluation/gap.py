"""The gap of a cascade: at which of its stages the pictures leave the real ones, and by how much.

Of each stage four distances are known, MMD² in units of the spread of the real pictures (`kernel_spread`), so that
pictures of 64 px and patches of 1024 px can be compared:

floor    real against real
real     what the stage makes of real low-res pictures ("teacher-forced")
chained  what it makes of those that the stage before has made
before   the distance of these low-res pictures themselves, over their floor

What a stage loses is what it loses of real low-res pictures, and by how much it makes their faults worse:

    alone = real − floor + departs        amplified = (chained − real) − before
    loss  = alone + amplified, if that is beyond two of its errors; of a base stage: chained − floor

A fault that a stage only hands on is not its own; a stage that repairs one gets no credit for it. `departs` is what the
distance between two sets cannot see: a stage that is shown too noisy a low-res picture makes fine pictures of something
else. It is the squared difference of the shrunk output from the real input over that of two real ones: 1 where nothing
of the input is left. Errors are those of the distances; whether a loss is one does not depend on its unit, which is
taken as known. Two stages have two units, and which of them loses more depends on both: there the errors of the units
count too, picture by picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cascade.errors import CascadeError
from cascade.evaluation.jackknife import Estimate

NOTHING = Estimate(0.0)
UNIT = "spreads"
"""The unit of a loss: the distance of a distribution that is one picture is about 1."""


@dataclass(frozen=True)
class StageGap:
    """The distances of one stage; `real` is None for a base stage, to which nothing is handed.

    `with_units` are the same with the errors of their units; None: these have none.

    >>> gap = StageGap("sr", floor=NOTHING, chained=Estimate(0.6), real=Estimate(0.1), before=Estimate(0.2))
    >>> round(gap.alone.value, 9), round(gap.amplified.value, 9), round(gap.loss.value, 9)
    (0.1, 0.3, 0.4)
    >>> StageGap("base", floor=Estimate(0.1), chained=Estimate(0.6)).loss.value
    0.5
    """

    stage: str
    floor: Estimate
    chained: Estimate
    real: Estimate | None = None
    before: Estimate = field(default=NOTHING)
    departs: Estimate = field(default=NOTHING)
    with_units: "StageGap | None" = None

    @property
    def alone(self) -> Estimate:
        """What it loses where nothing was lost before it."""
        return (self.chained if self.real is None else self.real) - self.floor + self.departs

    @property
    def amplified(self) -> Estimate:
        """How much more the faults of its input cost behind it than before it; below zero where it repairs them."""
        return NOTHING if self.real is None else self.chained - self.real - self.before

    @property
    def loss(self) -> Estimate:
        """All that the stage loses; what it amplifies is noisier than the rest, and counts where it is sure."""
        return self.alone + self.amplified if self.amplified.beyond() else self.alone

    def loss_at(self, value: float) -> Estimate:
        """The loss with the errors that it would have, units and all, if it were `value`: a unit's grow with it.

        >>> import torch
        >>> distance, unit = (Estimate.of_mean(torch.tensor([1.0, 2.0, 6.0]), name) for name in ("made", "real"))
        >>> measured = StageGap("sr", NOTHING, distance.over(unit))
        >>> gap = StageGap("sr", NOTHING, distance * (1 / unit.value), with_units=measured)
        >>> gap.loss_at(0.0).standard_error < gap.loss_at(1.0).standard_error < gap.loss_at(2.0).standard_error
        True
        """
        units = self.with_units or self
        measured = units.alone + units.amplified if self.amplified.beyond() else units.alone
        return self.loss + (measured - self.loss) * (value / self.loss.value if self.loss.value else 0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        estimates = {name: getattr(self, name) for name in ("loss", "alone", "amplified", "floor", "real", "chained")}
        estimates |= {"before": self.before, "departs": self.departs}
        return {
            "stage": self.stage,
            **{
                name: None if one is None else {"value": one.value, "standard_error": one.standard_error}
                for name, one in estimates.items()
            },
        }


@dataclass(frozen=True)
class Verdict:
    """The stage that loses most (None: none loses more than the error), whether that is sure, and a sentence.

    >>> Verdict("sr", sure=True, sentence="sr loses most.").stage
    'sr'
    """

    stage: str | None
    sure: bool
    sentence: str


def blame(gaps: Sequence[StageGap]) -> Verdict:
    """Say which stage loses most: of those that surely lose, the one whose loss less its error is the largest.

    None is named where no stage loses more than two errors. It is sure where that stage `loses_more` than every other;
    else the sentence says so, and names one that may lose as much. Raises CascadeError where there is no stage.

    >>> base, sr = StageGap("base", NOTHING, Estimate(0.2)), StageGap("sr", NOTHING, Estimate(0.9), Estimate(0.7))
    >>> print(blame([base, sr]).sentence)
    sr loses most, 0.9 ± 0: 0.7 with real low-res pictures, and 0.2 by what it adds to the faults of its input. ...
    """
    if not gaps:
        raise CascadeError("a cascade has at least one stage")
    ranked = sorted(gaps, key=lambda gap: (not gap.loss.beyond(), gap.loss.standard_error - gap.loss.value))
    if not any(gap.loss.beyond() for gap in ranked):
        return Verdict(None, False, f"No stage loses more than twice the error; most would be {_said(ranked[0])}.")
    most, *others = ranked
    parts = ""
    if most.real is not None:
        parts = f": {_number(most.alone.value)} with real low-res pictures"
        if most.amplified.beyond():
            parts += f", and {_number(most.amplified.value)} by what it adds to the faults of its input"
    rivals = [other for other in others if not loses_more(most, other)]
    if rivals:
        said = _said(max(rivals, key=lambda gap: gap.loss.value + 2 * gap.loss.standard_error))
        sentence = (
            f"No stage surely loses most: {_said(most)}{parts}; but {said}, is not below it by more than twice the "
            "error of the difference."
        )
        return Verdict(most.stage, False, sentence)
    sentence = f"{most.stage} loses most, {_loss(most)}{parts}."
    following = max(others, key=lambda gap: gap.loss.value, default=None)
    return Verdict(most.stage, True, sentence if following is None else f"{sentence} Next is {_said(following)}.")


def loses_more(one: StageGap, other: StageGap) -> bool:
    """Whether one loses more than the other, by more than two errors of the difference.

    They are those that it would have if both lost alike, as much as both together say (a score test, Rao 1948): the
    units of two stages differ, and however badly one's is known, a loss is more than none.

    >>> much, less = (StageGap("sr", NOTHING, Estimate(value)) for value in (0.9, 0.2))
    >>> loses_more(much, less), loses_more(less, much), loses_more(much, much)
    (True, False, False)
    """
    first, second = one.loss, other.loss
    u, v = first.standard_error**2, second.standard_error**2
    alike = (first.value * v + second.value * u) / (u + v) if u + v else (first.value + second.value) / 2
    return (one.loss_at(alike) - other.loss_at(alike)).beyond()


def _said(gap: StageGap) -> str:
    return f"{gap.stage}, {_loss(gap)}"


def _loss(gap: StageGap) -> str:
    return f"{_number(gap.loss.value)} ± {_number(gap.loss.standard_error)}"


def _number(value: float) -> str:
    """Two digits, and a real minus sign."""
    return f"{value:.2g}".replace("-", "−")
