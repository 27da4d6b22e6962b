"""Grids: the formulas, the ends, and that any schedule gives a grid."""

import math

import pytest
import torch

from cascade.diffusion import CosineSchedule, DiscreteBetas, LinearBetaSchedule, ShiftedSchedule
from cascade.errors import CascadeError
from cascade.sampling import karras, uniform_log_snr, uniform_t
from cascade.sampling.grid import cut
from cascade.sampling.transition import check_grid, transitions

F64 = torch.float64
SCHEDULES = [
    CosineSchedule(),
    CosineSchedule(-10.0, 12.0),
    LinearBetaSchedule(),
    ShiftedSchedule(CosineSchedule(), 2 * math.log(64 / 256)),
    DiscreteBetas("linear", 1000),
    DiscreteBetas("cosine", 1000),
]
counts = pytest.mark.parametrize("n", [1, 2, 3, 32, 250])


@counts
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_uniform_t_is_the_schedule_at_equal_times(schedule, n):
    grid = check_grid(uniform_t(schedule, n))
    assert len(grid) == n + 1
    assert grid[0] == pytest.approx(schedule.log_snr_min)
    assert grid[-1] == math.inf
    for i in range(n):
        assert grid[i].item() == pytest.approx(float(schedule.log_snr(1 - i / n)), abs=1e-6)


@counts
def test_uniform_log_snr_has_equal_distances_between_its_ends(n):
    grid = check_grid(uniform_log_snr(-8.0, 5.0, n))
    assert len(grid) == n + 1
    assert grid[0] == -8
    assert grid[-1] == math.inf
    if n > 1:
        assert grid[-2] == 5
        torch.testing.assert_close(grid[:-1].diff(), torch.full((n - 1,), 13 / (n - 1), dtype=F64))


@counts
@pytest.mark.parametrize(("rho", "low", "high"), [(7.0, 0.002, 80.0), (3.0, 0.01, 20.0), (1.0, 0.5, 2.0)])
def test_karras_is_the_formula_read_as_sigma(n, rho, low, high):
    grid = check_grid(karras(n, rho, low, high))
    sigma = (-grid / 2).exp().tolist()
    assert len(sigma) == n + 1
    assert sigma[0] == pytest.approx(high, rel=1e-13)
    assert sigma[-1] == 0
    for i in range(1, n):
        root = high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))
        assert sigma[i] == pytest.approx(root**rho, rel=1e-12)


def test_karras_has_the_published_levels():
    """EDM's defaults with 18 steps: first, second and last σ, worked out by hand from equation 5."""
    sigma = (-karras(18) / 2).exp().tolist()
    assert sigma[:2] == pytest.approx([80.0, 57.586], rel=1e-4)
    assert sigma[-2:] == pytest.approx([0.002, 0.0], rel=1e-12)


def test_transitions_cut_a_grid_into_pairs():
    steps = list(transitions(torch.tensor([-3.0, 1.0, math.inf], dtype=F64)))
    assert [(step.index, step.t.log_snr, step.s.log_snr) for step in steps] == [(0, -3, 1), (1, 1, math.inf)]
    assert [step.ends_clean for step in steps] == [False, True]
    assert steps[0].r == pytest.approx(math.exp(-4))
    assert steps[0].one_minus_r == pytest.approx(1 - math.exp(-4))
    assert steps[1].r == 0
    assert (steps[1].s.alpha, steps[1].s.sigma, steps[1].s.sigma_edm) == (1, 0, 0)


def test_one_minus_r_does_not_cancel_on_a_short_step():
    step = next(transitions(torch.tensor([0.0, 1e-12], dtype=F64)))
    assert step.one_minus_r == pytest.approx(1e-12, rel=1e-10)


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        (torch.tensor([0.0, 1.0]), "float64, not float32"),
        (torch.tensor([0.0], dtype=F64), "at least 2"),
        (torch.zeros(2, 2, dtype=F64), "one row"),
        (torch.tensor([1.0, 0.0], dtype=F64), "strictly increasing"),
        (torch.tensor([0.0, 0.0], dtype=F64), "strictly increasing"),
        (torch.tensor([0.0, math.nan], dtype=F64), "strictly increasing"),
        (torch.tensor([math.nan, 0.0], dtype=F64), "finite"),
        (torch.tensor([-math.inf, 0.0], dtype=F64), "finite"),
        (torch.tensor([0.0, math.inf, math.inf], dtype=F64), "finite"),
    ],
)
def test_what_is_no_grid_is_refused(grid, says):
    with pytest.raises(CascadeError, match=says):
        transitions(grid)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: uniform_t(CosineSchedule(), 0), "n ≥ 1"),
        (lambda: uniform_log_snr(-1.0, 1.0, -2), "n ≥ 1"),
        (lambda: karras(2.5), "n ≥ 1"),
        (lambda: karras(True), "n ≥ 1"),
        (lambda: uniform_log_snr(1.0, 1.0, 3), "log_snr_min"),
        (lambda: uniform_log_snr(0.0, math.inf, 3), "log_snr_min"),
        (lambda: karras(3, rho=0.0), "rho"),
        (lambda: karras(3, sigma_min=0.0), "sigma_min"),
        (lambda: karras(3, sigma_min=2.0, sigma_max=1.0), "sigma_min"),
    ],
)
def test_wrong_parameters_of_a_grid_are_refused(make, says):
    with pytest.raises(CascadeError, match=says):
        make()


@pytest.mark.parametrize("level", [-19.5, -3.3, 0.0, 4.0, 25.0, 0.1 + 0.2])
@pytest.mark.parametrize(
    "grid", [uniform_log_snr(-20.0, 20.0, 11), karras(9, sigma_max=2e4), uniform_t(SCHEDULES[0], 7)]
)
def test_a_cut_grid_stops_at_the_level_exactly_and_keeps_what_is_below(grid, level):
    short = cut(grid, level)
    assert float(short[-1]) == level
    assert torch.equal(check_grid(short)[:-1], grid[grid < level])
    assert torch.equal(cut(short, level), short)


def test_a_grid_cut_at_infinity_stays_as_it_is():
    for grid in (karras(9), uniform_log_snr(-8.0, 8.0, 5)):
        assert torch.equal(cut(grid, math.inf), grid)


@pytest.mark.parametrize("level", [-8.0, -9.0, math.nan, -math.inf])
def test_a_grid_cannot_stop_where_it_has_not_begun(level):
    with pytest.raises(CascadeError, match="cannot stop"):
        cut(uniform_log_snr(-8.0, 8.0, 5), level)
