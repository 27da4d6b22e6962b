"""The figure of `cascade steps`: kernel distance over steps and over seconds, a curve for each sampler."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cascade.commands.explain_style import BLUE, GREY, OTHERS, as_png, label_ends, new_figure, style
from cascade.commands.swept_points import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_steps(found: Sequence[Result], best: Result, name: str, title: str) -> bytes:
    """The figure as a PNG, 1200 px wide; `best`, the cheapest that is as good as the best, is circled."""
    with style():
        figure = new_figure(5.4)
        figure.text(0.07, 0.975, title, va="top", fontsize=13, fontweight="bold")
        about = f"{name} with one standard error; circled: the cheapest that the best does not beat by two of them"
        figure.text(0.07, 0.92, about, va="top", fontsize=10.5, color=GREY)
        left, right = figure.add_axes((0.07, 0.13, 0.34, 0.7)), figure.add_axes((0.46, 0.13, 0.34, 0.7))
        _draw(left, found, best, [float(r.varied["steps"]) for r in found])
        left.set_ylabel(name)
        left.set_xlabel("steps")
        timed = [result for result in found if result.seconds]  # not where the pictures were there already
        ends = _draw(right, timed, best, [r.seconds for r in timed]) if timed else {}
        right.set_ylim(left.get_ylim())
        label_ends(
            right,
            {name: end[:2] for name, end in ends.items()},
            {n: e[2] for n, e in ends.items()},
            str(best.varied["sampler"]),
        )
        right.set_xlabel("seconds of a picture in this stage")
        return as_png(figure)


def _draw(
    axes: "Axes", found: Sequence[Result], best: Result, places: Sequence[float]
) -> dict[str, tuple[float, float, str]]:
    """Draw the curves; return where each ends, and its colour."""
    axes.set_xscale("log", base=2)
    ends = {}
    samplers = list(dict.fromkeys(result.varied["sampler"] for result in found))
    lines = [(BLUE, "-"), *OTHERS]
    for number, sampler in enumerate(samplers):
        own = sorted(
            (place, r.distance.value, r.distance.standard_error)
            for place, r in zip(places, found, strict=True)
            if r.varied["sampler"] == sampler
        )
        x, y, error = zip(*own, strict=True)
        colour, dash = lines[number % len(lines)]
        axes.errorbar(x, y, list(error), color=colour, linestyle=dash, marker="o", markersize=4, capsize=2)
        ends[str(sampler)] = x[-1], y[-1], colour
    for place, result in zip(places, found, strict=True):
        if result is best:
            axes.plot([place], [result.distance.value], marker="o", markersize=14, markerfacecolor="none", color=GREY)
    axes.set_xlim(min(places) / 1.2, 1.2 * max(places))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
    return ends
