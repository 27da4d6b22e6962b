"""The JSON files that commands write beside their figures: each replaces its own alone."""

import json
from pathlib import Path

from cascade.errors import CascadeError


def refuse_foreign_report(file: Path, made_by: str) -> None:
    """Raise CascadeError if `file` is there and its `made_by` is another.

    >>> refuse_foreign_report(Path("not there"), "cascade steps")
    """
    if not file.exists():
        return
    try:
        ours = json.loads(file.read_text(encoding="utf-8")).get("made_by") == made_by
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise CascadeError(f"{file} was not made by {made_by}; choose another out, or move it away")
