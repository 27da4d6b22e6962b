"""The figure of the gap of a cascade: the distances of each stage three ways, and what it loses."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cascade.commands.explain_style import BLUE, GREEN, GREY, ORANGE, PALE, RED, as_png, new_figure, style
from cascade.commands.gap_compared import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cascade.evaluation.gap import StageGap, Verdict

_COLOURS = {"floor": GREY, "real": GREEN, "chained": BLUE}
_MARKS = {"floor": "s", "real": "o", "chained": "D"}
_CHARACTERS = 120  # of a line of the sentence


def draw_gap(gaps: "Sequence[StageGap]", verdict: "Verdict", title: str) -> bytes:
    """The figure as a PNG, 1200 px wide; the bars of the stage that is blamed are dark."""
    with style():
        rows = textwrap.wrap(verdict.sentence, _CHARACTERS)
        height = 3.2 + 0.9 * len(gaps) + 0.2 * len(rows)
        figure = new_figure(height)
        at = lambda inches: 1 - inches / height  # noqa: E731
        figure.text(0.03, at(0.15), title, va="top", fontsize=13, fontweight="bold")
        figure.text(0.03, at(0.5), "\n".join(rows), va="top", fontsize=11)
        top, low = 1.25 + 0.2 * len(rows), 0.75 / height
        box = at(top) - low
        distances, losses = figure.add_axes((0.10, low, 0.39, box)), figure.add_axes((0.59, low, 0.38, box))
        _draw_distances(distances, gaps)
        _draw_losses(losses, gaps, verdict)
        for axes in (distances, losses):
            axes.set_ylim(len(gaps) - 0.5, -0.5)
            axes.set_yticks(range(len(gaps)), [gap.stage for gap in gaps])
            axes.grid(visible=False, axis="y")
            axes.axvline(0, color=GREY, linewidth=0.8)
        return as_png(figure)


def _draw_distances(axes: "Axes", gaps: "Sequence[StageGap]") -> None:
    axes.set_title("distance from real pictures", pad=28)
    axes.set_xlabel("MMD² over the spread of real pictures, ± 2 errors")
    for place, (kind, colour) in enumerate(_COLOURS.items()):
        found = [(row, getattr(gap, kind)) for row, gap in enumerate(gaps) if getattr(gap, kind) is not None]
        axes.errorbar(
            [one.value for _, one in found],
            [row + 0.22 * (place - 1) for row, _ in found],
            xerr=[2 * one.standard_error for _, one in found],
            fmt=_MARKS[kind],
            color=colour,
            markersize=6,
            capsize=3,
            linestyle="none",
            label=KINDS[kind],
        )
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, frameon=False, fontsize=10, handletextpad=0.2)


def _draw_losses(axes: "Axes", gaps: "Sequence[StageGap]", verdict: "Verdict") -> None:
    axes.set_title("what the stage loses", pad=28)
    axes.set_xlabel("the same unit, ± 2 errors")
    for row, gap in enumerate(gaps):
        blamed = gap.stage == verdict.stage
        alone, total = gap.alone.value, gap.loss.value
        axes.barh(row, alone, height=0.5, color=RED if blamed else PALE, label="alone" if row == 0 else None)
        if total > alone:
            added = {"label": "by adding to the faults of its input"} if _first(gaps) is gap else {}
            axes.barh(row, total - alone, left=alone, height=0.5, color=ORANGE if blamed else PALE, hatch="//",
                      edgecolor="white", **added)  # fmt: skip
        axes.errorbar(total, row, xerr=2 * gap.loss.standard_error, fmt="none", ecolor=GREY, capsize=3)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, frameon=False, fontsize=10)


def _first(gaps: "Sequence[StageGap]") -> "StageGap | None":
    """The first stage that adds to the faults of its input."""
    return next((gap for gap in gaps if gap.loss.value > gap.alone.value), None)
