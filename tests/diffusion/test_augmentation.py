"""Conditioning augmentation: variance preserving, the identity at +inf, and never outside the trained range."""

import math

import pytest
import torch
from torch.testing import assert_close

from cascade.diffusion import GaussianAugmentation, NoAugmentation
from cascade.errors import CascadeError
from cascade.registry import build

TRAINED = GaussianAugmentation(-2.0, 6.0, default=3.0)
WITH_CLEAN = GaussianAugmentation(-2.0, 6.0, default=math.inf, include_clean=0.25)


def test_noise_preserves_the_variance_and_has_its_log_snr():
    low, zero = torch.ones(3, 3, 2, 2, dtype=torch.float64), torch.zeros(3, 3, 2, 2, dtype=torch.float64)
    level = torch.tensor([-2.0, 1.0, 6.0], dtype=torch.float64)
    signal, noise = TRAINED.apply(low, level, zero), TRAINED.apply(zero, level, low)
    assert_close(signal.square() + noise.square(), low, rtol=1e-14, atol=0)
    assert_close((signal / noise).square()[:, 0, 0, 0].log(), level, rtol=1e-13, atol=1e-13)


def test_noise_is_added_with_its_sign():
    low, eps = torch.full((1, 3, 2, 2), 0.3), torch.full((1, 3, 2, 2), -1.0)
    level = math.log(0.64 / 0.36)  # α = 0.8, σ = 0.6
    assert_close(TRAINED.apply(low, torch.tensor([level]), eps), 0.8 * low + 0.6 * eps)


def test_clean_is_the_identity_bit_for_bit_and_only_for_its_images():
    low, eps = torch.randn(3, 3, 4, 4), torch.randn(3, 3, 4, 4)
    low[0, 0, 0, 0] = -0.0
    eps[0, 0, 0, 1] = math.nan  # noise that is not wanted is not even looked at
    level = torch.tensor([math.inf, 2.0, math.inf])
    noisy = TRAINED.apply(low, level, eps)
    for i in (0, 2):
        assert torch.equal(noisy[i].view(torch.int32), low[i].view(torch.int32))
    assert not torch.equal(noisy[1], low[1])
    assert NoAugmentation().apply(low, torch.full((3,), math.inf), eps) is low


def test_levels_are_uniform_over_the_trained_range():
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    level = TRAINED.level(u)
    assert_close(level, -2 + 8 * u, rtol=1e-14, atol=1e-14)
    TRAINED.check(level)
    TRAINED.check(GaussianAugmentation(-0.1, 5.3, 1.7).level(torch.tensor([0.0, 1.0])).clamp(-0.1, 5.3))
    assert bool((NoAugmentation().level(u) == math.inf).all())


def test_clean_images_take_their_share_and_the_rest_covers_the_range():
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    level = WITH_CLEAN.level(u)
    clean = level == math.inf
    assert int(clean.sum()) == 250
    assert_close(level[~clean], -2 + 8 * (torch.arange(750, dtype=torch.float64) + 0.5) / 750, rtol=1e-12, atol=1e-12)
    only_clean = GaussianAugmentation(-2.0, 6.0, default=math.inf, include_clean=1.0)
    assert bool((only_clean.level(u) == math.inf).all())
    WITH_CLEAN.check(level)


@pytest.mark.parametrize("level", [-2.001, 6.001, math.inf, -math.inf, math.nan])
def test_a_level_that_was_not_trained_is_an_error_that_names_the_range(level):
    with pytest.raises(CascadeError, match=r"choose a log-SNR from -2 to 6: 347 to 6.3 levels of 255$"):
        TRAINED.check(level)
    with pytest.raises(CascadeError, match=f"level {level:g} "):
        TRAINED.check(torch.tensor([0.0, level, 3.0]))


def test_clean_may_be_asked_for_only_where_it_was_trained():
    WITH_CLEAN.check(math.inf)
    NoAugmentation().check(torch.tensor([math.inf, math.inf]))
    with pytest.raises(CascadeError, match=r"from -2 to 6, or inf \(clean\): 347 to 6.3 levels of 255$"):
        WITH_CLEAN.check(7.0)
    with pytest.raises(CascadeError, match="without augmentation"):
        NoAugmentation().check(torch.tensor([math.inf, 3.0]))


@pytest.mark.parametrize("end", [-0.1, 5.3])
def test_the_ends_of_the_range_are_inside_in_float32_too(end):
    augmentation = GaussianAugmentation(-0.1, 5.3, default=end)
    augmentation.check(end)
    augmentation.check(torch.tensor([end]))
    augmentation.check(augmentation.level(torch.tensor([0.0, 1.0])))


def test_default_is_the_level_of_sampling_and_must_be_trained():
    assert (TRAINED.default, WITH_CLEAN.default, NoAugmentation().default) == (3.0, math.inf, math.inf)
    config = {"name": "gaussian", "log_snr_min": -2.0, "log_snr_max": 6.0, "default": 9.0}
    with pytest.raises(CascadeError, match="augmentation 'gaussian': default: augmentation level 9 was not trained"):
        build("augmentation", config)


@pytest.mark.parametrize(
    "wrong",
    [
        {"log_snr_min": 6.0},
        {"blur_probability": 1.5},
        {"include_clean": -0.1},
        {"blur_sigma_min": 0.7},
        {"blur_sigma_min": 0.0},
    ],
)
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GaussianAugmentation(**{"log_snr_min": -2.0, "log_snr_max": 6.0, "default": 3.0, **wrong})


def test_blur_is_drawn_for_its_share_of_the_images():
    augmentation = GaussianAugmentation(-2.0, 6.0, 3.0, blur_probability=0.5)
    u_sigma = torch.tensor([0.0, 0.5, 1.0, 0.3])
    sigma = augmentation.blur_sigma(torch.tensor([0.0, 0.2, 0.49, 0.5]), u_sigma)
    assert_close(sigma, torch.tensor([0.4, 0.5, 0.6, 0.0]))
    assert float(TRAINED.blur_sigma(torch.zeros(4), u_sigma).abs().max()) == 0


def test_blur_is_a_gaussian_for_each_image_and_zero_leaves_it_alone():
    impulse = torch.zeros(3, 3, 7, 7, dtype=torch.float64)
    impulse[:, :, 3, 3] = 1
    blurred = TRAINED.blur(impulse, torch.tensor([0.4, 0.0, 0.6], dtype=torch.float64))
    assert torch.equal(blurred[1], impulse[1])
    for i, sigma in ((0, 0.4), (2, 0.6)):
        beside, corner = blurred[i, 0, 3, 4] / blurred[i, 0, 3, 3], blurred[i, 0, 4, 4] / blurred[i, 0, 3, 3]
        assert float(beside) == pytest.approx(math.exp(-1 / (2 * sigma**2)), rel=1e-9)
        assert float(corner) == pytest.approx(math.exp(-2 / (2 * sigma**2)), rel=1e-9)
        assert float(blurred[i, 0].sum()) == pytest.approx(1, rel=1e-12)
        assert float(blurred[i, 0, 2:5, 2:5].sum()) == pytest.approx(1, rel=1e-12)
    flat = torch.full((3, 3, 5, 5), 0.3)
    assert_close(TRAINED.blur(flat, torch.tensor([0.4, 0.5, 0.6])), flat)
    low = torch.rand(2, 3, 4, 4)
    assert TRAINED.blur(low, torch.zeros(2)) is low
    assert NoAugmentation().blur(low, NoAugmentation().blur_sigma(torch.rand(2), torch.rand(2))) is low
