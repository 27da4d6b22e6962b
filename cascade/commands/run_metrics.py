"""The `metrics.csv` of a run, read back."""

import csv
import math
from pathlib import Path

from cascade.errors import CascadeError

METRICS = "metrics.csv"


def read_metrics(file: Path) -> dict[str, list[float]]:
    """Its columns, of one number a row; nan where a row has none. CascadeError for a file that is no such table."""
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        columns = {key: [float(row[key] or math.nan) for row in rows] for key in (rows[0] if rows else {})}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise CascadeError(f"{file} is no {METRICS} of a run") from error
    if "step" not in columns or not all(step.is_integer() for step in columns["step"]):
        raise CascadeError(f"{file} is no {METRICS} of a run")
    return columns


def measured(places: list[float], values: list[float]) -> list[tuple[float, float]]:
    """The points at which there is a value.

    >>> measured([1.0, 2.0, 3.0], [0.5, math.nan, 0.25])
    [(1.0, 0.5), (3.0, 0.25)]
    """
    return [(place, value) for place, value in zip(places, values, strict=True) if not math.isnan(value)]
