"""The first figure of `cascade explain`: a picture, the levels trained, those sampled, and the low-res noise."""

import math
from typing import TYPE_CHECKING, Any

from cascade.commands.explain_levels import PICTURES, NoiseLevels
from cascade.commands.explain_style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    apart,
    as_png,
    new_figure,
    outlined,
    short,
    signed,
    style,
)
from cascade.trained_levels import levels_of_255

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor


def draw_levels(levels: NoiseLevels) -> bytes:
    """The figure as a PNG, 1200 px wide: the picture, p(λ) and w(λ), the grid, the augmentation, on one λ axis."""
    with style():
        rows = [3.6, *([] if levels.grid is None else [0.8]), *([] if levels.augmentation is None else [1.0])]
        height = 6.8 + (0 if levels.grid is None else 1.1) + (1.3 if levels.augmentation else 0)
        figure = new_figure(height)
        axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": rows})[:, 0]
        figure.subplots_adjust(left=0.075, right=0.975, bottom=0.65 / height, top=1 - 3.4 / height, hspace=0.42)
        stage = levels.config["stage"]
        sides = [str(side) for side in (stage["low_resolution"], stage["resolution"]) if side]
        title = f"Noise levels of stage {stage['name']}, {' → '.join(sides)} px"
        figure.text(0.075, 1 - 0.15 / height, title, va="top", fontsize=15, fontweight="bold")
        crop = levels.pictures.shape[-1]
        shown = f"one drawn picture at five levels{'' if crop == stage['resolution'] else f', its middle {crop} px'}"
        figure.text(0.975, 1 - 0.18 / height, shown, va="top", ha="right", fontsize=10.5, color=GREY)
        axes[0].set_xlim(*levels.span)
        _draw_pictures(figure, axes[0], levels)
        _draw_curves(axes[0], levels)
        if levels.grid is not None:
            _draw_grid(axes[1], levels.grid, levels.config["grid"]["name"])
        if levels.augmentation is not None:
            _draw_augmentation(axes[-1], levels.augmentation, levels.span)
        bottom = axes[-1]
        bottom.set_xticks(_ticks(levels.span, 2))
        bottom.set_xlabel("log-SNR λ = ln(α²/σ²)")
        for x, side, text in ((0, "left", "← noise"), (1, "right", "picture →")):
            bottom.text(x, -0.36 / (height * bottom.get_position().height), text, transform=bottom.transAxes, ha=side,
                        va="top", fontsize=11)  # fmt: skip
        return as_png(figure)


def _ticks(span: tuple[float, float], every: int) -> list[int]:
    return [tick for tick in range(math.ceil(span[0]), math.floor(span[1]) + 1) if tick % every == 0]


def _draw_pictures(figure: "Figure", axes: "Axes", levels: NoiseLevels) -> None:
    """Each picture stands exactly above its level."""
    box = axes.get_position()
    width, height = figure.get_size_inches()
    side = 0.9 * box.width * width / PICTURES
    for level, picture in zip(levels.shown, levels.pictures, strict=True):
        middle = box.x0 + box.width * (level - levels.span[0]) / (levels.span[1] - levels.span[0])
        place = figure.add_axes((middle - side / width / 2, box.y1 + 0.6 / height, side / width, side / height))
        place.imshow(((picture + 1) / 2).permute(1, 2, 0).numpy(), interpolation="nearest")
        place.set_axis_off()
        place.set_title(f"λ = {signed(level)}", fontsize=11, loc="center", fontweight="normal", pad=4)
        axes.axvline(level, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), zorder=0.5)


def _draw_curves(axes: "Axes", levels: NoiseLevels) -> None:
    profile = levels.profile
    inside = (profile.log_snr >= levels.span[0]) & (profile.log_snr <= levels.span[1])
    x = profile.log_snr[inside].numpy()
    trained = levels.trained
    looks: list[tuple[Tensor, str, Any, str]] = [
        (profile.p, BLUE, "-", f"p(λ), levels drawn\n({trained.drawn})"),
        # Of a classifier it is p once more.
        (profile.w, ORANGE, "-" if trained.on_x else (0, (3, 3)), f"w(λ) on {trained.on}\n({trained.chosen})"),
    ]
    if trained.on_x is not None:
        looks.append((profile.w_on_x, GREEN, (0, (5, 1.5)), f"e$^λ$w(λ), the same\non {trained.on_x}"))
    if levels.loss is not None:
        looks.append((levels.loss, PURPLE, (0, (1, 1)), "loss that remains, exact\ndenoiser, 1/f² pictures"))
    peaks = []
    for curve, colour, dash, text in looks:
        y = profile.share(curve)[inside].numpy()
        plateau = x[y >= 0.98 * y.max()]
        peaks.append((float(plateau[len(plateau) // 2]), float(y.max()), colour, text))
        if profile.ladder:
            axes.plot(x, y, "o", color=colour, markersize=3)
        else:
            axes.plot(x, y, color=colour, linewidth=2.2, linestyle=dash)
        if colour == BLUE:
            axes.fill_between(x, y, color=colour, alpha=0.12, linewidth=0)
    _label_peaks(axes, peaks, levels.span)
    axes.set_ylabel("share of each, sum 1" if profile.ladder else "share of each per unit of λ, area 1")
    axes.set_title("What is trained")
    upper = axes.secondary_xaxis("top", functions=(lambda x: x, lambda x: x))
    ticks = _ticks(levels.span, 4)
    upper.set_xticks(ticks, [short(math.exp(-tick / 2)) for tick in ticks], fontsize=9, color=GREY)
    upper.tick_params(length=2, color=GREY)
    upper.spines["top"].set_visible(False)
    axes.text(1, 1 + 0.3 / (axes.get_position().height * axes.get_figure().get_figheight()), "noise over picture, σ/α",
              transform=axes.transAxes, ha="right", va="bottom", fontsize=9, color=GREY)  # fmt: skip


def _label_peaks(axes: "Axes", peaks: list[tuple[float, float, str, str]], span: tuple[float, float]) -> None:
    """The names of the curves in a row above them, each over its peak as far as they leave room for each other."""
    top, length = max(y for _, y, _, _ in peaks), span[1] - span[0]
    axes.set_ylim(0, 1.42 * top)
    peaks = sorted(peaks)
    places = apart([(x - span[0]) / length for x, _, _, _ in peaks], 0.2, low=0.1, high=0.9)
    for place, (x, y, colour, text) in zip(places, peaks, strict=True):
        axes.annotate(
            text, xy=(x, y), xytext=(span[0] + place * length, 1.39 * top), color=colour, fontsize=10,
            fontweight="bold", ha="center", va="top", linespacing=1.2, **outlined(),
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 1},
        )  # fmt: skip


def _draw_grid(axes: "Axes", grid: "Tensor", name: str) -> None:
    finite = grid[grid.isfinite()].numpy()
    axes.vlines(finite, 0, 1, color=RED, linewidth=1.4)
    axes.set_ylim(0, 1.9)
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    end = ", then the clean picture" if grid[-1] == math.inf else ""
    axes.set_title(f"What is sampled: grid={name}, {len(grid) - 1} steps")
    for level, side, text in ((finite[0], "left", "starts at "), (finite[-1], "right", "")):
        line = f"{text}{signed(level)}{end if side == 'right' else ''}"
        axes.text(level, 1.15, line, color=RED, ha=side, va="bottom", fontsize=10)


def _draw_augmentation(axes: "Axes", about: dict[str, Any], span: tuple[float, float]) -> None:
    axes.set_ylim(0, 2.3)
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    axes.set_title("What the low-res picture is given: noise (levels of 255 on a picture of full contrast)")
    at = about["at_sampling"]
    if about["trained"] is None:
        axes.text(0.5, 0.5, "none: trained and sampled as it is", transform=axes.transAxes, ha="center", va="center")
        return
    low, high = about["trained"]
    axes.barh(0.45, high - low, left=low, height=0.5, color=BLUE, alpha=0.25, linewidth=0)
    ends = " to ".join(f"{signed(level)} ({short(levels_of_255(level))} levels)" for level in (low, high))
    clean = f", {about['clean_share']:.0%} clean (∞)" if about["clean_share"] else ""
    room = 0.2 * (span[1] - span[0])
    middle = min(max((low + high) / 2, span[0] + room), span[1] - room)
    axes.text(middle, 0.45, f"trained: {ends}{clean}", color=BLUE, ha="center", va="center", fontsize=10)
    if at == math.inf:
        axes.text(high, 1.5, "sampled clean (∞)", color=RED, ha="right", va="bottom", fontsize=10, fontweight="bold")
        return
    axes.vlines(at, 0.85, 1.35, color=RED, linewidth=2)
    text = f"sampled at {signed(at)}: {short(levels_of_255(at))} levels"
    place = min(max(at, span[0] + room), span[1] - room)
    axes.text(place, 1.4, text, color=RED, ha="center", va="bottom", fontsize=10, fontweight="bold")
