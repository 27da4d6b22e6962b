"""Where the solvers ask: how often, at which levels, with which noise; and that what they ask may be thresholded."""

import math
from collections import Counter

import pytest
import torch

from cascade.diffusion import Condition, CosineSchedule
from cascade.diffusion.oracle import GaussianDenoiser
from cascade.rng import randn
from cascade.sampling import (
    DDIM,
    Ancestral,
    DPMSolver,
    DPMSolverPP,
    DPMSolverPPSingle,
    Heun,
    SDEDPMSolverPP,
    StaticThreshold,
    karras,
    uniform_log_snr,
    uniform_t,
)

F64 = torch.float64
N = 5
GRIDS = {
    "uniform_t": uniform_t(CosineSchedule(), N),
    "karras": karras(N),
    "finite": uniform_log_snr(-9.0, 9.0, N + 1)[:-1],
    "uneven": torch.tensor([-7.0, -6.5, -3.0, -2.9, 0.4, math.inf], dtype=F64),
}
# Sampler → network calls in a step, further calls in all (where there is more than a step to +inf), draws in a step.
ASKS = {
    Ancestral(): (1, 0, 1),
    DDIM(0.0): (1, 0, 0),
    DDIM(0.5): (1, 0, 1),
    DPMSolver(1): (1, 0, 0),
    DPMSolver(2): (2, 0, 0),
    DPMSolver(3): (3, 0, 0),
    DPMSolverPP(1): (1, 0, 0),
    DPMSolverPP(2): (1, 0, 0),
    DPMSolverPP(3): (1, 1, 0),
    DPMSolverPP(3, published=True): (1, 0, 0),
    DPMSolverPPSingle(1): (1, 0, 0),
    DPMSolverPPSingle(2): (2, 0, 0),
    DPMSolverPPSingle(3): (3, 0, 0),
    SDEDPMSolverPP(1, 0.0): (1, 0, 0),
    SDEDPMSolverPP(2, 1.0): (1, 0, 1),
    Heun(): (2, 0, 0),
    Heun(s_churn=1.0): (2, 0, 1),
}
each_sampler = pytest.mark.parametrize("sampler", ASKS, ids=str)
on_grids = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())


class Watched:
    """A denoiser of one picture that remembers the levels it was asked at, and a source of noise that counts."""

    def __init__(self):
        self.levels, self.draws = [], Counter()
        self.oracle = GaussianDenoiser(torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))

    def __call__(self, x_t, log_snr, condition):
        assert x_t.isfinite().all()
        self.levels.append(log_snr.item())
        return self.oracle(x_t, log_snr, condition)

    def noise(self, step, draw=0):
        self.draws[step] += 1
        return randn("noise", step, draw, shape=(1, 2)).to(F64)


def walked(sampler, grid):
    watched = Watched()
    sampler(watched, torch.ones(1, 2, dtype=F64), grid, Condition(), watched.noise)
    return watched


@each_sampler
@on_grids
def test_network_calls_and_draws_are_counted(sampler, grid):
    calls, further, draws = ASKS[sampler]
    watched = walked(sampler, grid)
    to_clean = grid[-1].item() == math.inf
    assert len(watched.levels) == calls * (N - to_clean) + to_clean + further
    noisy = N if isinstance(sampler, Heun) else N - to_clean  # churn comes before a step, also before the last
    assert dict(watched.draws) == (dict.fromkeys(range(noisy), draws) if draws else {})


@each_sampler
def test_one_step_to_the_clean_picture_is_one_call(sampler):
    assert len(walked(sampler, torch.tensor([-2.0, math.inf], dtype=F64)).levels) == 1


@each_sampler
@on_grids
def test_levels_stay_inside_the_grid_and_are_never_infinite(sampler, grid):
    """But for churn, which goes to a noisier level on purpose. Every level of the grid but the last is asked at."""
    levels = walked(sampler, grid).levels
    assert all(math.isfinite(level) for level in levels)
    if sampler == Heun(s_churn=1.0):
        return
    assert min(levels) == grid[0]
    assert max(levels) <= grid[-1]
    assert levels == sorted(levels)
    assert set(grid[:-1].tolist()) <= set(levels)


@pytest.mark.parametrize("sampler", [DPMSolver(2), DPMSolverPPSingle(2)], ids=str)
def test_a_step_of_order_2_asks_in_its_middle(sampler):
    grid = torch.tensor([-4.0, 2.0, 3.0], dtype=F64)
    assert walked(sampler, grid).levels == [-4.0, -1.0, 2.0, 2.5]


@pytest.mark.parametrize("sampler", [DPMSolver(3), DPMSolverPPSingle(3)], ids=str)
def test_a_step_of_order_3_asks_at_its_thirds(sampler):
    grid = torch.tensor([-4.0, 2.0, math.inf], dtype=F64)
    assert walked(sampler, grid).levels == pytest.approx([-4.0, -2.0, 0.0, 2.0])


@each_sampler
@on_grids
def test_thresholding_works_inside_every_call(sampler, grid):
    """A point outside [−1, 1], thresholded, is the nearest point inside: in every call, with ε̂ derived again."""
    outside, inside = torch.tensor([3.0, -0.4, -1.7], dtype=F64), torch.tensor([1.0, -0.4, -1.0], dtype=F64)
    start = randn("start", shape=(2, 3)).to(F64)

    def sample(denoiser):
        return sampler(denoiser, start, grid, Condition(), lambda step, draw=0: randn(step, shape=(2, 3)).to(F64))

    point = lambda mean: GaussianDenoiser(mean, torch.zeros(3, 3, dtype=F64))  # noqa: E731
    got, want = sample(StaticThreshold(point(outside))), sample(point(inside))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    if grid[-1] == math.inf:
        torch.testing.assert_close(want, inside.expand(2, 3), rtol=0, atol=0)
