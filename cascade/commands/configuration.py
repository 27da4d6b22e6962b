"""What `conf/` holds: groups, choices, defaults lists, and the composed configuration of a command."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cascade.errors import CascadeError

# Beside the library, in a checkout as in site-packages; a user's own folder or package `conf` is never looked at.
CONF = Path(__file__).resolve().parents[2] / "conf"


def composed(command: str, overrides: Sequence[str]) -> DictConfig:
    """Compose `conf/COMMAND.yaml` with overrides in Hydra's grammar; the node `hydra` is in it. Not to be changed."""
    return _composed(command, tuple(overrides))


@cache
def _composed(command: str, overrides: tuple[str, ...]) -> DictConfig:
    if not (CONF / f"{command}.yaml").is_file():
        raise CascadeError(f"the configuration of '{command}' is missing from this installation ({CONF})")
    with hydra_errors(), initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(command, overrides=list(overrides), return_hydra_config=True)


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
    return dict(_flat({key: value for key, value in plain.items() if key != "hydra"}))


def _flat(mapping: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
