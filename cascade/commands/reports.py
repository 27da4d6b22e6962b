"""The JSON files that commands write beside their figures: each replaces its own alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade.errors import CascadeError
from cascade.files import write_whole
from cascade.lock import check_place
from cascade.plain_json import without_infinity


def check_out(out: Path, report: str, made_by: str, pictures: Sequence[str]) -> None:
    """Raise CascadeError now where a command could not write its `report` and `pictures` into the folder `out`.

    >>> check_out(Path("not there"), "steps.json", "cascade steps", ["steps.png"])
    """
    from cascade.commands.png import refuse_foreign

    if out.exists() and not out.is_dir():
        raise CascadeError(f"out={out} is a file; choose a folder")
    refuse_foreign(out, pictures)
    refuse_foreign_report(out / report, made_by)
    check_place(out)


def write_report(file: Path, report: Mapping[str, Any]) -> None:
    """Write the report whole; what JSON does not know, in words.

    >>> import tempfile; file = Path(tempfile.mkdtemp()) / "steps.json"
    >>> write_report(file, {"made_by": "cascade steps", "until": float("inf")})
    >>> json.loads(file.read_text())
    {'made_by': 'cascade steps', 'until': 'inf'}
    """
    text = json.dumps(without_infinity(report), indent=1, ensure_ascii=False, allow_nan=False)
    # Of a file's name bytes that are no text become escapes of JSON, which read_report turns back.
    write_whole(file, (text + "\n").encode(errors="backslashreplace"))


def refuse_foreign_report(file: Path, made_by: str) -> None:
    """Raise CascadeError if `file` is there and its `made_by` is another.

    >>> refuse_foreign_report(Path("not there"), "cascade steps")
    """
    if file.exists() and read_report(file, made_by) is None:
        raise CascadeError(f"{file} was not made by {made_by}; choose another out, or move it away")


def read_report(file: Path, made_by: str) -> dict[str, Any] | None:
    """The report in `file`; None where there is none that says it is `made_by` that command.

    >>> read_report(Path("not there"), "cascade steps") is None
    True
    """
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and report.get("made_by") == made_by else None
