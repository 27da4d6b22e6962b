"""The clock: variance is preserved, and mean, ε, v and score are the same thing in four currencies."""

import math

import pytest
import torch
from torch.testing import assert_close

from cascade.diffusion import alpha_sigma, diffuse, eps_from_mean, score_from_mean, v_from_mean
from cascade.diffusion.log_snr import per_image

LEVELS = torch.linspace(-20, 20, 81, dtype=torch.float64)


def exact(actual, expected, tolerance=1e-12):
    assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_alpha_and_sigma_preserve_variance_and_have_the_log_snr():
    alpha, sigma = alpha_sigma(LEVELS)
    exact(alpha.square() + sigma.square(), torch.ones_like(LEVELS), 1e-15)
    exact(2 * (alpha.log() - sigma.log()), LEVELS, 1e-13)
    assert float(alpha_sigma(math.log(3))[0]) == pytest.approx(math.sqrt(0.75), rel=1e-15)


def test_float32_keeps_its_relative_accuracy_at_both_ends():
    # √(1 − α²) has no digit left at λ = 20 in float32.
    for value, reference in zip(alpha_sigma(LEVELS.float()), alpha_sigma(LEVELS), strict=True):
        assert float((value.double() / reference - 1).abs().max()) < 1e-6


def test_a_plain_number_is_told_in_the_precision_of_the_picture():
    # 0.1 read as float32 would be off by 1e-9 in float64, and an ODE's error would stop falling there.
    assert per_image(0.1, torch.zeros(2, 1, dtype=torch.float64)).tolist() == [0.1, 0.1]
    assert per_image(0.1, torch.zeros(2, 1, dtype=torch.bfloat16)).dtype == torch.float32


def test_infinite_log_snr_is_exactly_clean_or_pure_noise(normal):
    x, eps = normal(2, 5), normal(2, 5, name="eps")
    assert torch.equal(diffuse(x, eps, torch.tensor([math.inf, -math.inf])), torch.stack([x[0], eps[1]]))


@pytest.mark.parametrize("level", [-20.0, -7.0, 0.0, 3.0, 12.0])
def test_eps_v_and_score_of_the_true_image_are_the_true_ones(level, normal):
    x, eps = normal(3, 2, 4, 4), normal(3, 2, 4, 4, name="eps")
    log_snr = torch.full((3,), level, dtype=torch.float64)
    alpha, sigma = math.sqrt(1 / (1 + math.exp(-level))), math.sqrt(1 / (1 + math.exp(level)))
    x_t = diffuse(x, eps, log_snr)
    exact(x_t, alpha * x + sigma * eps)
    exact(eps_from_mean(x_t, x, log_snr), eps, 1e-11)
    exact(v_from_mean(x_t, x, log_snr), alpha * eps - sigma * x, 1e-11)
    exact(score_from_mean(x_t, x, log_snr), -eps / sigma, 1e-11)


@pytest.mark.parametrize("level", [-15.0, -1.0, 0.0, 6.0])
def test_an_image_comes_back_from_eps_and_from_v(level, normal):
    mean, x_t = normal(2, 7), normal(2, 7, name="x_t")
    log_snr = torch.tensor([level, level / 2], dtype=torch.float64)
    alpha, sigma = (c[:, None] for c in alpha_sigma(log_snr))
    eps, v = eps_from_mean(x_t, mean, log_snr), v_from_mean(x_t, mean, log_snr)
    exact(alpha * x_t - sigma * v, mean)
    exact(sigma * x_t + alpha * v, eps, 1e-9)
    exact((x_t - sigma * eps) / alpha, mean, 1e-9)
    exact(score_from_mean(x_t, mean, log_snr), -eps / sigma, 1e-9)


def test_each_image_has_its_own_level_and_a_scalar_is_everybodys(normal):
    x, eps = normal(3, 2, 4, 4), normal(3, 2, 4, 4, name="eps")
    levels = torch.tensor([-3.0, 0.5, 8.0], dtype=torch.float64)
    together = diffuse(x, eps, levels)
    for i, level in enumerate(levels):
        exact(together[i : i + 1], diffuse(x[i : i + 1], eps[i : i + 1], level))
        exact(together[i : i + 1], diffuse(x[i : i + 1], eps[i : i + 1], float(level)))


def test_levels_are_never_half_precision(normal):
    x, eps = normal(2, 4).bfloat16(), normal(2, 4, name="eps").bfloat16()
    assert diffuse(x, eps, torch.zeros(2)).dtype == torch.float32
    assert alpha_sigma(torch.zeros(2, dtype=torch.bfloat16))[0].dtype == torch.float32
    assert diffuse(x.float(), eps.float(), torch.zeros(2, dtype=torch.float64)).dtype == torch.float32
