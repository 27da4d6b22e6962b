"""A line chart as SVG, without a library: its colours are the page's own, so it is light in light and dark in dark."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 440, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 22, 10, 42
_MOST = 400
"""Points of a curve; of more, every so many."""

Curve = tuple[str, Sequence[float], Sequence[float]]
"""Name, x and y."""


@dataclass(frozen=True)
class Chart:
    """Curves over common axes; `log_x`, `log_y` scale these by their logarithm.

    >>> "<svg" in Chart("loss", "step", "loss", [("train", [1, 2], [0.5, 0.4])]).svg()
    True
    """

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    log_x: bool = False
    log_y: bool = False

    def svg(self) -> str:
        """The chart as an element; points that are not finite, or not positive on a logarithmic axis, are left out."""
        curves = [(name, found) for name, xs, ys in self.curves if (found := self._thinned(xs, ys))]
        points = [point for _, of in curves for point in of]
        if not points:
            return f"<p class='quiet'>{escape(self.title)}: nothing that can be drawn</p>"
        x_axis = _Axis(min(x for x, _ in points), max(x for x, _ in points), self.log_x, _LEFT, _WIDTH - _RIGHT)
        y_axis = _Axis(min(y for _, y in points), max(y for _, y in points), self.log_y, _HEIGHT - _BOTTOM, _TOP)
        names = ", ".join(name for name, _ in curves)
        label = escape(f"{self.title}: {self.y_label} over {self.x_label}, of {names}", quote=True)
        parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">']
        parts += self._axes(x_axis, y_axis)
        for number, (_, of) in enumerate(curves):
            path = " ".join(f"{'L' if i else 'M'}{x_axis.at(x):.1f} {y_axis.at(y):.1f}" for i, (x, y) in enumerate(of))
            # A point alone has no line, but with round ends a line of no length is a dot.
            dot = " dot" if len(of) == 1 else ""
            parts.append(f'<path class="curve{dot} c{number % 6}" d="{path}{"h0" if dot else ""}"/>')
        return "".join([*parts, "</svg>", *self._legend([name for name, _ in curves])])

    def _thinned(self, xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
        good = [
            (float(x), float(y))
            for x, y in zip(xs, ys, strict=True)
            if math.isfinite(x) and math.isfinite(y) and not (self.log_x and x <= 0) and not (self.log_y and y <= 0)
        ]
        stride = max(1, math.ceil(len(good) / _MOST))
        return good[::stride] if stride == 1 or not good else [*good[::stride], good[-1]]

    def _axes(self, x_axis: "_Axis", y_axis: "_Axis") -> Iterator[str]:
        for value in y_axis.ticks():
            y = y_axis.at(value)
            yield f'<path class="rule" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
            yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>'
        for value in x_axis.ticks():
            x = x_axis.at(value)
            yield f'<path class="rule" d="M{x:.1f} {_HEIGHT - _BOTTOM}v5"/>'
            yield f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 19}" text-anchor="middle">{_number(value)}</text>'
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        yield f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(self.x_label)}</text>'
        across = (_TOP + _HEIGHT - _BOTTOM) / 2
        yield f'<text transform="translate(12 {across}) rotate(-90)" text-anchor="middle">{escape(self.y_label)}</text>'

    def _legend(self, names: Sequence[str]) -> Iterator[str]:
        yield '<p class="legend">'
        for number, name in enumerate(names):
            yield f'<span><i class="key c{number % 6}"></i>{escape(name)}</span> '
        yield "</p>"


class _Axis:
    """Values from `low` to `high` at pixels from `start` to `end`, with round ticks."""

    def __init__(self, low: float, high: float, log: bool, start: float, end: float) -> None:
        self.log, self.start, self.end = log, start, end
        low, high = (math.log10(low), math.log10(high)) if log else (low, high)
        self.only = low if high - low < 1e-12 * max(1.0, abs(low)) else None
        self.low, self.high = (low, high) if self.only is None else (low - 0.5, low + 0.5)

    def at(self, value: float) -> float:
        """The pixel of a value."""
        value = math.log10(value) if self.log else value
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """About five round values: of 1, 2 and 5 times a power of ten, or of such steps."""
        if self.only is not None:
            return [10**self.only if self.log else self.only]
        if self.log and self.high - self.low >= 0.8:
            first, last = math.floor(self.low), math.floor(self.high + 1e-9)
            factors = (1, 2, 5) if last - first <= 2 else (1,)
            powers = range(first, last + 1, max(1, (last - first) // 5))
            values = [factor * 10.0**power for power in powers for factor in factors]
            return [value for value in values if self.low - 1e-9 <= math.log10(value) <= self.high + 1e-9]
        low, high = (10**self.low, 10**self.high) if self.log else (self.low, self.high)
        raw = (high - low) / 4
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1) if not self.log or i > 0]


def _number(value: float) -> str:
    """A tick in few letters.

    >>> _number(20000), _number(0.25), _number(1e-6), _number(0.0), _number(1500)
    ('20k', '0.25', '1e-6', '0', '1,500')
    """
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value / 1000:.4g}k" if abs(value) >= 10000 else f"{value:,.6g}"
