"""Grids: the formulas, the ends, and that any schedule gives a grid."""

import math

import pytest
import torch

from cascade.diffusion import (
    Condition,
    CosineSchedule,
    DiscreteBetas,
    LinearBetaSchedule,
    Posterior,
    ShiftedSchedule,
)
from cascade.errors import CascadeError
from cascade.sampling import Ancestral, adm_respaced, karras, uniform_log_snr, uniform_t
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


LADDERS = [DiscreteBetas("linear", 1000), DiscreteBetas("cosine", 1000), DiscreteBetas("linear", 37)]


def kept(betas, respacing):
    """The steps of a respaced grid, noisiest first; its levels are checked to be the ladder's own, bit for bit."""
    grid = check_grid(adm_respaced(betas, respacing))
    assert grid[-1] == math.inf
    steps = betas.step(grid[:-1])
    assert torch.equal(betas.log_snrs[steps.long()], grid[:-1])
    return steps.tolist()


@pytest.mark.parametrize("betas", LADDERS, ids=str)
def test_adm_respaced_to_all_steps_is_the_ladder(betas):
    assert kept(betas, str(betas.steps)) == kept(betas, f"ddim{betas.steps}") == list(range(betas.steps))[::-1]


@pytest.mark.parametrize("count", [2, 3, 25, 100, 250, 999])
def test_adm_respaced_by_a_number_keeps_both_ends_and_spreads_evenly(count):
    steps = kept(LADDERS[0], str(count))
    assert len(steps) == count
    assert (steps[0], steps[-1]) == (999, 0)
    for i, step in enumerate(reversed(steps)):
        assert abs(step - i * 999 / (count - 1)) <= 0.5 + 1e-9


def test_adm_respaced_has_the_steps_of_adm():
    """Worked out by hand, and the ten of the published code's own test run."""
    assert kept(LADDERS[0], "10") == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]
    assert kept(LADDERS[0], "3") == [999, 500, 0]  # 499.5 is rounded to even
    assert kept(LADDERS[0], "1") == [0]
    # 20 strides of 49.95 summed up: the tenth lies below 499.5 by rounding.
    assert kept(LADDERS[0], "21")[10] == 499


@pytest.mark.parametrize("count", [1000, 500, 250, 200, 125, 100, 50, 40, 25, 20, 10, 8, 5, 4, 2])
def test_adm_respaced_by_ddim_strides_from_the_clean_end(count):
    assert kept(LADDERS[0], f"ddim{count}") == [i * (1000 // count) for i in range(count)][::-1]


def test_adm_respaced_by_ddim_takes_the_smallest_stride_that_fits():
    assert kept(LADDERS[0], "ddim3") == [668, 334, 0]


def test_adm_respaced_in_sections_from_the_clean_end():
    """Of 37 steps in three sections the first has 13, the others 12."""
    assert kept(LADDERS[2], "3,2,4") == [36, 32, 29, 25, 24, 13, 12, 6, 0]
    assert kept(LADDERS[0], "10,15,20,5")[-10:] == [249, 221, 194, 166, 138, 111, 83, 55, 28, 0]


@pytest.mark.parametrize("respacing", ["1000", "ddim25", "10"])
def test_a_learned_variance_on_a_respaced_grid_lies_between_the_respaced_betas(respacing):
    """ADM's SpacedDiffusion: β' = 1 − ᾱ_i/ᾱ_{i−1} of the kept steps, and f is the network's at the same level.

    ln Σ = f·ln β' + (1 − f)·ln β̃',  β̃' = β'·(1 − ᾱ_{i−1})/(1 − ᾱ_i)
    """
    ladder = DiscreteBetas("linear", 1000)
    grid = adm_respaced(ladder, respacing)[:-1]
    kept = ladder.step(grid).round().long()
    cumulative = (1 - ladder.betas.double()).cumprod(0)[kept]
    fraction = lambda log_snr: 0.3 + 0.02 * log_snr  # noqa: E731
    told = lambda x_t, log_snr, condition: Posterior(  # noqa: E731
        0 * x_t, variance_fraction=fraction(log_snr)[:, None].expand_as(x_t)
    )
    x = torch.zeros(1, 1, dtype=torch.float64)
    one = lambda step, draw=0: torch.ones_like(x)  # noqa: E731
    for i in (0, 1, len(grid) - 2):
        noisy, clean = cumulative[i], cumulative[i + 1]
        beta = 1 - noisy / clean
        large, small = beta.log(), (beta * (1 - clean) / (1 - noisy)).log()
        f = fraction(grid[i])
        want = (f * large + (1 - f) * small).exp()
        made = Ancestral("learned")(told, x, grid[i : i + 2], Condition(), one)
        assert made.square().item() == pytest.approx(want.item(), rel=1e-6)


def test_adm_respaced_takes_a_number_for_its_text():
    assert torch.equal(adm_respaced(LADDERS[0], 25), adm_respaced(LADDERS[0], "25"))
    assert len(adm_respaced(LADDERS[0])) == 251


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
        (lambda: karras(10**9), "at most 100000 steps, not 1000000000"),
        (lambda: uniform_t(CosineSchedule(), 10**9), "at most 100000 steps, not 1000000000"),
        (lambda: uniform_log_snr(-1.0, 1.0, 10**9), "at most 100000 steps, not 1000000000"),
        (lambda: adm_respaced(DiscreteBetas(), "0"), "like 250"),
        (lambda: adm_respaced(DiscreteBetas(), "ddim"), "like 250"),
        (lambda: adm_respaced(DiscreteBetas(), "dim25"), "like 250"),
        (lambda: adm_respaced(DiscreteBetas(), "10,-5"), "like 250"),
        (lambda: adm_respaced(DiscreteBetas(), "ddim10,5"), "like 250"),
        (lambda: adm_respaced(DiscreteBetas(), "ddim999"), "no whole stride gives 999 of 1000"),
        (lambda: adm_respaced(DiscreteBetas(), "1001"), "no 1001 steps in a section of 1000"),
        (lambda: adm_respaced(DiscreteBetas(), "400,600"), "no 600 steps in a section of 500"),
        (lambda: adm_respaced(CosineSchedule(), "10"), "discrete_betas, not of CosineSchedule"),
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
