"""The first figure of `cascade explain`: which noise levels are trained, how much they weigh, and which are sampled."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

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
from cascade.data.degradation import from_uint8
from cascade.data.procedural import ProceduralDataset
from cascade.diffusion import diffuse
from cascade.diffusion.training_profile import TrainingProfile, training_profile
from cascade.errors import CascadeError
from cascade.registry import build, complete
from cascade.rng import randn
from cascade.sampling.certificate import Bands, picture_bands

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURES = 5
_SHOWN = 256  # at most so many pixels of a picture are shown, so that its noise is not averaged away
_TAIL = 1e-3  # share of the drawn levels that the axis may leave out at either end
_EXPLAINED = ("noise", "weighting", "sampler", "grid", "augmentation")


@dataclass(frozen=True, eq=False)
class NoiseLevels:
    """All that the figure shows.

    config        of what is explained, complete
    loss          w(λ)·E‖ε − ε̂‖² of the exact denoiser of 1/f² pictures at the profile's levels: what training leaves
    span          the ends of the λ axis
    shown         the levels at which the picture is shown; `pictures` (5, 3, s, s) in [−1, 1] are these
    augmentation  trained range and level at sampling, None in a base
    bands         the 1/f² Gaussian in the place of the stage's pictures, and `data`, what it is in words
    """

    config: dict[str, Any]
    profile: TrainingProfile
    loss: Tensor
    grid: Tensor
    span: tuple[float, float]
    shown: list[float]
    pictures: Tensor
    augmentation: dict[str, Any] | None
    bands: Bands
    data: str

    def report(self) -> dict[str, Any]:
        """The numbers behind the figure, as plain JSON values."""
        curves = {key: _rounded(getattr(self.profile, key)) for key in ("log_snr", "p", "w", "w_on_x")}
        return {
            "training": {
                "measure": "probability" if self.profile.ladder else "density",
                **curves,
                "exact_loss": _rounded(self.loss),
            },
            "pictures": {"log_snr": self.shown},
            "sampling": {"log_snr": _rounded(self.grid)},
            "augmentation": self.augmentation,
        }

    def summary(self) -> list[str]:
        """Lines for a person."""
        first, last = (f"{self.grid[i]:.2f}" for i in (0, -2))
        middle = [f"{round(level, 1) + 0.0:.1f}" for level in _quantiles(self.profile, [0.05, 0.5, 0.95])]
        lines = [
            f"training: half of the levels lie below log_snr {middle[1]}, 90 % between {middle[0]} and {middle[2]}",
            f"sampling: {len(self.grid) - 1} steps from log_snr {first} to {last}"
            + (", then the clean picture" if self.grid[-1] == math.inf else ""),
        ]
        if self.augmentation and self.augmentation["trained"]:
            low, high = self.augmentation["trained"]
            lines.append(
                f"low-res noise: trained from log_snr {low:g} to {high:g} ({short(levels_of_255(low))} to "
                f"{short(levels_of_255(high))} levels of 255), sampled at {self.augmentation['at_sampling']}"
            )
        return lines


def levels_of_255(aug_log_snr: float) -> float:
    """The standard deviation of augmentation noise in levels of 255: 127.5·e^{−λ/2}, on a picture of full contrast.

    >>> round(levels_of_255(6.0), 1), levels_of_255(math.inf)
    (6.3, 0.0)
    """
    return 127.5 * math.exp(-aug_log_snr / 2)


def noise_levels(config: dict[str, Any]) -> NoiseLevels:
    """Build what a config of `cascade train` names, and read its levels; raises CascadeError for what is wrong."""
    noise = build("noise", config["noise"])
    profile = training_profile(noise, build("weighting", config["weighting"], noise=noise), points=1001)
    grid = build("grid", config["grid"])
    augmentation = _augmentation(config)
    finite = grid[grid.isfinite()]
    low, high = _quantiles(profile, [_TAIL, 1 - _TAIL])
    span = math.floor(min(low, float(finite[0]))) - 0.5, math.ceil(max(high, float(finite[-1]))) + 0.5
    cell = (span[1] - span[0]) / PICTURES
    shown = [round(span[0] + (k + 0.5) * cell, 2) for k in range(PICTURES)]
    stage = config["stage"]
    bands, data = _gaussian(stage, augmentation)
    loss = profile.w * bands.denoising_loss(profile.log_snr)
    described = {group: complete(group, config[group]) for group in _EXPLAINED}
    described["stage"] = {key: stage[key] for key in ("name", "resolution", "low_resolution", "crop", "aug_log_snr")}
    pictures = _diffused(config, shown)
    return NoiseLevels(described, profile, loss, grid, span, shown, pictures, augmentation, bands, data)


def _gaussian(stage: dict[str, Any], augmentation: dict[str, Any] | None) -> tuple[Bands, str]:
    data = f"1/f² Gaussian of {stage['resolution']} px, pixels of standard deviation 0.5"
    if augmentation is None:
        return picture_bands(stage["resolution"]), data
    data += f", given its {stage['low_resolution']} px picture with noise at λ = {augmentation['at_sampling']}"
    return picture_bands(stage["resolution"], stage["low_resolution"], float(augmentation["at_sampling"])), data


def _diffused(config: dict[str, Any], shown: list[float]) -> Tensor:
    """One drawn picture at each level, with the same noise."""
    side = config["stage"]["resolution"]
    dataset = ProceduralDataset(side, "val")
    if not 0 <= config["picture"] < len(dataset):
        raise CascadeError(f"picture={config['picture']}: there are drawn pictures 0 to {len(dataset) - 1}")
    picture = from_uint8(dataset.image(config["picture"]))
    crop = min(side, config["stage"]["crop"] or side, _SHOWN)
    start = (side - crop) // 2
    picture = picture[:, start : start + crop, start : start + crop].expand(len(shown), -1, -1, -1)
    eps = randn("explain", config["picture"], shape=picture.shape[1:]).expand_as(picture)
    return diffuse(picture, eps, torch.tensor(shown)).clamp(-1, 1)


def _augmentation(config: dict[str, Any]) -> dict[str, Any] | None:
    stage = config["stage"]
    if stage["low_resolution"] is None:
        if config["augmentation"]["name"] != "none":
            raise CascadeError("augmentation is of the low-res picture; a base has none: say augmentation=none")
        return None
    augmentation = build("augmentation", config["augmentation"])
    level = augmentation.default if stage["aug_log_snr"] is None else stage["aug_log_snr"]
    augmentation.check(level)
    trained = [getattr(augmentation, key, None) for key in ("log_snr_min", "log_snr_max")]
    return {
        "trained": None if None in trained else trained,
        "clean_share": getattr(augmentation, "include_clean", 1.0),
        "at_sampling": "inf" if level == math.inf else level,
        "levels_of_255": {
            "trained": None if None in trained else [round(levels_of_255(end), 3) for end in trained],
            "at_sampling": round(levels_of_255(level), 3),
        },
    }


def _quantiles(profile: TrainingProfile, shares: list[float]) -> list[float]:
    """Levels below which a share of the drawn levels lies, by the curve p."""
    p, log_snr = profile.p, profile.log_snr
    mass = p.cumsum(0) if profile.ladder else torch.cumulative_trapezoid(p, log_snr)
    place = torch.searchsorted(mass / mass[-1], torch.tensor(shares, dtype=mass.dtype))
    return log_snr[place.clamp(max=len(log_snr) - 1)].tolist()


def _rounded(numbers: Tensor) -> list[float | str]:
    return ["inf" if number == math.inf else float(f"{number:.8g}") for number in numbers.tolist()]


def draw_levels(levels: NoiseLevels) -> bytes:
    """The figure as a PNG, 1200 px wide: the picture, p(λ) and w(λ), the grid, the augmentation, on one λ axis."""
    with style():
        rows = [3.6, 0.8] if levels.augmentation is None else [3.6, 0.8, 1.0]
        height = 7.9 + (1.3 if levels.augmentation else 0)
        figure = new_figure(height)
        axes = figure.subplots(len(rows), 1, sharex=True, gridspec_kw={"height_ratios": rows})
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
        _draw_grid(axes[1], levels)
        if levels.augmentation is not None:
            _draw_augmentation(axes[2], levels.augmentation, levels.span)
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
    noise, weighting = (levels.config[group]["name"] for group in ("noise", "weighting"))
    looks = [
        (profile.p, BLUE, "-", f"p(λ), levels drawn\n(noise={noise})"),
        (profile.w, ORANGE, "-", f"w(λ) on ‖ε − ε̂‖²\n(weighting={weighting})"),
        (profile.w_on_x, GREEN, (0, (5, 1.5)), "e$^λ$w(λ), the same\non ‖x − x̂‖²"),
        (levels.loss, PURPLE, (0, (1, 1)), "loss that remains, exact\ndenoiser, 1/f² pictures"),
    ]
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


def _draw_grid(axes: "Axes", levels: NoiseLevels) -> None:
    grid = levels.config["grid"]
    finite = levels.grid[levels.grid.isfinite()].numpy()
    axes.vlines(finite, 0, 1, color=RED, linewidth=1.4)
    axes.set_ylim(0, 1.9)
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    steps = len(levels.grid) - 1
    end = ", then the clean picture" if levels.grid[-1] == math.inf else ""
    axes.set_title(f"What is sampled: grid={grid['name']}, {steps} steps")
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
    if at == "inf":
        axes.text(high, 1.5, "sampled clean (∞)", color=RED, ha="right", va="bottom", fontsize=10, fontweight="bold")
        return
    axes.vlines(at, 0.85, 1.35, color=RED, linewidth=2)
    text = f"sampled at {signed(at)}: {short(levels_of_255(at))} levels"
    place = min(max(at, span[0] + room), span[1] - room)
    axes.text(place, 1.4, text, color=RED, ha="center", va="bottom", fontsize=10, fontweight="bold")
