"""p(λ): quantile function and density belong together."""

import math
from statistics import NormalDist

import pytest
import torch
from torch.testing import assert_close

from cascade.diffusion import (
    CosineSchedule,
    DiscreteBetas,
    InterpolatedSchedule,
    LinearBetaSchedule,
    LinearLogSNRSchedule,
    LogNormalNoise,
    LogNormalSchedule,
    ScheduleNoise,
    ShiftedSchedule,
    SigmoidSchedule,
    TruncatedSchedule,
)

NOISES = [
    ScheduleNoise(CosineSchedule()),
    ScheduleNoise(CosineSchedule(-5.0, 12.0)),
    ScheduleNoise(LinearBetaSchedule()),
    ScheduleNoise(LinearBetaSchedule(log_snr_max=4.0)),
    ScheduleNoise(ShiftedSchedule(CosineSchedule(), -2.8)),
    ScheduleNoise(DiscreteBetas("linear", 1000)),
    LogNormalNoise(),
    LogNormalNoise(-0.4, 1.0),
    LogNormalNoise(0.0, 3.0, -4.0, 6.0),
    ScheduleNoise(SigmoidSchedule()),
    ScheduleNoise(SigmoidSchedule(0.0, 3.0, 0.4, -5.0, 12.0)),
    ScheduleNoise(LinearLogSNRSchedule(-7.0, 11.0)),
    ScheduleNoise(LogNormalSchedule(-0.4, 1.0)),
    ScheduleNoise(InterpolatedSchedule(CosineSchedule(), 256)),
    ScheduleNoise(TruncatedSchedule(LinearBetaSchedule(), -8.0, 8.0)),
]
each = pytest.mark.parametrize("noise", NOISES, ids=repr)
SMOOTH = [noise for noise in NOISES if "Discrete" not in repr(noise)]


def ends(noise):
    return [float(noise.icdf(u)) for u in (0.0, 1.0)]


@pytest.mark.parametrize("noise", SMOOTH, ids=repr)
def test_density_integrates_to_one(noise, integrate):
    assert integrate(lambda level: noise.log_density(level).exp(), *ends(noise)) == pytest.approx(1, abs=1e-10)


def test_density_of_a_ladder_gives_every_gap_the_same_mass():
    ladder = DiscreteBetas("linear", 1000)
    middle = (ladder.log_snrs[1:] + ladder.log_snrs[:-1]) / 2
    mass = ScheduleNoise(ladder).log_density(middle).exp() * -ladder.log_snrs.diff()
    assert_close(mass, torch.full_like(mass, 1 / 999), rtol=1e-10, atol=0)


@each
def test_derivative_of_the_quantile_function_is_one_over_the_density(noise):
    u = torch.linspace(0.0031, 0.9969, 101, dtype=torch.float64, requires_grad=True)
    level = noise.icdf(u)
    (slope,) = torch.autograd.grad(level.sum(), u)
    assert bool((slope > 0).all())
    assert_close(slope * noise.log_density(level.detach()).exp(), torch.ones_like(u), rtol=1e-9, atol=0)


@pytest.mark.parametrize("noise", SMOOTH, ids=repr)
def test_mass_below_a_quantile_is_its_number(noise, integrate):
    low, _ = ends(noise)
    for u in (0.01, 0.3, 0.5, 0.95):
        mass = integrate(lambda level: noise.log_density(level).exp(), low, float(noise.icdf(u)))
        assert mass == pytest.approx(u, abs=1e-10)


def test_log_normal_is_cut_at_plus_and_minus_twenty_unless_told_otherwise():
    assert ends(LogNormalNoise()) == pytest.approx([-20, 20], abs=1e-10)
    assert ends(LogNormalNoise(-1.0, 1.0, -3.0, 5.0)) == pytest.approx([-3, 5], abs=1e-10)
    LogNormalNoise(p_mean=-9.9)


@each
def test_levels_are_finite_and_inside_for_every_uniform_number(noise):
    # torch.rand gives 0, and 1 − 2⁻²⁴, about once in ten million draws: less than an hour of training.
    low, high = ends(noise)
    for dtype in (torch.float32, torch.float64):
        level = noise.icdf(torch.tensor([0.0, 2**-24, 1 - 2**-24, 1.0], dtype=dtype))
        assert level.dtype == dtype
        assert bool(level.isfinite().all())
        assert bool(noise.log_density(level).isfinite().all())
    outside = torch.tensor([low - 0.1, high + 0.1])
    assert bool((noise.log_density(outside) == -math.inf).all())


def test_cosine_density_is_the_hyperbolic_secant():
    # Kingma & Gao (2023), table 1: sech(λ/2)/2π on the whole line; the cut at ±20 restores the missing 1.2·10⁻⁴.
    level = torch.linspace(-20, 20, 201, dtype=torch.float64)
    whole = 1 / (2 * math.pi * (level / 2).cosh())
    missing = 4 * math.atan(math.exp(-10)) / math.pi
    assert_close(ScheduleNoise(CosineSchedule()).log_density(level).exp(), whole / (1 - missing), rtol=1e-12, atol=0)


@pytest.mark.parametrize("numbers", [(), (-0.4, 1.0), (0.0, 3.0, -4.0, 6.0)])
def test_the_log_normal_schedule_has_the_log_normal_noise(numbers):
    noise, schedule = LogNormalNoise(*numbers), LogNormalSchedule(*numbers)
    assert schedule.log_snr_min, schedule.log_snr_max == (noise.log_snr_min, noise.log_snr_max)
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert_close(ScheduleNoise(schedule).icdf(u)[1:-1], noise.icdf(u)[1:-1], rtol=1e-10, atol=1e-10)
    level = torch.linspace(-22, 22, 89, dtype=torch.float64)
    assert_close(ScheduleNoise(schedule).log_density(level), noise.log_density(level), rtol=1e-12, atol=0)
    # Unlike the quantile function, the schedule keeps its digits at the clean end too.
    small = torch.tensor([1e-14, 1e-9], dtype=torch.float64)
    assert_close(LogNormalSchedule().t(LogNormalSchedule().log_snr(small)), small, rtol=1e-2, atol=0)


def test_a_truncated_schedules_noise_is_the_bases_between_the_ends(integrate):
    whole, cut = ScheduleNoise(CosineSchedule()), ScheduleNoise(TruncatedSchedule(CosineSchedule(), -3.0, 5.0))
    mass = integrate(lambda level: whole.log_density(level).exp(), -3.0, 5.0)
    level = torch.linspace(-2.9, 4.9, 40, dtype=torch.float64)
    assert_close(cut.log_density(level).exp(), whole.log_density(level).exp() / mass, rtol=1e-10, atol=0)


def test_log_normal_is_edms_distribution_of_sigma():
    noise = LogNormalNoise(p_mean=-1.2, p_std=1.2)
    for z in (-2.0, -1.0, 0.0, 0.5, 3.0):
        log_sigma = -noise.icdf(NormalDist().cdf(-z)) / 2
        assert float(log_sigma) == pytest.approx(-1.2 + 1.2 * z, abs=1e-9)
    level = torch.linspace(-10, 12, 45, dtype=torch.float64)
    assert noise == LogNormalNoise()
    mean = torch.tensor(2.4, dtype=torch.float64)
    density = torch.distributions.Normal(mean, mean).log_prob(level)
    assert_close(noise.log_density(level), density, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LogNormalNoise(p_std=0.0),
        lambda: LogNormalNoise(p_std=math.nan),
        lambda: LogNormalNoise(p_mean=10.0),
        lambda: LogNormalNoise(p_mean=-10.0),
        lambda: LogNormalNoise(p_mean=-1.0, log_snr_max=1.9),
        lambda: LogNormalNoise(log_snr_min=3.0, log_snr_max=2.0),
    ],
)
def test_impossible_numbers_are_refused_in_one_line(make):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        make()
