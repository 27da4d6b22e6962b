"""A stage sampled at several settings and compared with real pictures each time: the loop of every such table.

What varies is a `Point`, some settings of one stage with the words that a table says of them; all else is the cascade's
own. The pictures of each point are kept, and so are the seconds that they took.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.files import write_whole

if TYPE_CHECKING:
    from cascade.commands.evaluated_samples import EvaluatedSamples
    from cascade.evaluation.features import Features
    from cascade.evaluation.jackknife import Estimate
    from cascade.evaluation.measurement import Measurement
    from cascade.progress import Bars
    from cascade.stage_sampler import StageSampler
    from cascade.stage_settings import StageSettings

TIMES = "seconds.json"


@dataclass(frozen=True)
class Point:
    """Settings of a stage, and what varies in them in words: {"sampler": "heun", "steps": 8}."""

    varied: Mapping[str, Any]
    settings: "StageSettings"


@dataclass(frozen=True)
class Result:
    """What a point gives: kernel distance, fine detail, and its price.

    distance that of two points of the same seeds has the error of a difference: what both owe to the pictures cancels
    detail   power above half of Nyquist over that of the real pictures
    seconds  of a picture in the stage itself, in full chunks; None where that was not measured
    """

    varied: Mapping[str, Any]
    distance: "Estimate"
    detail: float
    seconds: float | None
    num_images: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        distance = {"distance": self.distance.value, "standard_error": self.distance.standard_error}
        rest = {key: getattr(self, key) for key in ("detail", "seconds", "num_images")}
        return {"varied": dict(self.varied), **distance, **rest}


@dataclass
class StageClock:
    """Adds up the seconds of one stage between the calls of its network; what other stages and files take is not in it.

    `chunk_steps` is how many steps it makes of a chunk of pictures: from the end of one to the first call of the next,
    others have their time. A step may take several calls, and is told as often.

    >>> times = iter([0.0, 1.0, 2.0, 3.0, 4.0, 9.0, 10.0])
    >>> clock = StageClock("b", 2, lambda: next(times))
    >>> for stage, step in (("a", 0), ("b", 0), ("b", 1), ("b", 1), ("b", 2), ("b", 2), ("b", 3)):
    ...     clock.at(stage, step)
    >>> clock.seconds, clock.steps
    (4.0, 3)
    """

    stage: str
    chunk_steps: int
    now: Callable[[], float] = time.perf_counter
    seconds: float = 0.0
    steps: int = 0
    _last: tuple[float, int] | None = field(default=None, repr=False)

    def at(self, stage: str, step: int) -> None:
        """Note that so many steps of a stage are done."""
        moment, last = self.now(), self._last
        self._last = None
        if stage != self.stage:
            return
        if last is not None:
            self.seconds += moment - last[0]
            self.steps += step - last[1]
            if step > last[1] and step % self.chunk_steps == 0:
                return
        self._last = moment, step


def measured(
    point: Point, samples: "EvaluatedSamples", stage: str, features: "Features", *, bars: "Bars", batch: int = 16
) -> "tuple[Measurement, float | None]":
    """What is measured of the pictures of one point, and the seconds of one of them in the stage itself."""
    from cascade.evaluation.measurement import measure

    own = at_point(point, samples, stage)
    note, clock = clocked(stage, own.plan()[-1].steps, bars)
    made = measure(replace(own, on_progress=note), features, batch=batch)
    return made, kept_seconds(own.folder, clock, own.plan()[-1])


def cheapest_as_good(found: Sequence[Result]) -> Result:
    """The cheapest of those that the best does not beat by more than two standard errors of their difference.

    >>> from cascade.evaluation.jackknife import Estimate
    >>> a, b, c = (Result({"steps": n}, Estimate(d), 1.0, n / 10, 9) for n, d in ((4, 2.0), (8, 1.0), (16, 1.0)))
    >>> cheapest_as_good([a, b, c]).varied
    {'steps': 8}
    """
    best = min(found, key=lambda result: result.distance.value)
    return min((r for r in found if not beats(best, r)), key=lambda r: math.inf if r.seconds is None else r.seconds)


def beats(first: Result, second: Result) -> bool:
    """Whether the first lies nearer to the real pictures, beyond two standard errors of the difference."""
    return (second.distance - first.distance).beyond(2)


def at_point(point: Point, samples: "EvaluatedSamples", stage: str) -> "EvaluatedSamples":
    """The samples where the stage has the settings of a point."""
    return replace(samples, settings={**samples.settings, stage: point.settings})


def clocked(stage: str, steps: int, bars: "Bars") -> tuple[Callable[[str, int, int], None], StageClock]:
    """The clock of a stage of so many steps, and what is to be told of every step: it shows those of all stages too."""
    clock = StageClock(stage, steps)

    def note(name: str, step: int, total: int) -> None:
        clock.at(name, step)
        bars.at(f"  {name}, steps", step, total)
        if step >= total:
            bars.end(f"  {name}, steps")

    return note, clock


def kept_seconds(folder: Path | None, clock: StageClock, sampler: "StageSampler") -> float | None:
    """Seconds of a picture over this and all earlier calls; those of this one are added to what is kept."""
    before = _read(None if folder is None else folder / TIMES)
    seconds, done = before["seconds"] + clock.seconds, before["steps"] + clock.steps
    if folder is not None and clock.steps:
        write_whole(folder / TIMES, json.dumps({"seconds": seconds, "steps": done}) + "\n")
    return seconds / done * sampler.steps / sampler.chunk if done else None


def _read(file: Path | None) -> dict[str, Any]:
    try:
        plain = json.loads("" if file is None else file.read_text(encoding="utf-8"))
        seconds, steps = float(plain["seconds"]), int(plain["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return {"seconds": 0.0, "steps": 0}
    return {"seconds": seconds, "steps": steps}
