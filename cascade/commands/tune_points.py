"""What `cascade tune` tries: the settings of a stage that it knows, their present values, and the others in words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cascade.artifact import StageConfig, StageSampling
from cascade.commands.per_stage import read_per_stage
from cascade.commands.swept_points import Point
from cascade.errors import CascadeError, suggest
from cascade.stage_settings import StageSettings, changed
from cascade.trained_levels import spread_levels

OWN = "own"
"""The point at which nothing is changed."""
LEVELS = 7
Values = Mapping[str, float]


@dataclass(frozen=True)
class Tunable:
    """A setting that is tuned: its key in StageSettings, its present value, and what is tried unless one says so."""

    key: str
    read: Callable[[str], float]
    present: Callable[[StageSampling], float]
    default: Callable[[StageConfig, StageSampling], Sequence[float]]


def _scale(guidance: Mapping[str, Any]) -> float:
    return _scale(guidance["guided"]) if "guided" in guidance else float(guidance.get("scale", 1.0))


def _steps(sampling: StageSampling) -> int:
    from cascade.registry import build

    return len(build("grid", sampling.grid)) - 1


def _around(steps: int) -> list[int]:
    return sorted({max(1, steps // 4), max(1, steps // 2), 2 * steps})


TUNABLE = {
    "aug_level": Tunable(
        "aug_log_snr",
        float,
        lambda sampling: float(sampling.aug_log_snr or 0.0),
        lambda config, _: spread_levels(config.augmentation, LEVELS),
    ),
    "guidance_scale": Tunable(
        "guidance_scale", float, lambda sampling: _scale(sampling.guidance), lambda *_: (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
    ),
    "steps": Tunable("steps", int, _steps, lambda _, sampling: _around(_steps(sampling))),
}


def tuned_keys(over: str | Sequence[str] | None, config: StageConfig, sampling: StageSampling) -> list[str]:
    """The settings that are tuned, in order: those that are asked for, or all that the stage has.

    Raises CascadeError for one that does not exist, that is named twice, or that changes nothing in this stage.
    """
    if over is None:
        return [key for key in TUNABLE if _why_not(key, config, sampling) is None]
    asked = [key.strip() for key in over.split(",")] if isinstance(over, str) else list(over)
    for key in asked:
        if key not in TUNABLE:
            raise CascadeError(f"over: '{key}' is not tuned; {suggest(key, TUNABLE)}")
        if asked.count(key) > 1:
            raise CascadeError(f"over: '{key}' is named twice")
        if (why := _why_not(key, config, sampling)) is not None:
            raise CascadeError(f"over: stage '{config.name}' {why}")
    return asked


def tried_values(
    key: str, given: Mapping[str, Sequence[float] | None], config: StageConfig, sampling: StageSampling
) -> list[float]:
    """The values that are tried of one setting, without its present one; each makes a sampling that can be."""
    tunable, listed = TUNABLE[key], given.get(key)
    values = list(tunable.default(config, sampling) if listed is None else listed)
    if len(set(values)) < len(values):
        raise CascadeError(f"values.{key}={values}: name each once")
    tried = [tunable.read(str(value)) for value in values if value != tunable.present(sampling)]
    if not tried:
        raise CascadeError(f"values.{key}={values}: name one that the stage does not have already")
    for value in tried:
        changed(sampling, settings_at({key: value}), config)
    return tried


def settings_at(values: Values, own: Mapping[str, Any] | None = None) -> StageSettings:
    """The settings of a stage at some values of what is tuned; `own` are its others, as the command line has them.

    >>> settings_at({"aug_level": 5.0, "steps": 8})
    StageSettings(guidance_scale=None, steps=8, aug_log_snr=5.0, truncated=None, ...)
    """
    told = {TUNABLE[key].key: value for key, value in values.items()}
    return read_per_stage({"stage": {**(own or {}), **told}}, ["stage"])["stage"]


def point_at(values: Values, own: Mapping[str, Any]) -> Point:
    """The same as a point of a sweep."""
    return Point(dict(values), settings_at(values, own))


def in_words(values: Values) -> str:
    """Some values as one word of a command line; `values_in` reads it.

    >>> in_words({"aug_level": float("inf"), "steps": 8}), in_words({})
    ('aug_level=inf,steps=8', 'own')
    """
    return ",".join(f"{key}={value!r}" for key, value in values.items()) or OWN


def values_in(words: str) -> dict[str, float]:
    """Read what `in_words` writes, or raise CascadeError.

    >>> values_in("aug_level=5,steps=8"), values_in("own")
    ({'aug_level': 5.0, 'steps': 8}, {})
    """
    values: dict[str, float] = {}
    for word in [] if words == OWN else words.split(","):
        key, _, text = word.partition("=")
        if key.strip() not in TUNABLE:
            raise CascadeError(f"point: '{key}' is not tuned; {suggest(key, TUNABLE)}")
        try:
            values[key.strip()] = TUNABLE[key.strip()].read(text)
        except ValueError as error:
            raise CascadeError(f"point: '{word}' must be a number: write it like aug_level=5.0,steps=8") from error
    return values


def _why_not(key: str, config: StageConfig, sampling: StageSampling) -> str | None:
    """Why a setting changes nothing in this stage; None where it does."""
    if key == "aug_level" and config.low_resolution is None:
        return "is a base stage and has no aug_level"
    if key == "aug_level" and spread_levels(config.augmentation, LEVELS) == spread_levels({}, LEVELS):
        return "was trained without augmentation and has no aug_level but inf"
    if key == "steps" and config.distilled is not None:
        return "is distilled and has its own number of steps"
    if key == "guidance_scale":
        try:
            one, two = (changed(sampling, StageSettings(guidance_scale=scale), config) for scale in (1.0, 2.0))
        except CascadeError:
            return "was trained with classes only, so that no guidance_scale guides it"
        if one == two:
            return "has no classes, so that guidance_scale changes nothing"
    return None
