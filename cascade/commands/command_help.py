"""What `--help` prints: purpose, keys with defaults and comments, groups with choices, all read from `conf/`."""

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cascade.commands.configuration import CONF, composed, default_groups, flattened, groups_on_disk, mandatory_picks
from cascade.commands.per_stage import PER_STAGE

_LINE = re.compile(r"(?P<indent> *)(?P<key>[\w./-]+):(?P<rest>.*)")
_WIDTH = 36
_HIDDEN = ("defaults", "hydra", "per_stage")


class Key(NamedTuple):
    """A key of a yaml file: dotted name, the text of its value, and its comment (on the line, or above it)."""

    name: str
    value: str
    comment: str


def explain_all(summaries: Mapping[str, str]) -> str:
    """The text of `cascade --help`."""
    width = max(map(len, summaries))
    return "\n".join(
        [
            "usage: cascade COMMAND [key=value ...]",
            "",
            "A pixel-space cascade of diffusion models: train its stages apart, chain them to 1024 px, evaluate.",
            "",
            "commands:",
            *(f"  {name:{width}}  {summary}" for name, summary in summaries.items()),
            "",
            "cascade COMMAND --help lists the keys of a command and their defaults. Put quotes around a setting with",
            'brackets, spaces or parentheses: "classes=[dress,hat]" "data.root=~/my pictures (2)".',
        ]
    )


def explain_command(command: str, summary: str, *, sweeps: bool, per_stage: bool) -> str:
    """The text of `cascade COMMAND --help`."""
    file = CONF / f"{command}.yaml"
    head = header(file)
    examples = [line for line in head if line.startswith("cascade ")]
    purpose = [line for line in head if not line.startswith("cascade ")]
    if head and head[0].startswith(f"cascade {command}: "):
        purpose, examples = [head[0].removeprefix(f"cascade {command}: "), *purpose], examples[1:]
    lines = [f"usage: cascade {command} {'[-m] ' if sweeps else ''}[key=value ...]", "", *(purpose or [summary])]
    if examples:
        lines += ["", "examples:", *(f"  {example}" for example in examples)]
    config = composed(command, mandatory_picks(command))
    now = flattened(config)
    lines += ["", "keys (??? must be given):"]
    lines += [_row(_as_given(key), now) for key in keys(file) if key.name.split(".")[0] not in _HIDDEN]
    if per_stage:
        lines += [_row(Key(f"STAGE.{key}", "", comment), now) for key, (_, comment) in PER_STAGE.items()]
    groups = default_groups(command)
    if groups:
        lines += [
            "",
            f"groups (group=choice; * is the default of 'cascade {command}'), and the keys of the default choice:",
        ]
    for group in groups:
        lines += _group(group, config.hydra.runtime.choices.get(group), now)
    if sweeps:
        lines += [
            "",
            f'-m, --multirun: run every combination of values, in turn: cascade {command} -m "stage=a,b" seed=0,1',
        ]
    return "\n".join(lines)


def header(file: Path) -> list[str]:
    """The comment lines at the top of a yaml file, without the sign and without `@package`."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.lstrip("#").strip())
    return lines


def keys(file: Path) -> Iterator[Key]:
    """The keys of a yaml file in block style, in order; a comment above a key is its own if there is none beside it."""
    path: list[tuple[int, str]] = []
    above = ""
    body = file.read_text(encoding="utf-8").splitlines()
    while body and (body[0].startswith("#") or not body[0].strip()):
        del body[0]
    for line in body:
        if line.strip().startswith("#"):
            above = f"{above} {line.strip().lstrip('# ')}".strip()
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            above = ""
            continue
        value, _, comment = match["rest"].partition(" #")
        depth = len(match["indent"])
        path = [(d, k) for d, k in path if d < depth] + [(depth, match["key"])]
        if value.strip() or comment:
            yield Key(".".join(k for _, k in path), value.strip(), comment.strip() or above)
        above = ""


def _group(group: str, default: Any, now: Mapping[str, Any]) -> Iterator[str]:
    yield f"  {group}="
    for choice in groups_on_disk().get(group, []):
        head = header(CONF / group / f"{choice}.yaml")
        mark = "*" if choice == default else " "
        yield textwrap.fill(f"  {mark} {choice:22} {_sentence(' '.join(head))}", 118, subsequent_indent=" " * 27)
    if default:
        file = CONF / group / f"{default}.yaml"
        prefix = "" if "@package _global_" in file.read_text(encoding="utf-8") else f"{group.replace('/', '.')}."
        for key in keys(file):
            name = f"{prefix}{key.name}"
            if name in now and not key.name.startswith("defaults"):
                yield _row(Key(name, key.value, key.comment), now, indent=6)


def _sentence(line: str) -> str:
    """The comment of a choice without the command it begins with ("cascade train network=x: the text")."""
    match = re.match(r"cascade [^:—]*(?:[:—] )(.+)", line)
    return match[1].strip() if match else line


def _as_given(key: Key) -> Key:
    """What would be a group elsewhere is a name here, and given like one: stage=sr256 of "cascade tune"."""
    group = key.name.removesuffix(".name")
    return key._replace(name=group) if group in groups_on_disk() else key


def _row(key: Key, now: Mapping[str, Any], indent: int = 2) -> str:
    value = now.get(key.name, key.value)
    shown = key.value if value is None or isinstance(value, str | list) else value
    left = f"{' ' * indent}{key.name}={'true' if shown is True else 'false' if shown is False else shown}"
    return f"{left:{_WIDTH + indent}} {key.comment}".rstrip()
