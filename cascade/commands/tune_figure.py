"""The figure of `cascade tune`: a column for each setting, its distances above, fidelity and diversity below."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cascade.commands.explain_style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, as_png, new_figure, short, style
from cascade.commands.tune_choice import Judged
from cascade.trained_levels import levels_of_255

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cascade.commands.tune import Round

_LABELS = {
    "aug_level": "noise in levels of 255, and as the log-SNR λ",
    "guidance_scale": "guidance scale",
    "steps": "steps",
}


def draw_tune(rounds: "Sequence[Round]", name: str, title: str) -> bytes:
    """The figure as a PNG, 1200 px wide; grey: the present value, red: the best."""
    with style():
        figure = new_figure(7.6)
        figure.text(0.05, 0.98, title, va="top", fontsize=13, fontweight="bold")
        about = f"{name} with one standard error; grey: the value before, red: the best, confirmed by the other half"
        figure.text(0.05, 0.94, about, va="top", fontsize=10.5, color=GREY)
        width = 0.92 / len(rounds)
        for column, one in enumerate(rounds):
            left = 0.075 + column * width
            axes = [figure.add_axes((left, low, width - 0.06, 0.36)) for low in (0.50, 0.09)]
            _draw(axes[0], axes[1], one)
            if column == 0:
                for panel in axes:
                    panel.legend(fontsize=9, frameon=False)
                axes[0].set_ylabel(name)
                axes[1].set_ylabel("share")
        return as_png(figure)


def _draw(above: "Axes", below: "Axes", one: "Round") -> None:
    everything = sorted([one.present, *one.judged], key=lambda judged: judged.value)
    place = _places([judged.value for judged in everything])
    x = [place(judged.value) for judged in everything]
    looks = (("choosing", BLUE, "-", "half that chooses"), ("confirming", ORANGE, (0, (4, 1.5)), "half that confirms"))
    for half, colour, dash, words in looks:
        estimates = [getattr(judged, half) for judged in everything]
        above.errorbar(x, [e.value for e in estimates], [e.standard_error for e in estimates], color=colour, capsize=3,
                       linestyle=dash, marker="o", markersize=4, label=words)  # fmt: skip
    shares: dict[str, tuple[Callable[[Judged], float | None], str]] = {
        "precision (fidelity)": (lambda judged: judged.precision, GREEN),
        "recall (diversity)": (lambda judged: judged.recall, PURPLE),
    }
    for words, (share, colour) in shares.items():
        y = [math.nan if share(judged) is None else share(judged) for judged in everything]
        below.plot(x, y, color=colour, marker="o", markersize=4, label=words)
    for axes in (above, below):
        axes.axvline(place(one.present.value), color=GREY, linewidth=1.5, linestyle=(0, (4, 2)))
        if one.choice.best is not None:
            axes.axvline(place(one.choice.best.value), color=RED, linewidth=1.5)
        axes.set_xticks(x, [_tick(one.key, judged.value) for judged in everything], fontsize=9)
    below.set_ylim(-0.03, 1.03)
    below.set_xlabel(_LABELS[one.key])
    above.set_title(one.key if one.choice.best is not None else f"{one.key}: no gain")


def _places(values: Sequence[float]) -> Callable[[float], float]:
    """Where a value stands on the axis: evenly by rank, so that doublings and +inf have room."""
    rank = {value: float(number) for number, value in enumerate(sorted(values))}
    return lambda value: rank[value]


def _tick(key: str, value: float) -> str:
    if key != "aug_level":
        return f"{value:g}"
    return "none\n∞" if math.isinf(value) else f"{short(levels_of_255(value))}\n{value:.3g}"
