"""Schedules: inverses, ends, slopes, what one becomes by a change, and the values of the papers."""

import math

import pytest
import torch
from torch.testing import assert_close

from cascade.diffusion import (
    CosineSchedule,
    DiscreteBetas,
    InterpolatedSchedule,
    LinearBetaSchedule,
    LinearLogSNRSchedule,
    LogNormalSchedule,
    ShiftedSchedule,
    SigmoidSchedule,
    TruncatedSchedule,
    shifted_to,
)
from cascade.errors import CascadeError
from cascade.registry import build

SCHEDULES = [
    CosineSchedule(),
    CosineSchedule(-8.0, 14.0),
    CosineSchedule(2.0, 9.0),
    LinearBetaSchedule(),
    LinearBetaSchedule(0.3, 0.3, log_snr_max=12.0),
    ShiftedSchedule(CosineSchedule(), 2 * math.log(64 / 256)),
    ShiftedSchedule(LinearBetaSchedule(), 1.5),
    DiscreteBetas("linear", 1000),
    DiscreteBetas("cosine", 50),
    SigmoidSchedule(),
    SigmoidSchedule(0.0, 3.0, 0.3),
    SigmoidSchedule(-3.0, 3.0, 1.1, -9.0, 13.0),
    SigmoidSchedule(-3.0, 3.0, 0.9, 3.0, 8.0),
    SigmoidSchedule(-2.0, 1.0, 0.1, -12.0, -1.0),
    LinearLogSNRSchedule(),
    LinearLogSNRSchedule(-3.0, 11.0),
    LogNormalSchedule(),
    LogNormalSchedule(-0.4, 1.0, -6.0, 12.0),
    shifted_to(SigmoidSchedule(), 1024),
    InterpolatedSchedule(CosineSchedule(), 256),
    InterpolatedSchedule(LinearBetaSchedule(), 64, noisy_at=16, clean_at=1024),
    InterpolatedSchedule(SigmoidSchedule(), 64, noisy_at=48, clean_at=48),
    TruncatedSchedule(CosineSchedule(), -6.0, 10.0),
    TruncatedSchedule(LinearBetaSchedule(), -4.0, 20.0),
    TruncatedSchedule(InterpolatedSchedule(CosineSchedule(), 512), -8.0, 8.0),
]
each = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


def exact(actual, expected, tolerance=1e-12):
    assert_close(actual, torch.as_tensor(expected, dtype=torch.float64), rtol=tolerance, atol=tolerance)


@each
def test_t_is_the_inverse_of_log_snr(schedule):
    t = torch.linspace(0, 1, 997, dtype=torch.float64)
    log_snr = schedule.log_snr(t)
    exact(schedule.t(log_snr), t, 1e-11)
    exact(schedule.log_snr(schedule.t(log_snr)), log_snr, 1e-9)


@each
def test_a_schedule_falls_from_its_largest_to_its_smallest_log_snr(schedule):
    log_snr = schedule.log_snr(torch.linspace(0, 1, 501, dtype=torch.float64))
    assert bool((log_snr.diff() < 0).all())
    exact(log_snr[[0, -1]], [schedule.log_snr_max, schedule.log_snr_min], 1e-13)
    beyond = torch.tensor([schedule.log_snr_max + 3, schedule.log_snr_min - 3], dtype=torch.float64)
    exact(schedule.t(beyond), [0.0, 1.0])


@each
def test_log_slope_is_the_logarithm_of_the_inverses_derivative(schedule):
    log_snr = schedule.log_snr(torch.linspace(0.013, 0.987, 77, dtype=torch.float64)).requires_grad_()
    (slope,) = torch.autograd.grad(schedule.t(log_snr).sum(), log_snr)
    exact(schedule.log_slope(log_snr.detach()).exp(), slope.abs(), 1e-10)


@each
def test_tensors_keep_their_dtype_and_numbers_are_float64(schedule):
    single = schedule.log_snr(torch.tensor([0.25, 0.9]))
    assert single.dtype == torch.float32
    assert schedule.t(single).dtype == torch.float32
    assert schedule.log_slope(single).dtype == torch.float32
    assert schedule.log_snr(0.25).dtype == torch.float64
    assert float(schedule.t(float(schedule.log_snr(0.25)))) == pytest.approx(0.25, abs=1e-11)
    exact(single.double(), schedule.log_snr(torch.tensor([0.25, 0.9]).double()), 1e-5)


def test_cosine_ends_at_plus_and_minus_twenty_and_is_antisymmetric():
    schedule = CosineSchedule()
    t = torch.arange(0, 1025, dtype=torch.float64) / 1024
    log_snr = schedule.log_snr(t)
    assert log_snr[0] == 20.0
    assert log_snr[-1] == -20.0
    assert abs(float(log_snr[512])) < 1e-15
    exact(log_snr, -log_snr.flip(0), 1e-14)
    # The noisy half is as accurate as the clean one, where one ulp of π/2 alone would cost 10⁻¹¹.
    small = 2.0 ** -torch.arange(1, 30, dtype=torch.float64)
    exact(schedule.log_snr(1 - small), -schedule.log_snr(small), 1e-14)
    end = math.atan(math.exp(-10))
    angles = [(math.pi / 2 - 2 * end) * t + end for t in small.tolist()]
    exact(schedule.log_snr(small), [-2 * math.log(math.tan(angle)) for angle in angles], 1e-14)


def test_cosine_is_the_cosine_of_the_paper_when_hardly_truncated():
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    alpha_squared = CosineSchedule(-70, 70).log_snr(t).sigmoid()
    exact(alpha_squared, (math.pi * t / 2).cos().square(), 1e-13)


def test_cosine_truncated_is_linear_in_the_angle():
    schedule = CosineSchedule(-6.0, 10.0)
    angle = (-schedule.log_snr(torch.linspace(0, 1, 33, dtype=torch.float64)) / 2).exp().atan()
    exact(angle.diff(), [float(angle[-1] - angle[0]) / 32] * 32, 1e-13)
    exact(angle[[0, -1]].tan(), [math.exp(-5), math.exp(3)], 1e-13)


def test_linear_beta_is_the_integral_of_beta(integrate):
    schedule = LinearBetaSchedule(beta_min=0.1, beta_max=20.0)
    for t in (1e-6, 1e-3, 0.1, 0.5, 0.9, 1.0):
        integral = integrate(lambda s: 0.1 + s * (20 - 0.1), 0, t, panels=4)
        alpha_squared, sigma_squared = math.exp(-integral), -math.expm1(-integral)
        assert float(schedule.log_snr(t)) == pytest.approx(math.log(alpha_squared / sigma_squared), rel=1e-12)


def test_the_betas_of_the_paper_are_the_defaults():
    assert float(LinearBetaSchedule().log_snr(1.0)) == pytest.approx(-math.log(math.expm1((0.1 + 20) / 2)), rel=1e-12)


def test_linear_beta_is_cut_where_the_integral_is_smallest():
    schedule = LinearBetaSchedule()
    assert float(schedule.log_snr(0.0)) == 20
    assert float(schedule.log_snr(schedule.t_min * 1.001)) < 20
    assert float(schedule.log_snr(schedule.t_min * 0.999)) == 20
    assert schedule.t_min == pytest.approx(math.exp(-20) / 0.1, rel=1e-6)


def test_shift_is_additive_in_log_snr():
    base = CosineSchedule()
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    exact(ShiftedSchedule(base, -2.5).log_snr(t), base.log_snr(t) - 2.5)
    exact(ShiftedSchedule(ShiftedSchedule(base, -2.5), 1.0).log_snr(t), base.log_snr(t) - 1.5)
    # Simple diffusion: at d pixels, the shift divides the signal-to-noise ratio by (d/64)².
    wide = ShiftedSchedule(base, 2 * math.log(64 / 256)).log_snr(t).exp()
    exact(wide * 16, base.log_snr(t).exp(), 1e-11)


@pytest.mark.parametrize(
    ("start", "end", "tau"), [(-3.0, 3.0, 1.0), (0.0, 3.0, 0.5), (-3.0, 3.0, 0.9), (-1.0, 2.0, 0.3)]
)
def test_sigmoid_is_the_papers_gamma_on_a_piece_of_its_time(start, end, tau):
    # Chen 2023, algorithm 1: γ(t) = (S(end/τ) − S((t(end − start) + start)/τ))/(S(end/τ) − S(start/τ)), γ = α².
    schedule = SigmoidSchedule(start, end, tau, -9.0, 13.0)

    def gamma(t):
        first, last, here = (
            1 / (1 + torch.exp(-torch.as_tensor(z / tau, dtype=torch.float64)))
            for z in (start, end, t * (end - start) + start)
        )
        return (last - here) / (last - first)

    time = torch.linspace(0, 1, 200_001, dtype=torch.float64)[1:-1]
    level = gamma(time).log() - (1 - gamma(time)).log()
    inside = (level > -9) & (level < 13)
    t = schedule.t(level[inside])
    exact(schedule.log_snr(t), level[inside], 1e-8)
    # The paper's time, stretched: equal distances stay equal.
    exact((t - t[0]) / (t[-1] - t[0]), (time[inside] - time[inside][0]) / (time[inside][-1] - time[inside][0]), 1e-8)


def test_sigmoids_defaults_are_the_papers_and_a_large_tau_makes_alpha_squared_linear():
    assert SigmoidSchedule() == SigmoidSchedule(-3.0, 3.0, 1.0)
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    exact(SigmoidSchedule(tau=1e3, log_snr_min=-60, log_snr_max=60).log_snr(t).sigmoid(), 1 - t, 1e-5)
    # By hand at t = ½, where the argument is start + ½(end − start) = 1.5 at τ = 0.5: z = 3.
    half = 1 / (1 + math.exp(-3))
    last, first = 1 / (1 + math.exp(-6)), 0.5
    gamma = (last - half) / (last - first)
    value = SigmoidSchedule(0.0, 3.0, 0.5, -60, 60).log_snr(0.5)
    exact(value, math.log(gamma / (1 - gamma)), 1e-10)


def test_linear_log_snr_is_linear():
    schedule = LinearLogSNRSchedule(-3.0, 11.0)
    exact(schedule.log_snr(torch.tensor([0, 0.25, 1], dtype=torch.float64)), [11, 7.5, -3])
    assert LinearLogSNRSchedule() == LinearLogSNRSchedule(-20.0, 20.0)


def test_the_ends_move_with_a_shift_and_a_truncation_brings_them_back():
    """Additive at the ends too; cut to [−20, 20] it is the same schedule in less time, and the same noise, given λ."""
    for shift in (2 * math.log(64 / 256), 1.5):
        moved = ShiftedSchedule(CosineSchedule(), shift)
        exact(moved.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)), [20 + shift, shift - 20])
        low, high = max(-20.0, moved.log_snr_min), min(20.0, moved.log_snr_max)
        cut = TruncatedSchedule(moved, low, high)
        exact(cut.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)), [high, low])
        log_snr = torch.linspace(low + 0.1, high - 0.1, 50, dtype=torch.float64)
        ratio = cut.log_slope(log_snr) - moved.log_slope(log_snr)
        exact(ratio, ratio[:1].expand(50), 1e-10)
        exact(ratio[0].exp() * (moved.t(low) - moved.t(high)), 1.0, 1e-10)
    ends = InterpolatedSchedule(CosineSchedule(), 1024, noisy_at=32, clean_at=256)
    exact(ends.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)), [20 - 4 * math.log(2), -20 - 10 * math.log(2)])


@pytest.mark.parametrize(
    ("resolution", "shift"), [(32, 1.3862943611), (64, 0.0), (256, -2.7725887222), (1024, -5.5451774445)]
)
def test_shifted_to_a_resolution_is_two_ln_64_over_d(resolution, shift):
    schedule = shifted_to(CosineSchedule(), resolution)
    assert schedule == ShiftedSchedule(CosineSchedule(), schedule.shift)
    assert schedule.shift == pytest.approx(shift, abs=1e-9)
    named = build("schedule", {"name": "shifted_to", "base": {"name": "cosine"}, "resolution": resolution})
    assert named == schedule
    # Block means of 64 pixels a side: noise falls by the size of the block, so their SNR is the base's at 64 pixels.
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    exact(schedule.log_snr(t) + math.log((resolution / 64) ** 2), CosineSchedule().log_snr(t), 1e-11)


def test_interpolated_goes_from_the_large_pictures_shift_to_the_small_ones():
    base = CosineSchedule()
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    schedule = InterpolatedSchedule(base, resolution=512)
    assert schedule == InterpolatedSchedule(base, 512, noisy_at=32, clean_at=256)
    # Hoogeboom et al. 2023, section 3.1: t·logSNR_shift32(t) + (1 − t)·logSNR_shift256(t).
    low, high = (ShiftedSchedule(base, 2 * math.log(at / 512)).log_snr(t) for at in (32, 256))
    exact(schedule.log_snr(t), t * low + (1 - t) * high, 1e-11)
    alike = InterpolatedSchedule(base, 512, noisy_at=64, clean_at=64)
    exact(alike.log_snr(t), shifted_to(base, 512).log_snr(t), 1e-12)
    inside = alike.log_snr(t)
    exact(alike.log_slope(inside), shifted_to(base, 512).log_slope(inside), 1e-9)


def test_a_truncated_schedule_is_the_base_in_less_time():
    base, t = CosineSchedule(), torch.linspace(0, 1, 101, dtype=torch.float64)
    cut = TruncatedSchedule(base, -6.0, 10.0)
    exact(cut.log_snr(t), CosineSchedule(-6.0, 10.0).log_snr(t), 1e-12)
    for whole in (base, LinearBetaSchedule(), SigmoidSchedule(), InterpolatedSchedule(base, 256)):
        same = TruncatedSchedule(whole, whole.log_snr_min, whole.log_snr_max)
        exact(same.log_snr(t[1:]), whole.log_snr((1 - t[1:]) * whole.t_min + t[1:]), 1e-9)
        twice = TruncatedSchedule(TruncatedSchedule(whole, -9.0, 9.0), -4.0, 5.0)
        exact(twice.log_snr(t), TruncatedSchedule(whole, -4.0, 5.0).log_snr(t), 1e-9)
    moved = ShiftedSchedule(TruncatedSchedule(base, -6.0, 10.0), 1.5)
    exact(moved.log_snr(t), TruncatedSchedule(ShiftedSchedule(base, 1.5), -4.5, 11.5).log_snr(t), 1e-11)


@pytest.mark.parametrize(
    "base", [CosineSchedule(), LinearBetaSchedule(), SigmoidSchedule(), LogNormalSchedule()], ids=repr
)
def test_a_shift_is_additive_whatever_the_schedule(base):
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    for shift in (-2.5, 1.0):
        moved = ShiftedSchedule(base, shift)
        exact(moved.log_snr(t), base.log_snr(t) + shift, 1e-12)
        exact(moved.t(base.log_snr(t) + shift), base.t(base.log_snr(t)), 1e-9)


def cumulative_products(betas):
    product, products = 1.0, []
    for beta in betas.tolist():
        product *= 1 - beta
        products.append(product)
    return torch.tensor(products, dtype=torch.float64)


@pytest.mark.parametrize(("kind", "steps"), [("linear", 1000), ("cosine", 1000), ("cosine", 50), ("linear", 100)])
def test_the_table_is_the_log_snr_of_the_cumulative_product(kind, steps):
    ladder = DiscreteBetas(kind, steps)
    product = cumulative_products(ladder.betas)
    assert len(product) == steps
    exact(ladder.log_snrs, (product / (1 - product)).log(), 1e-10)
    assert bool((ladder.log_snrs.diff() < 0).all())


def test_linear_betas_are_ddpms():
    ladder = DiscreteBetas("linear")
    assert ladder.steps == 1000
    exact(ladder.betas[[0, 333, 999]], [1e-4, 1e-4 + 333 * (0.02 - 1e-4) / 999, 0.02], 1e-14)
    # Shorter ladders keep the integral of β: ᾱ_T hardly moves.
    assert DiscreteBetas("linear", 4000).log_snr_min == pytest.approx(ladder.log_snr_min, abs=0.1)
    assert cumulative_products(ladder.betas)[-1] == pytest.approx(4.0358e-5, rel=1e-4)


def test_cosine_betas_telescope_to_the_cosine_and_are_clipped():
    ladder = DiscreteBetas("cosine", 1000)
    t = torch.arange(1001, dtype=torch.float64) / 1000
    curve = ((t + 0.008) / 1.008 * math.pi / 2).cos().square()
    exact(cumulative_products(ladder.betas)[:-1], (curve / curve[0])[1:-1], 1e-12)
    assert float(ladder.betas[-1]) == 0.999


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_step_of_a_table_level_is_its_index_and_others_are_interpolated(kind):
    ladder = DiscreteBetas(kind, 1000)
    index = torch.arange(1000, dtype=torch.float64)
    assert torch.equal(ladder.step(ladder.log_snrs), index)
    assert torch.equal(ladder.step(ladder.log_snrs.float()), index.float())
    assert torch.equal(ladder.step(ladder.log_snrs + 0.9e-5), index)
    assert not bool((ladder.step(ladder.log_snrs[1:] + 1.05e-5) == index[1:]).any())
    middle = ladder.log_snrs[:-1] * 0.75 + ladder.log_snrs[1:] * 0.25
    exact(ladder.step(middle), index[:-1] + 0.25, 1e-10)
    exact(ladder.step(torch.tensor([30.0, -30.0], dtype=torch.float64)), [0.0, 999.0])
    assert float(ladder.log_snr(1.4)) == ladder.log_snr_min


def test_the_largest_possible_numbers_are_not_refused():
    assert LinearBetaSchedule(0.1, 59.9).log_snr_min == pytest.approx(-30, abs=1e-9)
    assert bool(DiscreteBetas("linear", 21).log_snrs.isfinite().all())
    assert bool(DiscreteBetas("cosine", 2).log_snrs.isfinite().all())


@pytest.mark.parametrize(
    "make",
    [
        lambda: CosineSchedule(5.0, 5.0),
        lambda: CosineSchedule(-20.0, math.inf),
        lambda: CosineSchedule(math.nan, 20.0),
        lambda: LinearBetaSchedule(0.0, 20.0),
        lambda: LinearBetaSchedule(2.0, 1.0),
        lambda: LinearBetaSchedule(0.1, 60.0),
        lambda: LinearBetaSchedule(log_snr_max=-11.0),
        lambda: ShiftedSchedule(CosineSchedule(), math.inf),
        lambda: DiscreteBetas("quadratic", 1000),
        lambda: DiscreteBetas("linear", 20),
        lambda: DiscreteBetas("cosine", 1),
        lambda: DiscreteBetas("cosine", 10**9),
        lambda: SigmoidSchedule(3.0, -3.0),
        lambda: SigmoidSchedule(tau=0.0),
        lambda: SigmoidSchedule(tau=0.01),
        lambda: SigmoidSchedule(end=math.inf),
        lambda: SigmoidSchedule(log_snr_min=20.0),
        lambda: LinearLogSNRSchedule(1.0, 1.0),
        lambda: LogNormalSchedule(p_std=0.0),
        lambda: shifted_to(CosineSchedule(), 0),
        lambda: InterpolatedSchedule(CosineSchedule(), 256, noisy_at=64, clean_at=32),
        lambda: InterpolatedSchedule(CosineSchedule(), 0),
        lambda: TruncatedSchedule(CosineSchedule(), 2.0, 2.0),
        lambda: TruncatedSchedule(CosineSchedule(-8.0, 8.0), -9.0, 2.0),
        lambda: TruncatedSchedule(CosineSchedule(-8.0, 8.0), -2.0, 9.0),
    ],
)
def test_impossible_numbers_are_refused_in_one_line(make):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        make()


def test_the_registry_builds_schedules_of_schedules():
    cosine = {"name": "cosine"}
    config = {
        "name": "interpolated",
        "resolution": 64,
        "base": {"name": "truncated", "base": cosine, "log_snr_min": -9.0},
    }
    config["base"]["log_snr_max"] = 9.0
    assert build("schedule", config) == InterpolatedSchedule(TruncatedSchedule(CosineSchedule(), -9.0, 9.0), 64)
    assert build("schedule", {"name": "discrete_betas", "kind": "cosine"}) == DiscreteBetas("cosine")
    with pytest.raises(CascadeError, match="resolutions are at least 1"):
        build("schedule", {"name": "shifted_to", "base": cosine, "resolution": -4})
