"""Metrics of a run as one CSV file that a resumed run continues."""

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from cascade.errors import CascadeError
from cascade.files import write_whole


class MetricsCSV(Logger):
    """`metrics.csv`: one row for each step that was logged, written whole at each row.

    A resumed run drops the rows of later steps than the one it resumes from and makes them again, so the file is that
    of an unbroken run.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self._rows: dict[int, dict[str, str]] = {}

    @property
    def name(self) -> str:
        """The name Lightning shows."""
        return "csv"

    @property
    def version(self) -> str:
        """There is one file, and no version of it."""
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> "MetricsCSV":
        """The logger itself."""
        return self

    @rank_zero_only
    def resume(self, step: int) -> None:
        """Read the rows up to `step`. CascadeError: something else has written the file."""
        if self.path.exists():
            try:
                with self.path.open(newline="", encoding="utf-8") as file:
                    rows = {int(row["step"]): row for row in csv.DictReader(file, strict=True)}
                if any(None in row for row in rows.values()):
                    raise ValueError("a row with more cells than there are columns")
            except (KeyError, TypeError, ValueError, csv.Error) as error:
                raise CascadeError(
                    f"{self.path} is not as the run wrote it, a row for each 'step'; move it away, and the run goes on "
                    "with a new one"
                ) from error
            self._rows = {number: row for number, row in rows.items() if number <= step}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add `metrics` to the row of `step`."""
        row = self._rows.setdefault(int(step or 0), {"step": str(int(step or 0))})
        row.update({key: f"{value:.9g}" for key, value in metrics.items() if key != "epoch"})
        columns = ["step", *sorted({key for row in self._rows.values() for key in row if key != "step"})]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows[number] for number in sorted(self._rows))
        write_whole(self.path, text.getvalue())

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The run's configuration is in `run.yaml`; nothing to add. (The signature is Lightning's.)"""
