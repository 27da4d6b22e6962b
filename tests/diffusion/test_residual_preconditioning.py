"""Residual preconditionings: x0-prediction and EDM of what the upsampled low-res picture lacks."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cascade.diffusion import (
    Condition,
    EDMPreconditioning,
    EDMResidualPreconditioning,
    ResidualPreconditioning,
    alpha_sigma,
    diffuse,
)
from cascade.errors import CascadeError

LEVELS = pytest.mark.parametrize("level", [-20.0, 0.0, 5.0, 20.0])
AUG_LEVELS = pytest.mark.parametrize("aug_level", [0.0, 3.0, math.inf])


class Network(nn.Module):
    """Answers with `function(x)`, and remembers what it was shown."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, log_snr, label=None, low_res=None, aug_log_snr=None, augment=None):
        self.shown = x
        return self.function(x)


def per_image(value, count=2):
    return torch.full((count,), value, dtype=torch.float64)


def conditioned(normal, aug_level):
    """A condition, and α_a·↑y."""
    low_res = normal(2, 3, 4, 4, name="low")
    alpha_a = math.sqrt(1 / (1 + math.exp(-aug_level)))
    up = torch.nn.functional.interpolate(low_res, scale_factor=2, mode="bicubic")
    return Condition(low_res=low_res, aug_log_snr=per_image(aug_level)), alpha_a * up


@LEVELS
@AUG_LEVELS
def test_residual_is_x0_around_the_upsampled_low_res(level, aug_level, normal):
    """x̂ = α_a·↑y + F: with F the rest of x the mean is x, and with F = 0 the best linear estimate, upsampled."""
    x, (condition, origin) = normal(2, 3, 8, 8), conditioned(normal, aug_level)
    exact = ResidualPreconditioning(Network(lambda x_t: x - origin))
    assert_close(exact(normal(2, 3, 8, 8, name="x_t"), per_image(level), condition).mean, x)
    untrained = ResidualPreconditioning(Network(torch.zeros_like))
    assert_close(untrained(x, per_image(level), condition).mean, origin)


@LEVELS
@AUG_LEVELS
def test_edm_residual_is_edm_of_the_residual(level, aug_level, normal):
    """x̂ − α_a·↑y is what EDM at s = √(σ_d² + σ_a²) says of r_t = α·r + σ·ε."""
    x, eps = normal(2, 3, 8, 8), normal(2, 3, 8, 8, name="eps")
    condition, origin = conditioned(normal, aug_level)
    scale = math.sqrt(0.3**2 + 1 / (1 + math.exp(aug_level)))
    log_snr = per_image(level)
    around = EDMResidualPreconditioning(Network(torch.tanh), sigma_data=0.3)
    plain = EDMPreconditioning(Network(torch.tanh), sigma_data=scale)
    mean = around(diffuse(x, eps, log_snr), log_snr, condition).mean
    assert_close(mean, origin + plain(diffuse(x - origin, eps, log_snr), log_snr, Condition()).mean)


@LEVELS
@AUG_LEVELS
def test_edm_residual_shows_the_network_unit_variance(level, aug_level, normal):
    """A residual of variance s² = σ_d² + σ_a² comes to the network with variance 1, at every level."""
    eps, unit = normal(2, 3, 8, 8, name="eps"), normal(2, 3, 8, 8)
    condition, origin = conditioned(normal, aug_level)
    variance = 0.3**2 + 1 / (1 + math.exp(aug_level))
    network = Network(torch.zeros_like)
    denoiser = EDMResidualPreconditioning(network, sigma_data=0.3)
    denoiser(diffuse(origin + variance**0.5 * unit, eps, per_image(level)), per_image(level), condition)
    alpha, sigma = (float(c) for c in alpha_sigma(level))
    norm = math.sqrt(sigma**2 + alpha**2 * variance)
    assert_close(network.shown, (alpha * variance**0.5 * unit + sigma * eps) / norm, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", [ResidualPreconditioning, EDMResidualPreconditioning])
def test_a_residual_needs_a_low_res_picture(kind, normal):
    with pytest.raises(CascadeError, match="needs low_res"):
        kind(Network(torch.zeros_like))(normal(2, 3, 8, 8), per_image(0.0), Condition())
