"""The one exception a user is meant to see, and the hint that goes with it."""

from collections.abc import Iterable
from difflib import get_close_matches


class CascadeError(Exception):
    """Something from outside is wrong: one clear line says what, and what would be right.

    Commands print the line on stderr and exit with 2, without a traceback.

    >>> raise CascadeError("steps=0 must be at least 1")
    Traceback (most recent call last):
    cascade.errors.CascadeError: steps=0 must be at least 1
    """


def suggest(word: str, choices: Iterable[str]) -> str:
    """Return the hint for a misspelt `word`: its nearest choice, or all of them when none is near.

    >>> suggest("efficent", ["efficient", "adm"])
    "did you mean 'efficient'?"
    >>> suggest("zzz", ["b", "a"])
    'choose from a, b'
    """
    choices = sorted(set(choices))
    near = get_close_matches(word, choices, n=1, cutoff=0.6) or get_close_matches(
        word.lower(), [c for c in choices if c == c.lower()], n=1, cutoff=0.6
    )
    if near:
        return f"did you mean '{near[0]}'?"
    return "choose from " + ", ".join(choices) if choices else "there is nothing to choose from"
