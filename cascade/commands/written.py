"""What a command was told, as a user writes it, so that its report can say how it is made again."""

import re
import shlex
from collections.abc import Mapping, Sequence

_STAGE = "+per_stage."
_PLAIN = re.compile(r"'([\w./+:-]+)'")
"""An item of a list that says the same without its quotes."""


def written(overrides: Sequence[str]) -> dict[str, str]:
    """Hydra's overrides as keys and texts of the command line.

    >>> written(["out='my folder'", "+per_stage.sr256.sampler.name='ddim'", "steps=[2,4]"])
    {'out': 'my folder', 'sr256.sampler': 'ddim', 'steps': '[2,4]'}
    """
    return {_key(key): _text(value) for key, _, value in (override.partition("=") for override in overrides)}


def shell_line(command: str, settings: Mapping[str, str]) -> str:
    """The whole line, as a shell takes it.

    >>> print(shell_line("steps", {"out": "my folder", "steps": "[2,4]"}))
    cascade steps "out=my folder" "steps=[2,4]"
    """
    return " ".join(["cascade", command, *(quoted_word(f"{key}={value}") for key, value in settings.items())])


def quoted_word(word: str) -> str:
    """One word as a shell takes it, in quotes that can be read.

    >>> print(quoted_word("classes=['a b','c']"), quoted_word("steps=4"), quoted_word("out=$x"))
    "classes=['a b',c]" steps=4 'out=$x'
    """
    word = _PLAIN.sub(r"\1", word) if "=[" in word else word
    quoted = shlex.quote(word)
    return f'"{word}"' if quoted != word and not set(word) & set('"\\$`!') else quoted


def _key(key: str) -> str:
    own = key.removeprefix(_STAGE)
    return own if own == key else own.removesuffix(".name")  # of a choice with parameters


def _text(value: str) -> str:
    """A text without the quotes that Hydra wants."""
    return value[1:-1].replace("\\'", "'") if len(value) > 1 and value[0] == value[-1] == "'" else value
