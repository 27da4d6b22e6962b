"""The curves of a report: the metrics of runs, and how much detail of each size the pictures have."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cascade.commands.report_chart import Chart, Curve
from cascade.commands.run_metrics import METRICS, read_metrics
from cascade.errors import CascadeError
from cascade.files import expanded

if TYPE_CHECKING:
    from torch import Tensor


def metric_files(runs: Sequence[str]) -> list[Path]:
    """The `metrics.csv` of runs: of a run folder, or of each run in a folder; a file is itself.

    Raises CascadeError for a folder without any.
    """
    found: list[Path] = []
    for run in runs:
        path = expanded(run)
        files = [path] if path.is_file() else sorted(path.glob(METRICS)) or sorted(path.glob(f"*/{METRICS}"))
        if not files:
            raise CascadeError(f"runs={run} {'holds no ' + METRICS if path.is_dir() else 'does not exist'}; give a run")
        found += files
    return list(dict.fromkeys(found))


def metric_charts(file: Path) -> list[Chart]:
    """A chart of the losses of a run, and one of each family of what validation measures ("val/eps_mse[...]").

    Raises CascadeError for a file that is no table of metrics.
    """
    columns = read_metrics(file)
    steps = columns.pop("step")
    families: dict[str, list[str]] = {}
    for key in columns:
        if key.endswith("/loss"):
            families.setdefault("loss", []).append(key)
        elif key.startswith("val/"):
            families.setdefault(key.partition("[")[0], []).append(key)
    return [_chart(f"{file.parent.name}: {name}", name, keys, steps, columns) for name, keys in families.items()]


def _chart(
    title: str, label: str, keys: Sequence[str], steps: Sequence[float], columns: Mapping[str, Sequence[float]]
) -> Chart:
    curves: list[Curve] = [(key, steps, columns[key]) for key in keys]
    measured = [y for key in keys for y in columns[key] if not math.isnan(y)]
    return Chart(title, "step", label, curves, log_y=all(y > 0 for y in measured))


def spectrum_chart(stage: str, sets: "Mapping[str, Iterable[Tensor]]") -> Chart | None:
    """Power over spatial frequency of each set of pictures (3, R, R); None of pictures too small for a spectrum."""
    from cascade.evaluation.spectrum import SpectrumSum

    curves: list[Curve] = []
    for name, pictures in sets.items():
        total, count = SpectrumSum(), 0
        for picture in pictures:
            if picture.shape[-1] < 8:
                return None
            total.add(picture[None])
            count += 1
        if count:
            spectrum = total.spectrum()
            inside = spectrum.frequency <= 0.5
            curves.append((f"{name} ({count})", spectrum.frequency[inside].tolist(), spectrum.power[inside].tolist()))
    title = f"{stage}: radial power spectrum"
    return Chart(title, "cycles per pixel", "power", curves, log_x=True, log_y=True) if curves else None
