"""What a sampling run changes in a stage's defaults: a few numbers and names, checked without torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real
from pathlib import Path
from typing import Any

from cascade.artifact import (
    CASCADE,
    StageConfig,
    StageSampling,
    find_cascade,
    find_stage,
    load_cascade_config,
    load_stage_config,
)
from cascade.distilled import check_distilled_sampling
from cascade.errors import CascadeError, suggest
from cascade.guidance_settings import classifier_free_scale, rescaled, with_guides, without_labels
from cascade.registry import TABLE
from cascade.trained_levels import refuse_untrained

Choice = str | Mapping[str, Any]
CHOICES = ("sampler", "grid", "guidance", "threshold")
"""The settings of a stage that are a choice of the registry's."""


@dataclass(frozen=True)
class StageSettings:
    """Changes for one stage; None keeps what `cascade.yaml` says.

    guidance_scale  of whatever guidance the stage has, 1 = none, but a classifier around it stays; classifier-free
                    guidance where it has none, which an unlabelled stage ignores
    steps           length of the sampling grid
    aug_log_snr     conditioning augmentation as a log-SNR, inf = clean; super-resolution stages only
    truncated       the stage before stops at aug_log_snr, instead of noise being added; super-resolution stages only
    keep_known      the pixels that a mask shows stay exactly what they are; stages of condition=mask_... only
    network_batch   pictures in a call of the network; another number changes the last bits
    tile            side of the parts in which the network is shown a picture, which bounds memory, 0 = whole pictures
    sampler, grid, guidance, threshold
                    a registered name, with its default parameters; or a config {name: ..., parameter: ...}; or some
                    parameters, {parameter: ...}, changed in the one that the stage has

    >>> StageSettings(steps=0)
    Traceback (most recent call last):
    cascade.errors.CascadeError: steps=0 must be at least 1
    """

    guidance_scale: float | None = None
    steps: int | None = None
    aug_log_snr: float | None = None
    truncated: bool | None = None
    keep_known: bool | None = None
    network_batch: int | None = None
    tile: int | None = None
    sampler: Choice | None = None
    grid: Choice | None = None
    guidance: Choice | None = None
    threshold: Choice | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "network_batch"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise CascadeError(f"{name}={value} must be at least 1")
        if self.tile is not None and (isinstance(self.tile, bool) or not isinstance(self.tile, int) or self.tile < 0):
            raise CascadeError(f"tile={self.tile} must be at least 0 (0: whole pictures)")
        if isinstance(self.grid, Mapping) and isinstance(self.grid.get("n"), int) and self.grid["n"] < 1:
            raise CascadeError(f"grid.n={self.grid['n']} must be at least 1")
        check_guidance_scale(self.guidance_scale)
        level = self.aug_log_snr
        if level is not None and (isinstance(level, bool) or not isinstance(level, Real) or math.isnan(level)):
            raise CascadeError(f"aug_log_snr={level} must be a number (inf: clean)")
        for group in CHOICES:
            choice = getattr(self, group)
            name = choice.get("name") if isinstance(choice, Mapping) else choice
            if name is not None and name not in TABLE[group]:
                raise CascadeError(f"unknown {group} '{name}'; {suggest(str(name), TABLE[group])}")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "StageSettings":
        """Read the keys of the fields; another key raises CascadeError with the nearest name."""
        names = [field.name for field in fields(cls)]
        for key in mapping:
            if key not in names:
                raise CascadeError(f"a stage has no setting '{key}'; {suggest(str(key), names)}")
        return cls(**mapping)


def check_guidance_scale(scale: float | None) -> None:
    """Raise CascadeError unless the scale is a finite number, or None."""
    if scale is not None and (isinstance(scale, bool) or not isinstance(scale, Real) or not math.isfinite(scale)):
        raise CascadeError(f"guidance_scale={scale} must be a finite number")


def settings_of(per_stage: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, StageSettings]:
    """Read stage → settings; a stage that is not among `names` raises CascadeError with the nearest name."""
    found = {}
    for name, mapping in per_stage.items():
        if name not in names:
            raise CascadeError(f"there is no stage '{name}' in the cascade; {suggest(str(name), names)}")
        try:
            found[name] = StageSettings.from_mapping(mapping)
        except CascadeError as error:
            raise CascadeError(f"stage '{name}': {error}") from error
    return found


def stored_samplings(folder: str | Path) -> list[StageSampling]:
    """How the stages of the cascade at `folder` are sampled, with the places of their guides there."""
    path = find_cascade(folder)
    samplings = [sampling for _, sampling in load_cascade_config(path).stages]
    return [with_guides(sampling, lambda _, name: str(path / name)) for sampling in samplings]


def load_sampled_config(path: str | Path) -> StageConfig:
    """The config of the stage (or run) at `path`; one in a cascade is sampled as its `cascade.yaml` says.

    Raises CascadeError for what `cascade.yaml` says of a distilled stage and that cannot have.
    """
    folder = find_stage(path).absolute()
    config, cascade = load_stage_config(folder), folder.parent
    if not (cascade / CASCADE).is_file():
        return config
    for (name, _), sampling in zip(load_cascade_config(cascade).stages, stored_samplings(cascade), strict=True):
        if name == folder.name:
            config = replace(config, sampling=sampling)
    check_distilled_sampling(config, config.sampling)
    return config


def planned(  # noqa: PLR0917
    configs: Sequence[StageConfig],
    samplings: Sequence[StageSampling],
    chosen: slice,
    settings: Mapping[str, StageSettings],
    guidance_scale: float | None = None,
    low_resolution: int | None = None,
) -> list[StageSampling]:
    """What each of the `chosen` stages is sampled with; `guidance_scale` is the base stage's.

    `low_resolution` is the side of pictures to start from, and larger than the first one's where that goes by tiles.
    Raises CascadeError for settings of a stage that does not run or is not there, and for those that it cannot have.
    """
    check_guidance_scale(guidance_scale)
    names = [config.name for config in configs[chosen]]
    for name, own in settings.items():
        if not isinstance(own, StageSettings):
            raise CascadeError(f"the settings of stage '{name}' must be a StageSettings, not {own!r}")
        if name not in names:
            every = [config.name for config in configs]
            why = "does not run here" if name in every else f"is not in the cascade; {suggest(str(name), every)}"
            raise CascadeError(f"stage '{name}' {why}")
    if guidance_scale is not None and chosen.start:
        hint = f"use {names[0]}.guidance_scale"
        raise CascadeError(f"guidance_scale is that of the base stage, which does not run here; {hint}")
    result = []
    for config, sampling in zip(configs[chosen], samplings[chosen], strict=True):
        own = settings.get(config.name, StageSettings())
        if guidance_scale is not None and config is configs[0]:
            if own.guidance_scale not in (None, guidance_scale):
                raise CascadeError(
                    f"guidance_scale={guidance_scale} is that of the base stage, and so is "
                    f"{config.name}.guidance_scale={own.guidance_scale}: give one of them"
                )
            own = replace(own, guidance_scale=guidance_scale)
        result.append(changed(sampling, own, config))
    if low_resolution not in (None, configs[chosen.start].low_resolution) and result[0].tile is None:
        sizes = " or ".join(str(c.low_resolution) for c in configs[: chosen.stop] if c.low_resolution is not None)
        raise CascadeError(
            f"low_res pictures of {low_resolution} px fit none of the stages: they take {sizes} px; by tiles, with "
            f"{names[0]}.tile={configs[chosen.start].resolution}, '{names[0]}' takes larger ones"
        )
    if configs[chosen.start].low_resolution is not None and result[0].truncated:
        raise CascadeError(
            f"stage '{names[0]}' is truncated: the stage before stops at its noise, which given pictures lack; "
            f"{names[0]}.truncated=false adds noise to them"
        )
    return result


def stops(samplings: Sequence[StageSampling]) -> list[float]:
    """The level where each of consecutive stages stops: the noise of a truncated one behind it, else +inf, the picture.

    >>> first, second = (StageSampling({}, {}, aug_log_snr=level, truncated=True) for level in (None, 3.0))
    >>> stops([first, second])
    [3.0, inf]
    """
    behind = [sampling.aug_log_snr if sampling.truncated else None for sampling in samplings[1:]]
    return [*(math.inf if level is None else level for level in behind), math.inf]


def changed(sampling: StageSampling, settings: StageSettings, config: StageConfig) -> StageSampling:
    """Return `sampling` with `settings` applied; without labels classifier-free guidance is none, whatever is asked.

    Raises CascadeError for the augmentation of a base stage, which has no picture to augment, for a level that was not
    trained, for classifier-free guidance without the class "none", for pixels to keep where no mask shows any (also if
    `cascade.yaml` asks for them), and for what a distilled stage cannot have.
    """
    for key in ("aug_log_snr", "truncated"):
        if config.low_resolution is None and getattr(settings, key) not in (None, False):
            raise CascadeError(f"stage '{config.name}' is a base stage and has no {key}")
    if settings.aug_log_snr is not None:
        try:
            refuse_untrained(config.augmentation, settings.aug_log_snr)
        except CascadeError as error:
            raise CascadeError(f"stage '{config.name}': {error}") from error
    made = {group: _chosen(getattr(sampling, group), getattr(settings, group)) for group in CHOICES}
    if settings.guidance_scale is not None:
        made["guidance"] = rescaled(made["guidance"], settings.guidance_scale)
    if not config.class_names:
        made["guidance"] = without_labels(made["guidance"])
    elif classifier_free_scale(made["guidance"]) != 1:
        refuse_without_none(
            config,
            "classifier-free guidance",
            f"leave its guidance_scale at 1, or guide it with {config.name}.guidance=classifier",
        )
    if settings.steps is not None and (config.distilled is None or settings.steps != config.distilled.steps):
        made["grid"] = with_steps(made["grid"], settings.steps)
    numbers = {key: getattr(settings, key) for key in ("aug_log_snr", "truncated", "keep_known", "network_batch")}
    if settings.tile is not None:
        sampling = replace(sampling, tile=settings.tile or None)
    result = replace(sampling, **made, **{key: value for key, value in numbers.items() if value is not None})
    if result.keep_known and (config.low_resolution is None or config.shown.channels == 3):
        raise CascadeError(
            f"stage '{config.name}' is shown no pixels to keep: keep_known is for stages that fill in "
            "(condition=mask_boxes and its like)"
        )
    check_distilled_sampling(config, result)
    return result


def refuse_without_none(config: StageConfig, what: str, instead: str) -> None:
    """Raise CascadeError where `what` needs the class "none" and the stage was trained with classes only."""
    if config.class_names and not config.network.get("null_label", True):
        raise CascadeError(
            f"stage '{config.name}' was trained with classes only, and {what} needs a class 'none': {instead}"
        )


def with_steps(grid: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Return the config of a grid with so many steps; ADM's respacing stays of its kind.

    >>> with_steps({"name": "adm_respaced", "respacing": "ddim25"}, 50)["respacing"], with_steps({"name": "karras"}, 9)
    ('ddim50', {'name': 'karras', 'n': 9})
    """
    if grid["name"] != "adm_respaced":
        return {**grid, "n": steps}
    stride = "ddim" if str(grid.get("respacing", "")).startswith("ddim") else ""
    return {**grid, "respacing": f"{stride}{steps}"}


def teacher_grid(teacher: StageConfig, steps: int, grid: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the config of the grid of `steps` steps that is halved for the students of a stage.

    It is `grid`, or the stage's own where that is None; a stage that was distilled itself has no other than its own.
    """
    own = teacher.sampling.grid
    return dict(own) if teacher.distilled else with_steps(own if grid is None else grid, steps)


def _chosen(present: Mapping[str, Any], choice: Choice | None) -> dict[str, Any]:
    if choice is None:
        return dict(present)
    if isinstance(choice, str):
        return {"name": choice}
    return dict(choice) if "name" in choice else merged(present, choice)


def merged(present: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `present` with `changes`; what is a mapping in both is merged in its turn.

    >>> merged({"lo": -2.0, "guided": {"name": "classifier_free", "scale": 2.0}}, {"guided": {"scale": 3.0}})
    {'lo': -2.0, 'guided': {'name': 'classifier_free', 'scale': 3.0}}
    """
    both = [key for key in changes if isinstance(changes[key], Mapping) and isinstance(present.get(key), Mapping)]
    return {**present, **changes, **{key: merged(present[key], changes[key]) for key in both}}
