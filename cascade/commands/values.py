"""The values of a command line: what a text means for a key of some kind, and how Hydra must be told.

Hydra's grammar reads `~/x`, accents, spaces, commas and parentheses as syntax. Here a text that is meant as a text is
quoted before Hydra sees it, and a text that is no value of the key's kind is refused.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_INT = re.compile(r"[+-]?(0|[1-9](_?\d)*)")
_FLOAT = re.compile(r"[+-]?((\d(_?\d)*\.?|(\d(_?\d)*)?\.\d(_?\d)*)([eE][+-]?\d(_?\d)*)?|[iI][nN][fF])")
_INTERPOLATION = re.compile(r"\$\{[^}]+\}")
_QUOTES = "'\""

_MEANING = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "text": "a text",
    "list": "a list like [a,b]",
    "texts": "a text, or a list like [a,b]",
    "any": "a value",
}


@dataclass(frozen=True)
class Kind:
    """What a key holds: `name` is one of bool, int, float, text, list, texts (one text or a list of them) and any."""

    name: str = "any"
    nullable: bool = False
    items: str = "any"

    @property
    def meaning(self) -> str:
        """The kind in words, for the line that says a value is wrong."""
        what = _MEANING[self.name]
        if self.name == "list" and self.items in ("int", "float", "bool"):
            what = {"int": "a list of whole numbers like [1,2]", "float": "a list of numbers like [0.5,1]"}.get(
                self.items, "a list like [true,false]"
            )
        return f"{what} or null" if self.nullable and self.name != "any" else what


def kind_of_value(value: Any) -> Kind:
    """Infer the kind of a key from its default value; nothing can be learnt from null.

    >>> kind_of_value(0.5).name, kind_of_value([1, 2]).items, kind_of_value(None).nullable
    ('float', 'int', True)
    """
    if value is None:
        return Kind("any", nullable=True)
    for type_, name in ((bool, "bool"), (int, "int"), (float, "float"), (str, "text")):
        if isinstance(value, type_):
            return Kind(name)
    if isinstance(value, list):
        kinds = {kind_of_value(item).name for item in value}
        if kinds == {"int", "float"}:
            kinds = {"float"}
        return Kind("list", items=kinds.pop() if len(kinds) == 1 else "any")
    return Kind()


def hydra_value(text: str, kind: Kind) -> str:
    """Return `text` as a value in Hydra's grammar, or raise ValueError if it is no value of `kind`.

    >>> hydra_value("~x/a (1), b", Kind("text"))
    "'~x/a (1), b'"
    >>> hydra_value("[a b, 'c,d']", Kind("texts"))
    "['a b','c,d']"
    >>> hydra_value("2", Kind("float"))
    '2.0'
    >>> hydra_value("abc", Kind("int"))
    Traceback (most recent call last):
    ValueError: a whole number
    """
    text = text.strip()
    converted = _converted(text, kind)
    if converted is None:
        raise ValueError(kind.meaning)
    return converted


def _converted(text: str, kind: Kind) -> str | None:
    if text.lower() == "null" and (kind.nullable or kind.name == "any"):
        return "null" if kind.nullable else None
    if kind.name != "text" and _INTERPOLATION.fullmatch(text):
        return text
    match kind.name:
        case "bool":
            return text.lower() if text.lower() in ("true", "false") else None
        case "int":
            return text if _INT.fullmatch(text) else None
        case "float":
            if _INT.fullmatch(text):
                return text + ".0"
            return text if _FLOAT.fullmatch(text) else None
        case "text":
            return None if text.lower() == "null" else _quoted_text(text)
        case "texts":
            if text.startswith("[") + text.endswith("]") == 1 and text.count("[") != text.count("]"):
                raise ValueError("a list, from [ to ], or one name alone")
            return _list(text, "text") if _is_list(text) else _converted(text, Kind("text"))
        case "list":
            return _list(text, kind.items) if _is_list(text) else None
        case _:
            return _any(text)


def _any(text: str) -> str:
    if _is_list(text):
        return _list(text, "any") or quoted(text)
    if text.lower() in ("true", "false", "null") or _INT.fullmatch(text) or _FLOAT.fullmatch(text):
        return text
    return text if text.startswith("{") and text.endswith("}") else _quoted_text(text)


def _is_list(text: str) -> bool:
    return text.startswith("[") and text.endswith("]")


def _list(text: str, items: str) -> str | None:
    parts = split_commas(text[1:-1])
    if parts == [""]:
        return "[]"
    converted = [_converted(part, Kind(items, nullable=items == "any")) if part else None for part in parts]
    return None if None in converted else f"[{','.join(str(part) for part in converted)}]"


def split_commas(text: str) -> list[str]:
    """Split at the commas outside quotes, brackets and braces; parts are stripped, quotes kept.

    >>> split_commas("a (1), 'b,c', [d,e]")
    ['a (1)', "'b,c'", '[d,e]']
    """
    return ["".join(part).strip() for part in _parts(text)]


def _parts(text: str) -> Iterator[list[str]]:
    part: list[str] = []
    depth, quote = 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in _QUOTES and not "".join(part).strip():
            quote = letter  # a quote inside a word ("it's") is a letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        if letter == "," and depth == 0 and not quote:
            yield part
            part = []
        else:
            part.append(letter)
    yield part


def _quoted_text(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES:
        text = text[1:-1].replace(f"\\{text[0]}", text[0])
    if text == "~" or text.startswith("~/"):
        text = os.path.expanduser(text)  # noqa: PTH111 - the text may be no path at all
    return quoted(text)


def quoted(text: str) -> str:
    r"""Return `text` as one quoted value of Hydra's grammar.

    >>> print(quoted("it's"), quoted("a\\"))
    'it\'s' 'a\\'
    """
    # Only backslashes before a quote or at the end count; Hydra takes the others as they are.
    return "'" + re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text) + "'"
