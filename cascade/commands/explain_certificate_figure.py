"""The second figure of `cascade explain`: network calls against the exact KL, by sampler and by grid."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cascade.commands.explain_certificate import Certificates, Curve
from cascade.commands.explain_style import BLUE, GREY, INK, OTHERS, as_png, label_ends, new_figure, outlined, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST = 22  # letters of a name beside its curve
_REFERENCES = ((0.01, "every variance 1 % off"), (0.1, "10 % off"), (1.0, "twice the data's"))


def draw_certificates(found: Certificates) -> bytes:
    """The figure as a PNG, 1200 px wide: KL over network calls by sampler, the same by grid, and what is lost where."""
    with style():
        figure = new_figure(9.2)
        left = figure.add_axes((0.07, 0.115, 0.345, 0.745))
        upper = figure.add_axes((0.635, 0.535, 0.215, 0.325))
        lower = figure.add_axes((0.635, 0.115, 0.345, 0.305))
        own = f"{found.samplers[0].name} on {found.grids[0].name}, {found.steps} steps"
        figure.text(0.07, 0.985, f"Sampler certificate: {own}", va="top", fontsize=15, fontweight="bold")
        lines = [
            f"Data: {found.about}",
            "The KL is exact; nothing is trained or drawn. Guidance and thresholding (not affine) are left out. "
            + found.note,
        ]
        figure.text(0.07, 0.945, "\n".join(lines), va="top", fontsize=10.5, color=GREY, linespacing=1.4)
        _draw_kl(left, found.samplers, found.steps)
        left.set_title("Samplers on this grid")
        for share, text in _REFERENCES:
            level = (share - math.log1p(share)) / 2
            if left.get_ylim()[0] < level < left.get_ylim()[1]:
                left.axhline(level, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
                left.text(
                    0.012,
                    level,
                    text,
                    transform=left.get_yaxis_transform(),
                    fontsize=9,
                    color=GREY,
                    va="bottom",
                    **outlined(),
                )
        _draw_kl(upper, found.grids, found.steps)
        upper.set_title("Grids under this sampler")
        _draw_ratios(lower, found)
        lower.set_title(f"Contrast by frequency at {found.steps} steps")
        left_out = [
            f"{curve.name} ({next(iter(curve.left_out.values()))})" for curve in found.samplers if not curve.points
        ]
        if left_out:
            figure.text(0.07, 0.015, "Not certified: " + ", ".join(left_out), fontsize=9, color=GREY, wrap=True)
        return as_png(figure)


def _draw_kl(axes: "Axes", curves: Sequence[Curve], steps: int) -> None:
    """KL per dimension over network calls, both logarithmic."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ends, looks = {}, {}
    drawn = [curve for curve in curves if curve.points]
    axes.set_xlabel("network calls (a dot for each number of steps)")
    axes.set_ylabel("KL(output ‖ data), nats per dimension")
    if not drawn:
        axes.text(0.5, 0.5, "cannot be certified", transform=axes.transAxes, ha="center", color=GREY)
        axes.tick_params(which="both", left=False, bottom=False, labelleft=False, labelbottom=False)
        return
    for curve, (colour, dash) in zip(drawn, _colours(curves, drawn), strict=True):
        first = curve is curves[0]
        x, y = [p.calls for p in curve.points], [max(p.per_dimension, 1e-16) for p in curve.points]
        axes.plot(
            x, y, color=colour, linestyle=dash, marker="o", markersize=6 if first else 3.5,
            linewidth=3 if first else 1.6, zorder=3 if first else 2,
        )  # fmt: skip
        name = curve.name if len(curve.name) <= _LONGEST else "this config"
        ends[name], looks[name] = (x[-1], y[-1]), colour
    values = [point.per_dimension for curve in drawn for point in curve.points]
    axes.set_ylim(10 ** math.floor(math.log10(max(1e-10, min(values)))), min(30.0, 2 * max(values)))
    calls = [point.calls for curve in drawn for point in curve.points]
    axes.set_xlim(min(calls) / 1.2, 1.15 * max(calls))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    own = curves[0].at(steps)
    if own is not None:
        axes.plot([own.calls], [own.per_dimension], marker="o", markersize=14, markerfacecolor="none",
                  markeredgecolor=BLUE, markeredgewidth=2, zorder=4)  # fmt: skip
    label_ends(axes, ends, looks, bold=curves[0].name if curves[0].name in ends else "this config")


def _colours(curves: Sequence[Curve], drawn: Sequence[Curve]) -> list[tuple[str, Any]]:
    place = {id(curve): i for i, curve in enumerate(curves)}
    return [(BLUE, "-") if place[id(c)] == 0 else OTHERS[(place[id(c)] - 1) % len(OTHERS)] for c in drawn]


def _draw_ratios(axes: "Axes", found: Certificates) -> None:
    """Variance of the output over the data's against frequency, at the config's number of steps."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    drawn = [curve for curve in found.samplers if curve.at(found.steps) is not None]
    told = found.bands.told > 0
    for curve, (colour, dash) in zip(drawn, _colours(found.samplers, drawn), strict=True):
        first = curve is found.samplers[0]
        ratio = curve.at(found.steps).ratio
        for part in (told, ~told):
            axes.plot(found.bands.frequency[part].numpy(), ratio[part].numpy(), color=colour, linestyle=dash,
                      linewidth=3 if first else 1.4, zorder=3 if first else 2)  # fmt: skip
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.text(0.015, 0.03, "colours as on the left", transform=axes.transAxes, fontsize=9, color=GREY)
    axes.set_ylim(0.25, 4)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("frequency, cycles over the picture")
    axes.set_ylabel("variance, output / data")
    if bool(told.any()):
        edge = float(found.bands.frequency[told].max())
        axes.axvline(edge, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.text(edge, 3.8, "told by the low-res picture ", ha="right", va="top", fontsize=9, color=GREY)
