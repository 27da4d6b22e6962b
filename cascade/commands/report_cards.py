"""The figures of `cascade evaluate` and `cascade card` as a report shows them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade.commands.card import REPORT as CARD
from cascade.commands.evaluation_report import MADE_BY, REPORT
from cascade.commands.figure_table import card_rows, counted, number
from cascade.commands.reports import read_report
from cascade.errors import CascadeError
from cascade.files import expanded

_MAKERS = (MADE_BY, "cascade card")
_REPEATS = {"protocol", "generated", "reference", "versions"}
"""Of a comparison with real pictures alone: what repeats it."""
HEADS = ("figure", "value", "± error", "", "features", "N", "real N")


@dataclass(frozen=True)
class Card:
    """Figures as rows under `HEADS`, lines that explain them, and the command that measures them again, if it is known.

    >>> Card("evaluation", [("KID", "0.1", "", "", "tiny", "12", "12")], [], None).rows[0][0]
    'KID'
    """

    title: str
    rows: Sequence[Sequence[str]]
    lines: Sequence[str]
    command: str | None


def read_cards(given: Sequence[str]) -> list[Card]:
    """Read reports, or those of folders. Raises CascadeError for a file that is none."""
    return [card for path in given for card in _read(expanded(path), path)]


def _read(path: Path, given: str) -> Iterator[Card]:
    files = [path / name for name in (CARD, REPORT) if (path / name).is_file()] if path.is_dir() else [path]
    if not files or not path.exists():
        missing = f"holds neither {CARD} nor {REPORT}" if path.is_dir() else "does not exist"
        raise CascadeError(f"cards={given} {missing}; give a report of {' or '.join(_MAKERS)}")
    for file in files:
        report = next((found for maker in _MAKERS if (found := read_report(file, maker)) is not None), None)
        if report is None:
            raise CascadeError(f"{file} is no report of {' or '.join(_MAKERS)}")
        try:
            for name, part in _parts(report).items():
                rows, command = [_row(figure) for figure in part["figures"]], part.get("command")
                yield Card(f"{file}{name}", rows, _lines(part), None if command is None else str(command))
        except (KeyError, TypeError, AttributeError) as error:
            raise CascadeError(f"{file} is of another version of {report['made_by']}; measure again") from error


def _parts(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The results of a report, each by what is said of it behind the name of the file."""
    if "evaluations" in report:
        return {f", after {name}": part for name, part in report["evaluations"].items()}
    every = {report.get("result"): report, **report.get("others", {})}
    return {"" if name is None else f": {name}": part for name, part in every.items()}


def _row(figure: Mapping[str, Any]) -> Sequence[str]:
    error, patches = figure.get("standard_error"), figure.get("patches")
    return (
        str(figure["name"]),
        _number(figure["value"]),
        "" if error is None else _number(error),
        str(figure.get("unit") or ""),
        str(figure.get("features") or "pixels"),
        counted(figure.get("num_images"), patches),
        counted(figure.get("num_reference"), patches),
    )


def _number(value: Any) -> str:
    return number(value) if isinstance(value, int | float) else str(value)


def _lines(part: Mapping[str, Any]) -> list[str]:
    rules = dict.fromkeys(str(figure["resize"]) for figure in part["figures"] if "resize" in figure)
    repeats = card_rows(part) if part.keys() >= _REPEATS else []
    return [
        *map(str, part.get("left_out") or ()),
        *(f"Resize rule: {rule}." for rule in rules),
        *(f"{what[0].upper()}{what[1:]}: {words}." for what, words in repeats),
    ]
