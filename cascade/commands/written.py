"""What a command was told, as a user writes it, so that its report can say how it is made again."""

import shlex
from collections.abc import Mapping, Sequence

_STAGE = "+per_stage."


def written(overrides: Sequence[str]) -> dict[str, str]:
    """Hydra's overrides as keys and texts of the command line.

    >>> written(["out='my folder'", "+per_stage.sr256.sampler.name='ddim'", "steps=[2,4]"])
    {'out': 'my folder', 'sr256.sampler': 'ddim', 'steps': '[2,4]'}
    """
    return {_key(key): _text(value) for key, _, value in (override.partition("=") for override in overrides)}


def shell_line(command: str, settings: Mapping[str, str]) -> str:
    """The whole line, as a shell takes it.

    >>> shell_line("steps", {"out": "my folder"})
    "cascade steps 'out=my folder'"
    """
    return shlex.join(["cascade", command, *(f"{key}={value}" for key, value in settings.items())])


def _key(key: str) -> str:
    own = key.removeprefix(_STAGE)
    return own if own == key else own.removesuffix(".name")  # of a choice with parameters


def _text(value: str) -> str:
    """A text without the quotes that Hydra wants."""
    return value[1:-1].replace("\\'", "'") if len(value) > 1 and value[0] == value[-1] == "'" else value
