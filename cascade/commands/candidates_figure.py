"""The figure of `cascade candidates`: the common loss over pictures seen, and over the seconds of sampling one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cascade.commands.candidate_rows import Row
from cascade.commands.explain_style import BLUE, GREY, INK, as_png, label_ends, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_candidates(ranked: Sequence[Row], title: str) -> bytes:
    """The figure as a PNG, 1200 px wide; `ranked`: the best first."""
    with style():
        figure = new_figure(5.4)
        figure.text(0.07, 0.975, title, va="top", fontsize=13, fontweight="bold")
        about = "one loss for all, with the standard error of its difference from the best"
        figure.text(0.07, 0.92, about, va="top", fontsize=10.5, color=GREY)
        panels = figure.add_axes((0.07, 0.13, 0.26, 0.7)), figure.add_axes((0.55, 0.13, 0.26, 0.7))
        _draw(panels[0], ranked, [row.images_seen for row in ranked], "pictures seen in training")
        _draw(panels[1], ranked, [row.seconds for row in ranked], "seconds of sampling a picture")
        panels[0].set_ylabel("validation loss")
        return as_png(figure)


def _draw(axes: "Axes", ranked: Sequence[Row], places: Sequence[float], label: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    for row, place in zip(ranked, places, strict=True):
        error = row.beyond(ranked[0])[1]
        axes.errorbar([place], [row.loss], [error], marker="o", capsize=2, color=BLUE if row is ranked[0] else GREY)
    axes.set_xlim(min(places) / 1.3, 1.3 * max(places))
    low, high = ranked[0].loss, ranked[-1].loss
    room = (high / low) ** 0.1 * 1.02
    axes.set_ylim(low / room, high * room)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:.4g}")
        axis.set_minor_formatter(lambda value, _: f"{value:.3g}")
    axes.tick_params(which="minor", labelsize=8)
    axes.set_xlabel(label)
    ends = {row.label: (float(place), row.loss) for row, place in zip(ranked, places, strict=True)}
    looks = {row.label: BLUE if row is ranked[0] else INK for row in ranked}
    label_ends(axes, ends, looks, ranked[0].label)
