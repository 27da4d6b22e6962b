"""The check of a command line before Hydra starts: keys, groups, choices and types, with the nearest name in one line.

Everything is learnt from the configuration itself: groups are the folders of `conf/`, keys and types are those of the
composed default values. What null and ??? stand for is in `KINDS`.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import product
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, QuotedString
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cascade.commands import launchers
from cascade.commands.configuration import (
    composed,
    default_groups,
    flattened,
    groups_of,
    groups_on_disk,
    hydra_errors,
)
from cascade.commands.nearest_key import meant_setting, unknown_key
from cascade.commands.values import Kind, hydra_value, kind_of_value, split_commas
from cascade.errors import CascadeError, suggest
from cascade.ranges import refuse_out_of_range

# The kinds of keys whose default is null or ???: "COMMAND KEY", or "KEY" in every command. Where the default is null,
# null is right too; `nullable` says so where some configuration has another default.
KINDS = {
    "assemble stages": Kind("texts"),
    "sample stages": Kind("int", nullable=True),
    "evaluate stages": Kind("int", nullable=True),
    "evaluate images": Kind("text"),
    "evaluate reference": Kind("text"),
    "evaluate save_reference": Kind("text"),
    "evaluate report": Kind("text"),
    "evaluate num_images": Kind("int"),
    "evaluate num_reference": Kind("int"),
    "evaluate cas.num_photographs": Kind("int", nullable=True),
    "train init": Kind("text"),
    "train teacher": Kind("text"),
    "reconstruct-ema run": Kind("text"),
    "reconstruct-ema sigma_rel": Kind("float"),
    "reconstruct-ema step": Kind("int", nullable=True),
    "import checkpoint": Kind("text"),
    "import preset": Kind("text"),
    "import flags": Kind("text"),
    "import name": Kind("text"),
    "import class_names": Kind("text"),
    "import verify": Kind("text"),
    "steps stage.name": Kind("text"),
    "tune stage.name": Kind("text"),
    "tune over": Kind("texts", nullable=True),
    "tune values.aug_level": Kind("list", nullable=True, items="float"),
    "tune values.guidance_scale": Kind("list", nullable=True, items="float"),
    "tune values.steps": Kind("list", nullable=True, items="int"),
    "tune num_reference": Kind("int"),
    "tune point": Kind("text"),
    "probe stage.name": Kind("text"),
    "probe levels": Kind("list", nullable=True, items="float"),
    "probe num_reference": Kind("int"),
    "card stages": Kind("list", nullable=True, items="int"),
    "card images": Kind("text"),
    "card reference": Kind("text"),
    "card save_reference": Kind("text"),
    "card num_reference": Kind("int"),
    "card cas.num_photographs": Kind("int", nullable=True),
    "card about": Kind("text"),
    "card limits": Kind("text"),
    "card reports": Kind("list", items="text"),
    "card curves": Kind("list", items="text"),
    "report samples": Kind("text"),
    "report runs": Kind("texts"),
    "report cards": Kind("texts"),
    "report thumbnail": Kind("int", nullable=True),
    "candidates only": Kind("texts", nullable=True),
    "plan card": Kind("text", nullable=True),
    "plan json": Kind("text", nullable=True),
    "bound.steps": Kind("int", nullable=True),
    "bound.log_snr_min": Kind("float", nullable=True),
    "bound.log_snr_max": Kind("float", nullable=True),
    "log_likelihood.probes": Kind("int", nullable=True),
    "log_likelihood.log_snr_min": Kind("float", nullable=True),
    "log_likelihood.log_snr_max": Kind("float", nullable=True),
    "features.weights": Kind("text"),
    "features.resize": Kind("text"),
    "cascade": Kind("text"),
    "out": Kind("text"),
    "classes": Kind("texts", nullable=True),
    "seeds": Kind("texts"),
    "low_res": Kind("text", nullable=True),
    "guidance_scale": Kind("float", nullable=True),
    "guidance.weak": Kind("text"),
    "guidance.guided.weak": Kind("text"),
    "guidance.classifier": Kind("text"),
    "guidance.guided.classifier": Kind("text"),
    "sampler.classifier": Kind("text"),
    "threads": Kind("int", nullable=True),
    "workers": Kind("int", nullable=True),
    "resolution": Kind("int"),
    "data.root": Kind("text"),
    "data.size": Kind("int", nullable=True),
    "data.val_size": Kind("int", nullable=True),
    "data.workers": Kind("int", nullable=True),
    "stage.name": Kind("text"),
    "stage.low_resolution": Kind("int", nullable=True),
    "stage.crop": Kind("int", nullable=True),
    "stage.aug_log_snr": Kind("float", nullable=True),
    "trainer.max_steps": Kind("int"),
    "trainer.max_minutes": Kind("float", nullable=True),
    "trainer.max_cpu_minutes": Kind("float", nullable=True),
    "sampler.step_size": Kind("float", nullable=True),
    "noise.probabilities": Kind("list", nullable=True, items="float"),
}
_SWEEPS = ("choice(", "range(", "glob(", "shuffle(", "sort(")
_OURS = ("hydra/job_logging=disabled", "hydra/hydra_logging=disabled", "hydra.output_subdir=null", "hydra.run.dir=.")

ExtraKeys = Callable[[DictConfig], Mapping[str, Kind]]


@dataclass(frozen=True)
class Checked:
    """A command line that is right: what Hydra is given, and the composed config (of a sweep's first job).

    `own` are Hydra's own overrides among them, and `swept` the groups and keys with all their values.
    """

    overrides: list[str]
    config: DictConfig
    own: list[str]
    swept: Mapping[str, list[str]]

    def jobs(self, command: str) -> "Iterator[tuple[str, DictConfig]]":
        """Every job of the sweep, composed, with the settings that tell it from the others."""
        for values in product(*self.swept.values()):
            settings = dict(zip(self.swept, values, strict=True))
            label = " ".join(f"{key}={value}" for key, value in settings.items() if len(self.swept[key]) > 1)
            yield label, composed(command, [*self.own, *(f"{key}={value}" for key, value in settings.items())])


@dataclass(frozen=True)
class _Line:
    """The keys of a command line with their texts, and how they are to be read."""

    command: str
    values: Mapping[str, str]
    sweep: bool
    extra_keys: ExtraKeys | None


def check(
    command: str, settings: Sequence[str], *, sweep: bool = False, extra_keys: ExtraKeys | None = None
) -> Checked:
    """Check `key=value` settings of a command; raise CascadeError with one line for the first that is wrong.

    `extra_keys(config)` are further keys with their kinds, known only once the rest is (the stages of a cascade): they
    arrive in the config under `per_stage`.
    """
    own, groups, values = _sorted_settings(command, settings)
    line = _Line(command, values, sweep, extra_keys)
    nulls = [group for group, text in groups.items() if text == "null"]
    choices = {group: _group_choices(group, text, sweep) for group, text in groups.items() if group not in nulls}
    _need_mandatory_groups(command, choices)
    own_overrides = [*(ours for ours in _OURS if ours.split("=")[0] not in own), *own.values()]
    jobs = []
    for chosen in _variations(choices):
        picks = [*own_overrides, *(f"{group}={choice}" for group, choice in chosen.items())]
        config = _compose_groups(command, chosen, own_overrides)
        _refuse_nulls(nulls, config)
        where = f" with {' '.join(f'{g}={c}' for g, c in chosen.items())}" if sweep and chosen else ""
        texts = _check_keys(line, config, picks, where)
        full = composed(command, [*picks, *(f"{key}={options[0]}" for key, options in texts.items())])
        _refuse_missing(command, full)
        with hydra_errors():
            for key in (key for key, text in values.items() if "${" in text):
                OmegaConf.select(full, key)
            _refuse_out_of_range(full, texts, where)
        if sweep:
            _refuse_parallel_sweep(command, full)
        jobs.append((texts, full))
    texts, full = jobs[0]
    swept = {**choices, **texts}
    overrides = [*own_overrides, *(f"{key}={','.join(options)}" for key, options in swept.items())]
    return Checked(overrides, full, own_overrides, swept)


def _refuse_out_of_range(config: DictConfig, keys: Iterable[str], where: str) -> None:
    for key in keys:
        node, _, name = key.rpartition(".")
        beside = OmegaConf.select(config, node) if node else None
        if isinstance(beside, DictConfig):
            known = {str(other): beside[other] for other in beside if not OmegaConf.is_missing(beside, other)}
            try:
                refuse_out_of_range(key, known.get(name), known)
            except CascadeError as error:
                raise CascadeError(f"{error} ({where.strip()})" if where else str(error)) from None


def _sorted_settings(command: str, settings: Sequence[str]) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Hydra's own overrides as they are, groups and keys as (name → text); the form key=value is checked."""
    own: dict[str, str] = {}
    groups: dict[str, str] = {}
    values: dict[str, str] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if key.lstrip("+~").startswith(("hydra.", "hydra/")):
            own[key] = setting
            if key == launchers.KEY:
                launchers.check_launcher(text)
            continue
        if key.startswith(("+", "~")):
            what = "adds" if key.startswith("+") else "removes"
            raise CascadeError(f"'{setting}' {what} a key, and '{command}' knows its keys: write key=value")
        if not equals:
            raise CascadeError(f"'{setting}' is no key=value; {meant_setting(command, setting)}")
        if not text.strip():
            raise CascadeError(f"'{key}=' has no value")
        if key in groups or key in values:
            raise CascadeError(f"'{key}' is given twice")
        if key in groups_on_disk() and key in groups_of(command):
            groups[key] = text.strip()
        else:
            values[key] = text
    return own, groups, values


def _need_mandatory_groups(command: str, choices: Mapping[str, object]) -> None:
    for group, choice in default_groups(command).items():
        if choice == "???" and group not in choices:
            names = ", ".join(groups_on_disk().get(group, []))
            raise CascadeError(f"'{command}' needs {group}=...: choose from {names}")


def _group_choices(group: str, text: str, sweep: bool) -> list[str]:
    """The choices of a group that a text names, each one checked."""
    available = groups_on_disk()[group]
    names = [_unquoted(name) for name in _sweep_values(group, text, available)] if sweep else [_unquoted(text)]
    for name in names:
        if name in available:
            continue
        if name == "null":
            raise CascadeError(_needed(group))
        if not sweep and len(parts := split_commas(text)) > 1 and all(part in available for part in parts):
            raise CascadeError(f'{group}={text}: several choices are a sweep and need -m: -m "{group}={text}"')
        raise CascadeError(f"unknown {group} '{name}'; {suggest(name, available)}")
    return names


def _refuse_nulls(groups: Sequence[str], config: DictConfig) -> None:
    """null takes nothing away: it is right where nothing is chosen, by default or by the stage."""
    for group in groups:
        if config.hydra.runtime.choices.get(group) is not None:
            raise CascadeError(_needed(group))


def _needed(group: str) -> str:
    return f"{group}=null: a {group} is needed here; choose from {', '.join(groups_on_disk()[group])}"


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _sweep_values(key: str, text: str, available: Sequence[str] = ()) -> list[str]:
    """The values a sweep runs over: the parts between commas, or what choice(), range(), glob(), ... give."""
    if not (text.startswith(_SWEEPS) and text.endswith(")")):
        return split_commas(text)
    with hydra_errors():
        override = OverridesParser.create().parse_override(f"{key}={text}")
        value = override.value()
        if isinstance(value, Glob):
            found = [name for name in available if any(fnmatch(name, p) for p in value.include)]
            names: Iterable[Any] = [name for name in found if not any(fnmatch(name, p) for p in value.exclude)]
        else:
            names = list(override.sweep_iterator()) if override.is_sweep_override() else [text]
    if not names:
        hint = f"; choose from {', '.join(available)}" if available else ""
        raise CascadeError(f"{key}={text} matches nothing{hint}")
    return [name.text if isinstance(name, QuotedString) else str(name) for name in names]


def _variations(choices: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
    """The first choice of every group, then each other choice with the first ones of the other groups."""
    first = {group: options[0] for group, options in choices.items()}
    yield first
    for group, options in choices.items():
        for option in options[1:]:
            yield {**first, group: option}


def _compose_groups(command: str, chosen: Mapping[str, str], own: Sequence[str]) -> DictConfig:
    top = default_groups(command)
    nested = [group for group in chosen if group not in top]
    config = composed(command, [*own, *(f"{group}={choice}" for group, choice in chosen.items() if group in top)])
    for group in nested:
        if group not in config.hydra.runtime.choices:
            raise CascadeError(f"'{command}' has no group '{group}' here; {suggest(group, top)}")
    return composed(command, [*own, *(f"{g}={c}" for g, c in chosen.items())]) if nested else config


def _check_keys(line: _Line, config: DictConfig, picks: Sequence[str], where: str) -> dict[str, list[str]]:
    """The keys as Hydra is to be told them → their values in Hydra's grammar (several in a sweep)."""
    leaves = flattened(config)
    # What is a group elsewhere, Hydra would not take as a key: here it has a name ("cascade steps stage=base64").
    named = {k: f"{k}.name" for k in line.values if k in groups_on_disk() and f"{k}.name" in leaves}
    line = replace(line, values={named.get(key, key): text for key, text in line.values.items()})
    texts = {
        key: _values(key, text, _kind(line.command, key, leaves[key], config), line.sweep)
        for key, text in line.values.items()
        if key in leaves
    }
    unknown = [key for key in line.values if key not in leaves]
    extra: Mapping[str, Kind] = {}
    if unknown and line.extra_keys is not None and all("." in key for key in unknown):
        known = composed(line.command, [*picks, *(f"{key}={options[0]}" for key, options in texts.items())])
        _refuse_missing(line.command, known)
        extra = line.extra_keys(known)
    for key in unknown:
        if key not in extra:
            raise CascadeError(unknown_key(line.command, key, [*leaves, *extra], where))
        name = ".name" if any(other.startswith(f"{key}.") for other in extra) else ""  # of a choice with parameters
        texts[f"+per_stage.{key}{name}"] = _values(key, line.values[key], extra[key], line.sweep)
    return texts


def _kind(command: str, key: str, raw: Any, config: DictConfig) -> Kind:
    """The kind of a key: from the table, else from its default `raw`."""
    for name in (f"{command} {key}", key):
        if name in KINDS:
            return replace(KINDS[name], nullable=KINDS[name].nullable or raw is None)
    if raw == "???":
        return Kind()
    if isinstance(raw, str) and "${" in raw:
        try:
            resolved = OmegaConf.select(config, key)
        except OmegaConfBaseException:
            resolved = None
        return kind_of_value(None if isinstance(resolved, DictConfig | ListConfig) else resolved)
    return kind_of_value(raw)


def _values(key: str, text: str, kind: Kind, sweep: bool) -> list[str]:
    """The values of a key in Hydra's grammar: one, or those of a sweep."""
    values = []
    for value in _sweep_values(key, text.strip()) if sweep else [text]:
        try:
            values.append(hydra_value(value, kind))
        except ValueError as error:
            listed = len(split_commas(text)) > 1 and not sweep and kind.name in ("int", "float", "bool")
            hint = " (several values are a sweep, which needs -m)" if listed else ""
            raise CascadeError(f"{key}={value} must be {error}{hint}") from None
    return values


def _refuse_missing(command: str, config: DictConfig) -> None:
    missing = [key for key, value in flattened(config).items() if value == "???"]
    if missing:
        raise CascadeError(f"'{command}' needs {' and '.join(f'{key}=...' for key in missing)}")


def _refuse_parallel_sweep(command: str, config: DictConfig) -> None:
    devices = OmegaConf.select(config, "trainer.devices", default=1)
    if devices not in (1, "1", "auto") or os.environ.get("WORLD_SIZE", "1") != "1":
        number = devices if isinstance(devices, int) and devices > 1 else "N"
        raise CascadeError(
            "-m runs one process; for several, run each stage by itself: "
            f"torchrun --no-python --nproc-per-node={number} cascade {command} stage=..."
        )
