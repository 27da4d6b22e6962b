"""How the figures of `cascade explain` look: fonts, colours told apart by everybody, labels beside their curves."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cascade.commands.png import MARK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

# Okabe & Ito, "Color universal design" (2008); the purple is Paul Tol's, which is easier to read as text.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#AA4499", "#56B4E9"
INK, GREY, PALE = "#222222", "#767676", "#DDDDDD"
OTHERS = [(colour, dash) for dash in ("-", (0, (4, 1.5)), (0, (1, 1))) for colour in (ORANGE, GREEN, RED, PURPLE, SKY)]
"""Colours and dashes of the curves beside the chosen one, which is BLUE and thick."""

WIDTH, DPI = 12.0, 100


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's settings for these figures; nothing is left behind."""
    import matplotlib as mpl

    settings = {
        "font.size": 11,
        "axes.titlesize": 12,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.edgecolor": GREY,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": PALE,
        "grid.linewidth": 0.6,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.formatter.useoffset": False,
        "text.parse_math": True,
    }
    with mpl.rc_context(settings):
        yield


def new_figure(height: float) -> "Figure":
    """An empty white figure, 1200 px wide. It knows no window, so it draws by Agg."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")


def as_png(figure: "Figure") -> bytes:
    """The figure as a marked PNG; the same figure is the same bytes."""
    raw = io.BytesIO()
    figure.savefig(raw, format="png", metadata={MARK[0]: MARK[1]})
    return raw.getvalue()


def rounded(numbers: "Tensor") -> list[float]:
    """The numbers of a tensor (N,) to 8 digits, for a report.

    >>> import torch
    >>> rounded(torch.tensor([1 / 3], dtype=torch.float64))
    [0.33333333]
    """
    return [float(f"{number:.8g}") for number in numbers.tolist()]


def short(number: float) -> str:
    """Two digits, and no exponent where the number is 10 or more."""
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"


def label_ends(axes: "Axes", ends: Mapping[str, tuple[float, float]], looks: Mapping[str, str], bold: str) -> None:
    """Write each curve's name beside its last point (x, y) at the right edge, moved apart where they would overlap."""
    figure = axes.get_figure()
    box = axes.get_window_extent()
    width, height = box.width / figure.dpi, box.height * 72 / figure.dpi
    places = {name: axes.transAxes.inverted().transform(axes.transData.transform(end))[1] for name, end in ends.items()}
    order = sorted(places, key=places.__getitem__)
    spread = apart([min(1.0, max(0.0, places[name])) for name in order], 13.5 / height)
    for name, y in zip(order, spread, strict=True):
        x = axes.transAxes.inverted().transform(axes.transData.transform(ends[name]))[0]
        axes.annotate(
            name,
            xy=(x, min(1.0, max(0.0, places[name]))),
            xytext=(1 + 0.3 / width, y),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=10,
            color=looks[name],
            fontweight="bold" if name == bold else "normal",
            arrowprops={
                "arrowstyle": "-",
                "color": looks[name],
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 2,
                "relpos": (0, 0.5),
            },
            annotation_clip=False,
        )


def outlined() -> dict[str, Any]:
    """Keywords of a text that stands on lines: a white edge around its letters."""
    from matplotlib.patheffects import withStroke

    return {"path_effects": [withStroke(linewidth=3, foreground="white")], "zorder": 5}


def signed(number: float, digits: int = 1) -> str:
    """A number with a real minus sign, and none before zero."""
    return f"{round(number, digits) + 0.0:.{digits}f}".replace("-", "−")


def apart(places: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Move rising places at least `gap` apart, each block around the mean of its own, and all between low and high.

    >>> [round(place, 2) for place in apart([0.0, 0.5, 0.5, 1.2], 0.1)]
    [0.0, 0.45, 0.55, 1.0]
    """
    blocks: list[list[float]] = []
    for place in places:
        blocks.append([place])
        while len(blocks) > 1 and _end(blocks[-2], gap) + gap > _end(blocks[-1], -gap):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    moved = [_middle(block) + gap * (i - (len(block) - 1) / 2) for block in blocks for i in range(len(block))]
    last = len(moved) - 1
    moved = [min(place, high - gap * (last - i)) for i, place in enumerate(moved)]
    return [max(place, low + gap * i) for i, place in enumerate(moved)]


def _middle(block: Sequence[float]) -> float:
    return sum(block) / len(block)


def _end(block: Sequence[float], gap: float) -> float:
    """Where the last member of a block lies, or, with a negative gap, the first."""
    return _middle(block) + gap * (len(block) - 1) / 2
