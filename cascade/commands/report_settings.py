"""What a manifest says of its stages, as settings: the command that makes a picture again, and the same in Python."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cascade.artifact import find_cascade, load_chain
from cascade.commands.low_res_folder import list_low_res
from cascade.commands.per_stage import stage_keys
from cascade.commands.written import shell_line
from cascade.errors import CascadeError
from cascade.files import expanded, sha256_of
from cascade.flat import flat
from cascade.guidance_settings import GUIDES
from cascade.plain_json import without_infinity
from cascade.registry import complete
from cascade.requests import class_table
from cascade.stage_files import WEIGHTS
from cascade.stage_settings import CHOICES, StageSettings, changed, stored_samplings

if TYPE_CHECKING:
    from cascade.artifact import StageSampling
    from cascade.commands.low_res_folder import LowRes
    from cascade.commands.report_samples import Sample, Samples

_NUMBERS = {"aug_log_snr": None, "truncated": False, "network_batch": None, "tile": None}
_SYNTAX = re.compile(r"^[\[\s'\"~]|[\]\s'\"]$|\$\{|^null$", re.IGNORECASE)
"""Names that the command line would read as something else."""

Changes = Mapping[str, Mapping[str, Any]]
"""Stage → settings beside what its cascade says, choices as {name: ..., parameter: ...}."""


@dataclass(frozen=True)
class Known:
    """What there is to know of where samples are from: their cascade (None: not given), the pictures they began with.

    `stages` is how many of the cascade's stages run (None: all), `table` its classes, `changes` what was set beside it.
    """

    samples: "Samples"
    changes: Changes
    cascade: str | None = None
    stages: int | None = None
    table: Sequence[str] = ()
    low_res: "Sequence[LowRes]" = ()
    low_res_folder: str | None = None


def known(samples: "Samples", cascade: str | None, low_res_folder: str | None) -> Known:
    """Read what was given, without torch. Raises CascadeError for a cascade that has not made the samples."""
    low_res = list_low_res(expanded(low_res_folder)) if low_res_folder is not None else []
    if cascade is None:
        from_noise = samples.pictures[0].line.get("low_res") is None
        stages = len(samples.stages) if from_noise else None
        return Known(samples, changes(samples.stages, {}), None, stages, (), low_res, low_res_folder)
    folder, configs, samplings = find_cascade(cascade), load_chain(cascade), stored_samplings(cascade)
    names = [config.name for config in configs]
    first = names.index(samples.names[0]) if samples.names[0] in names else 0
    chosen = slice(first, first + len(samples.names))
    if names[chosen] != samples.names:
        raise CascadeError(
            f"cascade={cascade} did not make these samples: it has the stages {', '.join(names)}, and they were made "
            f"by {', '.join(samples.names)}"
        )
    for row in samples.stages:
        if sha256_of(folder / row["stage"] / WEIGHTS) != row["sha256"]:
            raise CascadeError(f"cascade={cascade} did not make these samples: the weights of '{row['stage']}' differ")
    stored = {
        config.name: changed(sampling, StageSettings(), config)
        for config, sampling in zip(configs[chosen], samplings[chosen], strict=True)
    }
    stages = None if chosen.stop == len(names) else chosen.stop
    table = class_table(configs, samplings)
    return Known(samples, changes(samples.stages, stored), cascade, stages, table, low_res, low_res_folder)


def changes(rows: Sequence[Mapping[str, Any]], stored: "Mapping[str, StageSampling]") -> Changes:
    """What must be set of each stage, where the cascade says `stored`; everything, of a stage that is not in it.

    Of a choice that is the cascade's own, those parameters alone that are other ones.

    A guide, which a manifest names by the hash of its weights, is that of the cascade where it has one.
    """
    return {row["stage"]: _changes(row, stored.get(row["stage"])) for row in rows}


def _changes(row: Mapping[str, Any], stored: "StageSampling | None") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for group in CHOICES:
        own = {} if stored is None else without_infinity(complete(group, getattr(stored, group)))
        said = _guided(row[group], own)
        if said != own:
            found[group] = _differing(said, own) if said["name"] == own.get("name") else said
    for key, default in _NUMBERS.items():
        said = row.get(key, default)
        if said is not None and (stored is None or said != without_infinity(getattr(stored, key))):
            found[key] = said
    if stored is not None and stored.tile is not None and "tile" not in row:
        found["tile"] = 0
    return found if stored is not None else {key: value for key, value in found.items() if value is not False}


def _guided(said: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What is said with the cascade's own folders of guides, or else with words that stand for them."""
    guides = {key: own.get(key, key.upper()) for key in GUIDES if key in said}
    inner = {"guided": _guided(said["guided"], own.get("guided", {}))} if "guided" in said else {}
    return {**said, **guides, **inner}


def _differing(said: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that are other ones.

    >>> _differing({"name": "ddim", "inner": {"a": 1, "b": 2}}, {"name": "ddim", "inner": {"a": 1}})
    {'inner': {'b': 2}}
    """
    return {
        key: _differing(value, own[key]) if isinstance(value, Mapping) and isinstance(own.get(key), Mapping) else value
        for key, value in said.items()
        if key not in own or value != own[key]
    }


def stage_settings(found: Changes) -> dict[str, StageSettings]:
    """The changes as the pipeline takes them."""
    return {stage: StageSettings.from_mapping(_with_infinity(own)) for stage, own in found.items() if own}


def _with_infinity(value: Any) -> Any:
    """What `without_infinity` was given, of settings, which have no texts "inf" and "-inf" of their own.

    >>> _with_infinity({"s_max": "inf", "levels": ["-inf", 2.0], "name": "heun"})
    {'s_max': inf, 'levels': [-inf, 2.0], 'name': 'heun'}
    """
    if isinstance(value, Mapping):
        return {key: _with_infinity(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_infinity(item) for item in value]
    return float(value) if value in ("inf", "-inf") else value


def command_of(sample: "Sample", known: Known) -> str:
    """The `cascade sample` that makes the picture again, as a shell takes it.

    Where the stages ran in arithmetics that no setting names, the command leads back to the folder itself, whose
    manifest has them.
    """
    words = {"cascade": "CASCADE" if known.cascade is None else known.cascade}
    if sample.class_name is not None:
        words["classes"] = _class_word(sample.class_name, known.table)
    words["seeds"] = str(sample.seed)
    if sample.line.get("low_res") is not None:
        words["low_res"] = "LOW_RES" if known.low_res_folder is None else known.low_res_folder
    if known.stages is not None:
        words["stages"] = str(known.stages)
    for stage, own in known.changes.items():
        words |= _words(stage, own)
    machine = sample.stages[0]
    precisions = {stage["precision"] for stage in sample.stages}
    named = len(precisions) == 1 and precisions <= {"fp32", "bf16"}
    words |= {"precision": next(iter(precisions))} if named else {}
    words |= {} if machine["device"] == "cpu" else {"device": str(machine["device"])}
    words["threads"] = str(machine["threads"])
    words |= {"save_stages": "true"} if sample.line.get("stage_files") else {}
    words["out"] = "again" if named else str(known.samples.folder)
    return shell_line("sample", words)


def _words(stage: str, own: Mapping[str, Any]) -> dict[str, str]:
    """STAGE.key → text, for the keys that the command line has."""
    words: dict[str, str] = {}
    known = stage_keys([stage])
    for key, value in own.items():
        if isinstance(value, Mapping):
            words |= {f"{stage}.{key}": str(value["name"])} if "name" in value else {}
            leaves = dict(flat({name: leaf for name, leaf in value.items() if name != "name"}, f"{stage}.{key}."))
            words |= {name: _text(leaf) for name, leaf in leaves.items() if name in known and leaf is not None}
        else:
            words[f"{stage}.{key}"] = _text(value)
    return words


def _text(value: Any) -> str:
    """A value as it is written on a command line.

    >>> _text(True), _text(0.5), _text([1, 2])
    ('true', '0.5', '[1,2]')
    """
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _class_word(name: str, table: Sequence[str]) -> str:
    """A class as the command line reads it: its name; where that would be syntax, its number or its name in quotes.

    >>> _class_word("t-shirt/top", []), _class_word("[x]", ["hat", "[x]"]), _class_word("null", [])
    ('t-shirt/top', '1', "['null']")
    """
    if name.strip() and not _SYNTAX.search(name):
        return name
    if name in table and str(list(table).index(name)) not in table:
        return str(list(table).index(name))
    inner = name.replace("'", "\\'")
    return f"['{inner}']"
