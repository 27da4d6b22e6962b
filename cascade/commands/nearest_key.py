"""What a misspelt word of a command line may have meant, in one line."""

from collections.abc import Sequence
from difflib import SequenceMatcher, get_close_matches

import yaml

from cascade.commands.configuration import CONF, composed, default_groups, flattened, groups_on_disk, mandatory_picks
from cascade.errors import suggest

_FEW = 12  # keys that are named one by one


def meant_setting(command: str, word: str) -> str:
    """The hint for a word that is no key=value."""
    for group in default_groups(command):
        if word in groups_on_disk().get(group, []):
            return f"did you mean '{group}={word}'?"
    keys = [*flattened(composed(command, mandatory_picks(command))), *default_groups(command)]
    near = get_close_matches(word, keys, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}=...'?" if near else "a setting looks like seed=3"


def unknown_key(command: str, key: str, keys: Sequence[str], where: str) -> str:
    """The line for a key that is none of `keys`; `where` says with which choices it is none."""
    groups = list(default_groups(command))
    inner = [name for name in keys if name.startswith(f"{key}.")]
    if inner:
        return f"'{key}' holds several keys and has no value of its own: set {' or '.join(inner[:3])}"
    if key in groups_on_disk():
        hint = suggest(key, groups) if groups else f"'cascade {command} --help' lists the keys"
        return f"'{command}' has no group '{key}'; {hint}"
    head = f"unknown key '{key}' of '{command}'{where}"
    group, _, rest = key.partition(".")
    owners = (
        {f"{group}.{name}": choices for name, choices in _owners(group).items()} if group in groups and rest else {}
    )
    near = _nearest(key, [*keys, *owners] if rest else [*keys, *groups])
    if near is None:
        beside = [name for name in keys if name.startswith(f"{group}.") and name.count(".") == 1] if rest else []
        if 0 < len(beside) <= _FEW:
            return f"{head}; {group} holds {', '.join(beside)}"
        return f"{head}; 'cascade {command} --help' lists the keys"
    of = "" if near in keys else " and ".join(f"{group}={choice}" for choice in owners.get(near, []))
    if near == key:
        return f"{head}; it belongs to {of}"
    return f"{head}; did you mean '{near}'{f', of {of}' if of else ''}?"


def _nearest(key: str, candidates: Sequence[str]) -> str | None:
    """The candidate most like `key`: its last part counts most ("lr" is near "trainer.optimizer.lr"), and its depth."""
    parent, _, leaf = key.rpartition(".")

    def likeness(candidate: str) -> float:
        other_parent, _, other_leaf = candidate.rpartition(".")
        same_leaf = SequenceMatcher(None, leaf, other_leaf).ratio()
        if same_leaf <= 0.6:
            return 0.0
        as_deep = 0.25 * (parent.count(".") == other_parent.count(".") and bool(parent) == bool(other_parent))
        return same_leaf * (1 + SequenceMatcher(None, parent, other_parent).ratio()) / 2 + as_deep

    best = max(candidates, key=likeness, default=None)
    return best if best is not None and likeness(best) > 0.4 else None


def _owners(group: str) -> dict[str, list[str]]:
    """The top-level keys that the choices of a group bring → the choices that bring them."""
    owners: dict[str, list[str]] = {}
    for choice in groups_on_disk().get(group, []):
        for key in yaml.safe_load((CONF / group / f"{choice}.yaml").read_text(encoding="utf-8")) or {}:
            owners.setdefault(key, []).append(choice)
    return owners
