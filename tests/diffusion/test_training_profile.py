"""The curves p(λ) and w(λ): p integrates to 1, and w is the weighting's, whatever levels are drawn."""

import pytest
import torch

from cascade.diffusion import CosineSchedule, LinearBetaSchedule, LogNormalNoise, ScheduleNoise
from cascade.diffusion.ladder import LadderNoise
from cascade.diffusion.training_profile import training_profile
from cascade.diffusion.weighting import EDMWeighting, SigmoidWeighting, UnitWeighting

F64 = torch.float64
NOISES = [
    LogNormalNoise(),
    ScheduleNoise(CosineSchedule()),
    ScheduleNoise(LinearBetaSchedule()),
    LadderNoise(levels=40),
]


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
def test_p_is_the_derivative_of_the_distribution_that_icdf_inverts(noise):
    profile = training_profile(noise, UnitWeighting(noise))
    assert profile.total(profile.p) == pytest.approx(1, abs=2e-4)
    u = (torch.arange(20000, dtype=F64) + 0.5) / 20000
    drawn = noise.icdf(u)
    for edge in (-3.0, 0.0, 2.5):
        below = profile.log_snr <= edge
        mass = profile.p[below].sum() if profile.ladder else torch.trapezoid(profile.p[below], profile.log_snr[below])
        assert float(mass) == pytest.approx(float((drawn <= edge).double().mean()), abs=5e-3)


@pytest.mark.parametrize("noise", NOISES[:3], ids=lambda noise: type(noise).__name__)
def test_w_is_the_weightings_own(noise):
    """SiD2's w = sigmoid(b − λ), and on x̂ it is e^b·sigmoid(λ − b), under every noise."""
    profile = training_profile(noise, SigmoidWeighting(noise, bias=-1.0))
    near = profile.log_snr.abs() < 8
    torch.testing.assert_close(profile.w[near], (-1 - profile.log_snr[near]).sigmoid())
    on_x = torch.tensor(-1.0, dtype=F64).exp() * (profile.log_snr[near] + 1).sigmoid()
    torch.testing.assert_close(profile.w_on_x[near], on_x)


def test_w_is_ratio_times_p_and_a_share_totals_one():
    noise = LogNormalNoise(p_mean=-0.8)
    weighting = EDMWeighting(noise, reference=noise)
    profile = training_profile(noise, weighting, points=501)
    assert len(profile.log_snr) == 501
    ratio = 1 + 4 * (-profile.log_snr).exp()
    torch.testing.assert_close(profile.w, ratio * profile.p)
    assert profile.total(profile.w) != pytest.approx(1, abs=0.1)
    for curve in (profile.p, profile.w, profile.w_on_x):
        assert profile.total(profile.share(curve)) == pytest.approx(1)


def test_a_ladder_has_a_probability_for_each_level():
    noise = LadderNoise(levels=4, sigma_min=0.1, sigma_max=10.0, probabilities=(1.0, 2.0, 3.0, 2.0))
    profile = training_profile(noise, UnitWeighting(noise))
    assert profile.ladder
    torch.testing.assert_close(profile.p, torch.tensor([1.0, 2.0, 3.0, 2.0], dtype=F64) / 8)
    torch.testing.assert_close(profile.w, profile.p)
    torch.testing.assert_close(profile.log_snr, noise.log_snrs)
    assert profile.total(profile.p) == pytest.approx(1)
