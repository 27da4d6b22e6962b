"""The charts of `cascade report`."""

import numpy as np
import pytest

from cascade.commands.report_chart import Chart


def test_a_chart_puts_its_points_where_its_ticks_say():
    chart = Chart("t", "x", "y", [("a", [1, 10, 100], [0.0, 0.5, 1.0]), ("gap", [5], [float("nan")])], log_x=True)
    svg = chart.svg()
    path = svg.partition('c0" d="')[2].partition('"')[0]
    xs, ys = np.array([part[1:].split() for part in path.replace("L", ",L").split(" ,")], dtype=float).T
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1])
    assert ys[0] > ys[1] > ys[2]
    assert "gap" not in svg.partition("</svg>")[2]
    assert "nan" not in svg


@pytest.mark.parametrize(("low", "high"), [(0.001, 0.9), (5, 7.5), (1, 1e6), (0.3, 0.30001), (2, 2)])
@pytest.mark.parametrize("log", [True, False])
def test_ticks_lie_within_their_axis_and_are_some(low, high, log):
    svg = Chart("t", "x", "y", [("a", [low, high], [0, 1])], log_x=log).svg()
    places = [
        float(part.partition("V")[0].split()[0]) for part in svg.split('class="rule" d="M')[1:] if "v5" in part[:30]
    ]
    assert 1 <= len(places) <= 12
    assert all(58 - 0.1 <= place <= 418 + 0.1 for place in places)


def test_nothing_to_draw_is_said():
    assert "nothing that can be drawn" in Chart("t", "x", "y", [("a", [1], [float("inf")]), ("b", [], [])]).svg()
