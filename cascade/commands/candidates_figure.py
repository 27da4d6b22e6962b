"""The figure of `cascade candidates`: the common loss over pictures seen, and over the seconds of sampling one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cascade.commands.candidate_rows import Row
from cascade.commands.explain_style import BLUE, GREY, as_png, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_candidates(ranked: Sequence[Row], title: str) -> bytes:
    """The figure as a PNG, 1200 px wide; `ranked`: the best first."""
    with style():
        figure = new_figure(5.4)
        figure.text(0.07, 0.975, title, va="top", fontsize=13, fontweight="bold")
        about = "one loss for all, with the standard error of its difference from the best"
        figure.text(0.07, 0.92, about, va="top", fontsize=10.5, color=GREY)
        panels = figure.add_axes((0.07, 0.13, 0.41, 0.7)), figure.add_axes((0.56, 0.13, 0.41, 0.7))
        _draw(panels[0], ranked, [row.images_seen for row in ranked], "pictures seen in training")
        _draw(panels[1], ranked, [row.seconds for row in ranked], "seconds of sampling a picture")
        panels[0].set_ylabel("validation loss")
        return as_png(figure)


def _draw(axes: "Axes", ranked: Sequence[Row], places: Sequence[float], label: str) -> None:
    axes.set_xscale("log")
    for row, place in zip(ranked, places, strict=True):
        best = row is ranked[0]
        error = row.beyond(ranked[0])[1]
        axes.errorbar([place], [row.loss], [error], marker="o", capsize=2, color=BLUE if best else GREY)
        words = {"xytext": (6, 4), "textcoords": "offset points", "fontsize": 9}
        axes.annotate(row.label, (place, row.loss), fontweight="bold" if best else "normal", **words)
    axes.set_xlim(min(places) / 1.3, 2.2 * max(places))
    axes.set_xlabel(label)
