"""The curves of trainings, read from their `metrics.csv`: in a model card as a figure and as a table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade.commands.explain_style import BLUE, GREY, as_png, new_figure, style
from cascade.commands.run_metrics import METRICS, measured, read_metrics
from cascade.errors import CascadeError
from cascade.files import expanded

_SEEN, _LOSS, _VALIDATION, _HOURS = "train/images_seen", "train/loss", "val/loss", "train/cpu_hours"


@dataclass(frozen=True)
class Curve:
    """What a stage's training has logged: loss and validation loss over the images that it has seen.

    `cpu_hours` are those of the processor up to the last row; None where the run did not count them.
    """

    stage: str
    loss: tuple[tuple[float, float], ...]
    validation: tuple[tuple[float, float], ...]
    cpu_hours: float | None

    def to_json(self) -> dict[str, Any]:
        """As a card keeps it."""
        return {
            "stage": self.stage,
            "images_seen": int(self.loss[-1][0]),
            "cpu_hours": self.cpu_hours,
            "best_validation_loss": min((value for _, value in self.validation), default=None),
            "loss": [list(point) for point in self.loss],
            "validation": [list(point) for point in self.validation],
        }


def read_curve(path: str | Path) -> Curve:
    """The curve of a run's folder RUNS/NAME/STAGE, or of a copy of its metrics. CascadeError if there is none.

    A copy is called STAGE.csv, or STAGE.2.csv for the second of several trainings, each from the weights of the last.

    >>> read_curve("nowhere.csv")
    Traceback (most recent call last):
    cascade.errors.CascadeError: curves: there is no run and no file at 'nowhere.csv'
    """
    path = expanded(path)
    file = path / METRICS if path.is_dir() else path
    if not file.is_file():
        what = f"'{path}' holds no {METRICS}" if path.is_dir() else f"there is no run and no file at '{path}'"
        raise CascadeError(f"curves: {what}")
    columns = read_metrics(file)
    seen = columns.get(_SEEN, [])
    loss = measured(seen, columns[_LOSS]) if seen and _LOSS in columns else []
    if not loss:
        raise CascadeError(f"curves: {file} holds no losses of a training yet")
    # Rows of validation alone do not say how many images were seen: a step has as many as any other.
    last_step, last_seen = measured(columns["step"], seen)[-1]
    each = last_seen / last_step
    validation = measured([each * step for step in columns["step"]], columns.get(_VALIDATION, [math.nan] * len(seen)))
    hours = measured(columns["step"], columns.get(_HOURS, [math.nan] * len(seen)))
    return Curve(path.name.partition(".")[0], tuple(loss), tuple(validation), hours[-1][1] if hours else None)


def draw_curves(curves: Sequence[Curve]) -> bytes:
    """The figure as a PNG, 1200 px wide: a panel for each stage, the trainings of one after another."""
    stages = {
        stage: [curve for curve in curves if curve.stage == stage] for stage in dict.fromkeys(c.stage for c in curves)
    }
    with style():
        figure = new_figure(4.0)
        figure.text(0.05, 0.96, "Training", va="top", fontsize=13, fontweight="bold")
        about = "loss of each fifty steps or so (grey) and on pictures that were held back (blue)"
        figure.text(0.05, 0.89, about, va="top", fontsize=10.5, color=GREY)
        width = 0.93 / len(stages)
        for number, (stage, parts) in enumerate(stages.items()):
            axes = figure.add_axes((0.055 + number * width, 0.15, width - 0.065, 0.61))
            before = 0.0
            for curve in parts:
                axes.plot(*_later(curve.loss, before), color=GREY, linewidth=0.8)
                if curve.validation:
                    axes.plot(*_later(curve.validation, before), color=BLUE, marker="o", markersize=3)
                before += curve.loss[-1][0]
            axes.set_yscale("log")
            axes.set_title(stage)
            axes.set_xlabel("images seen")
            shown = [value for curve in parts for _, value in (*curve.loss[1:], *curve.validation)]
            low, high = min(shown), max(shown)
            axes.set_ylim(low / 1.05, min(high, 4 * low) * 1.05)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
            axes.yaxis.set_minor_formatter(lambda value, _: f"{value:.2g}")
            axes.tick_params(which="minor", labelsize=8)
        return as_png(figure)


def _later(points: Sequence[tuple[float, float]], before: float) -> tuple[list[float], list[float]]:
    """The points as two lists for a plot, after `before` images."""
    return [before + seen for seen, _ in points], [value for _, value in points]
