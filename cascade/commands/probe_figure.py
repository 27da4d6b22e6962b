"""The figure of `cascade probe`: how well real and generated low-res pictures are told apart, over their noise."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cascade.commands.explain_style import BLUE, GREY, RED, as_png, new_figure, short, style
from cascade.trained_levels import levels_of_255, noise_in_words

if TYPE_CHECKING:
    from cascade.evaluation.jackknife import Estimate


def draw_probe(
    aucs: "Mapping[float, Estimate]", start: float | None, present: float | None, features: str, title: str
) -> bytes:
    """The figure as a PNG, 1200 px wide; the level without noise stands one step right of the others."""
    finite = sorted(level for level in aucs if math.isfinite(level))
    right = finite[-1] + (finite[-1] - finite[0]) / max(1, len(finite) - 1) if finite else 0.0
    place = {level: min(level, right) for level in aucs}
    with style():
        figure = new_figure(5.4)
        figure.text(0.05, 0.975, title, va="top", fontsize=13, fontweight="bold")
        about = f"AUC of a linear probe on {features} with two standard errors; ½: nothing tells them apart"
        figure.text(0.05, 0.92, about, va="top", fontsize=10.5, color=GREY)
        axes = figure.add_axes((0.12, 0.15, 0.78, 0.62))
        rows = sorted((place[level], auc.value, 2 * auc.standard_error) for level, auc in aucs.items())
        x, y, error = zip(*rows, strict=True)
        axes.axhline(0.5, color=GREY, linewidth=1)
        axes.errorbar(x, y, list(error), color=BLUE, marker="o", markersize=5, capsize=3, linewidth=2)
        for height, level, colour, words in ((1.02, present, GREY, "the cascade's"), (1.09, start, RED, "start value")):
            if level is not None:
                axes.axvline(min(level, right), color=colour, linewidth=1.5, linestyle=(0, (4, 2)))
                axes.text(min(level, right), height, f"{words}: {noise_in_words(level)}", color=colour, ha="center",
                          va="bottom", fontsize=10, transform=axes.get_xaxis_transform())  # fmt: skip
        axes.set_ylim(min(0.4, min(y) - 0.05), 1.06)
        ticks = {position: level for level, position in place.items()}
        words = ["none\n∞" if math.isinf(level) else f"{short(levels_of_255(level))}\n{level:.3g}"
                 for level in ticks.values()]  # fmt: skip
        axes.set_xticks(list(ticks), words)
        axes.set_xlabel("noise in levels of 255, and as the log-SNR λ")
        axes.set_ylabel("AUC")
        return as_png(figure)
