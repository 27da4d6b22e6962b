"""STAGE.key=value on the command line: the settings of one stage of a cascade, whose stages only its folder knows."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError

from cascade.artifact import load_chain
from cascade.commands.configuration import CONF, groups_on_disk
from cascade.commands.overrides import KINDS
from cascade.commands.values import Kind, kind_of_value
from cascade.errors import CascadeError, suggest
from cascade.flat import flat
from cascade.ranges import refuse_out_of_range
from cascade.stage_settings import CHOICES, StageSettings, merged, settings_of

PER_STAGE = {
    "guidance_scale": (Kind("float"), "guidance of one stage, by its name: sr256.guidance_scale=1.5"),
    "steps": (Kind("int"), "sampling steps of one stage"),
    "aug_log_snr": (
        Kind("float"),
        "noise on one stage's low-res picture, a log-SNR: of s levels of 255, 2 ln(127.5/s) (inf: none)",
    ),
    "truncated": (Kind("bool"), "true: the stage before stops at aug_log_snr; false: it finishes, and noise is added"),
    "keep_known": (Kind("bool"), "true: the pixels that a mask shows one stage stay exactly what they are"),
    "sampler": (Kind("text"), "sampler of one stage, and its parameters: sr256.sampler=ddim sr256.sampler.eta=1"),
    "grid": (Kind("text"), "grid of one stage, and its parameters: sr256.grid=karras sr256.grid.sigma_max=20"),
    "guidance": (
        Kind("text"),
        "guidance of one stage, and its parameters: sr256.guidance=interval sr256.guidance.lo=-2",
    ),
    "threshold": (Kind("text"), "threshold of one stage, and its parameters: base64.threshold=dynamic"),
    "network_batch": (Kind("int"), "pictures in a call of one stage's network; another number changes the last bits"),
    "tile": (
        Kind("int"),
        "side of the parts in which one stage is shown a picture (0: whole ones), which bounds memory",
    ),
}
"""The settings of a stage → kind and explanation; the fields of `cascade.stage_settings.StageSettings`."""


def stage_keys(names: Iterable[str]) -> dict[str, Kind]:
    """The keys STAGE.setting of these stages, and those of the parameters of what can be chosen, with their kinds.

    >>> keys = stage_keys(["sr256"])
    >>> keys["sr256.steps"].name, keys["sr256.sampler.eta"].name, keys["sr256.guidance.guided.scale"].name
    ('int', 'float', 'float')
    """
    kinds = {key: kind for key, (kind, _) in PER_STAGE.items()} | _parameters()
    return {f"{name}.{key}": kind for name in names for key, kind in kinds.items()}


def extra_keys(config: DictConfig) -> dict[str, Kind]:
    """The keys STAGE.setting of every stage of `config.cascade`, if there is one; what a command has for its own."""
    return {} if config.cascade is None else stage_keys(stage.name for stage in load_chain(config.cascade))


def place_of(stage: str, names: Sequence[str]) -> int:
    """The place of a stage among those of a cascade, or CascadeError with the nearest name.

    >>> place_of("sr256", ["base64", "sr256"])
    1
    """
    if stage not in names:
        raise CascadeError(f"the cascade has no stage '{stage}'; {suggest(str(stage), names)}")
    return names.index(stage)


def read_per_stage(per_stage: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, StageSettings]:
    """Read what the command line says of each stage; a choice has the parameters of its file in `conf/`.

    Raises CascadeError for a stage, a setting or a choice that does not exist, and where a parameter is still needed.
    """
    read = {
        stage: {key: _chosen(f"{stage}.{key}", value) if key in CHOICES else value for key, value in settings.items()}
        for stage, settings in per_stage.items()
    }
    for stage, settings in read.items():
        for group in (group for group in CHOICES if group in settings):
            _refuse_out_of_range(stage, group, settings[group])
    return settings_of(read, names)


def _refuse_out_of_range(stage: str, group: str, config: Mapping[str, Any]) -> None:
    for leaf, value in flat(config):
        beside = config
        for node in leaf.split(".")[:-1]:
            beside = beside[node]
        try:
            refuse_out_of_range(f"{group}.{leaf}", value, beside)
        except CascadeError as error:
            raise CascadeError(f"stage '{stage}': {error}") from None


def _chosen(key: str, given: str | Mapping[str, Any]) -> dict[str, Any]:
    changes = {"name": given} if isinstance(given, str) else dict(given)
    if "name" not in changes:
        return changes
    (stage, _, group), name = key.rpartition("."), str(changes.pop("name"))
    if name not in groups_on_disk()[group]:
        raise CascadeError(f"stage '{stage}': unknown {group} '{name}'; {suggest(name, groups_on_disk()[group])}")
    config = merged(_defaults(group, name), changes)
    if missing := [leaf for leaf, value in flat(config) if value == "???"]:
        raise CascadeError(f"{key}={name} needs {key}.{missing[0]}=...")
    return config


@cache
def _parameters() -> dict[str, Kind]:
    """The parameters of every choice, GROUP.parameter → kind."""
    kinds: dict[str, Kind] = {}
    for group in CHOICES:
        for name in groups_on_disk()[group]:
            for leaf, value in flat(_defaults(group, name)):
                key = f"{group}.{leaf}"
                kind = KINDS.get(key, kind_of_value(value))
                if leaf.rpartition(".")[2] != "name":
                    kinds[key] = kind if kinds.get(key, kind) == kind else _either(kinds[key], kind)
    return kinds


def _either(first: Kind, second: Kind) -> Kind:
    return Kind("float") if {first.name, second.name} == {"int", "float"} else Kind()


def _defaults(group: str, name: str) -> dict[str, Any]:
    """The values of a choice's file; what refers to the config of a training, which is not there, is still needed."""
    loaded = OmegaConf.load(CONF / group / f"{name}.yaml")
    plain: dict[str, Any] = OmegaConf.to_container(loaded, resolve=False)
    for leaf, value in flat(plain):
        if isinstance(value, str) and "${" in value:
            try:
                OmegaConf.update(loaded, leaf, OmegaConf.select(loaded, leaf))
            except InterpolationKeyError:
                OmegaConf.update(loaded, leaf, "???")
    return OmegaConf.to_container(loaded)
