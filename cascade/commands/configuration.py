"""What `conf/` holds: groups, choices, defaults lists, and the composed configuration of a command."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from cascade.errors import CascadeError
from cascade.flat import flat

# Beside the library, in a checkout as in site-packages; a user's own folder or package `conf` is never looked at.
CONF = Path(__file__).resolve().parents[2] / "conf"


def composed(command: str, overrides: Sequence[str]) -> DictConfig:
    """Compose `conf/COMMAND.yaml` with overrides in Hydra's grammar; the node `hydra` is in it. Not to be changed."""
    return _composed(command, tuple(overrides))


@cache
def _composed(command: str, overrides: tuple[str, ...]) -> DictConfig:
    if not (CONF / f"{command}.yaml").is_file():
        raise CascadeError(f"the configuration of '{command}' is missing from this installation ({CONF})")
    with hydra_errors(), _aside(), initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(command, overrides=list(overrides), return_hydra_config=True)


@contextmanager
def _aside() -> Iterator[None]:
    """Inside of a job Hydra is in use already, and composes nothing for anybody else."""
    own = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = own


@contextmanager
def hydra_errors() -> Iterator[None]:
    """Turn what Hydra says in many lines into a CascadeError."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise CascadeError(re.split(r"\s+(?:Config search path|See https|full_key):", str(error))[0]) from error


@cache
def groups_on_disk() -> dict[str, list[str]]:
    """The config groups and their choices: folders of `conf/`, and the names of the files in them."""
    found: dict[str, list[str]] = {}
    for file in sorted(CONF.rglob("*.yaml")):
        group = file.parent.relative_to(CONF).as_posix()
        if group != "." and not group.startswith("hydra"):
            found.setdefault(group, []).append(file.stem)
    return found


@cache
def default_groups(name: str) -> dict[str, str | None]:
    """The groups in the defaults list of `conf/NAME.yaml` → their choice (None: none, ???: must be given).

    >>> default_groups("train")["experiment"] is None
    True
    """
    file = CONF / f"{name}.yaml"
    rows = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults", []) if file.is_file() else []
    pairs = [(str(key), value) for row in rows if isinstance(row, dict) for key, value in row.items()]
    own = {key.removeprefix("optional ").lstrip("/"): value for key, value in pairs if "override " not in key}
    # A row without a group is a whole config that this one begins with ("train" in explain.yaml).
    whole = [Path(name).parent / row for row in rows if isinstance(row, str) and row != "_self_"]
    return {**{key: value for config in whole for key, value in default_groups(config.as_posix()).items()}, **own}


@cache
def groups_of(command: str) -> frozenset[str]:
    """The groups of a command: those of its own defaults list, and those that files of these bring along."""
    own = default_groups(command)
    brought = [default_groups(f"{group}/{choice}") for group in own for choice in groups_on_disk().get(group, [])]
    return frozenset(own).union(*brought)


def mandatory_picks(command: str) -> list[str]:
    """The first choice of every group that must be given: to compose a command nobody has configured yet."""
    groups = groups_on_disk()
    return [f"{g}={groups[g][0]}" for g, choice in default_groups(command).items() if choice == "???" and groups.get(g)]


def flattened(config: DictConfig) -> dict[str, Any]:
    """Every leaf of a composed config as dotted key → value, unresolved; Hydra's own node is left out.

    >>> flattened(OmegaConf.create({"a": {"b": "${c}"}, "c": "???", "hydra": {"x": 1}}))
    {'a.b': '${c}', 'c': '???'}
    """
    plain = OmegaConf.to_container(config, resolve=False)
    return dict(flat({key: value for key, value in plain.items() if key != "hydra"}))


def plain_config(config: DictConfig, *, throw_on_missing: bool = True) -> dict[str, Any]:
    """A composed config as plain values, resolved; Hydra's own node is left out."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        plain = OmegaConf.to_container(own, resolve=True, throw_on_missing=throw_on_missing)
    except InterpolationKeyError as error:
        wanted = str(error.msg).split("'")[1]
        raise CascadeError(f"{error.full_key} is that of '{wanted}', which there is not under these choices") from error
    return {str(key): value for key, value in plain.items()}


def plain_of_stage(config: DictConfig) -> dict[str, Any]:
    """As `plain_config`, of a command whose `stage` is a name and no group: there it is a node that holds one."""
    plain = plain_config(config)
    return {**plain, "stage": plain["stage"]["name"]}


def defaults_of(command: str, choices: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """What a command's config says under these choices of the groups that are `known`, where nobody overrides a key.

    `stage` counts as known, for it chooses the others' defaults; what changes many groups at once (experiment, debug)
    does not.

    >>> defaults_of("train", {"stage": "sr256", "ema": "power", "debug": "fast"}, known=["ema"])["trainer"]["max_steps"]
    100000
    """
    groups = default_groups(command)
    picks = [f"{g}={c}" for g, c in choices.items() if c and groups.get(g) and (g in known or g == "stage")]
    return plain_config(composed(command, picks), throw_on_missing=False)
