"""A denoiser owns no schedule: sampled along any of them, it converges to the same picture."""

import pytest
import torch

from cascade.diffusion import (
    Condition,
    CosineSchedule,
    DiscreteBetas,
    InterpolatedSchedule,
    LinearBetaSchedule,
    LinearLogSNRSchedule,
    LogNormalSchedule,
    MixtureDenoiser,
    SigmoidSchedule,
    TruncatedSchedule,
    alpha_sigma,
    shifted_to,
)
from cascade.rng import randn
from cascade.sampling import DDIM, DPMSolverPP, uniform_t

F64 = torch.float64
# EDM's log-normal is too narrow for the whole interval to be its own: between its last quantiles lie long steps.
SCHEDULES = {
    "cosine": CosineSchedule(),
    "linear beta": LinearBetaSchedule(),
    "discrete betas": DiscreteBetas("linear", 1000),
    "sigmoid": SigmoidSchedule(tau=0.9),
    "linear log-SNR": LinearLogSNRSchedule(),
    "log-normal": LogNormalSchedule(p_mean=-0.8, p_std=1.6),
    "shifted": shifted_to(CosineSchedule(), 256),
    "interpolated": InterpolatedSchedule(CosineSchedule(), 256),
}
MIXTURE = MixtureDenoiser(
    torch.tensor([0.3, 0.7], dtype=F64),
    torch.tensor([[-1.0, 0.4], [0.8, 0.1]], dtype=F64),
    torch.stack([torch.eye(2, dtype=F64) * 0.1, torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=F64)]),
)
NOISE = randn("start", shape=(8, 2)).double()
START, END = -5.0, 5.0


def along(schedule, steps):
    """DPM-Solver++(2M) at equal distances in the schedule's time, from START to END."""
    grid = TruncatedSchedule(schedule, START, END).log_snr(torch.linspace(1, 0, steps + 1, dtype=F64))
    return DPMSolverPP(2)(MIXTURE, alpha_sigma(START)[1] * NOISE, grid, Condition(), lambda step, draw=0: NOISE)


@pytest.fixture(scope="module")
def picture():
    """The flow's end, by steps so short and of such an order that their error is below 10⁻⁸."""
    grid = torch.linspace(START, END, 1601, dtype=F64)
    return DPMSolverPP(3)(MIXTURE, alpha_sigma(START)[1] * NOISE, grid, Condition(), lambda step, draw=0: NOISE)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_picture_along_any_schedule_is_approached_with_the_samplers_order(name, picture):
    few, many = (float((along(SCHEDULES[name], n) - picture).abs().max()) for n in (80, 160))
    assert many < 3e-3
    assert 3.5 < few / many < 5.1


def test_whole_grids_from_noise_to_the_clean_picture_come_together():
    def spread(steps):
        ends = []
        for schedule in SCHEDULES.values():
            grid = uniform_t(schedule, steps)
            x = alpha_sigma(float(grid[0]))[1] * NOISE
            ends.append(DDIM()(MIXTURE, x, grid, Condition(), lambda step, draw=0: NOISE))
        return float((torch.stack(ends) - ends[0]).abs().max())

    apart = [spread(steps) for steps in (20, 60, 180)]
    assert apart[0] > 2 * apart[1] > 4 * apart[2]
    assert apart[2] < 0.06
