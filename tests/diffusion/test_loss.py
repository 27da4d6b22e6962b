"""The loss is ratio·‖ε − ε̂‖², a mean over C·H·W, and for an exact denoiser the trace of the posterior covariance."""

import math

import pytest
import torch
from torch.testing import assert_close

from cascade.diffusion import (
    Condition,
    EpsPreconditioning,
    GaussianDenoiser,
    LogNormalNoise,
    MinSNRWeighting,
    Posterior,
    SigmoidWeighting,
    UnitWeighting,
    VPreconditioning,
    alpha_sigma,
    diffuse,
    diffusion_loss,
    eps_from_mean,
)

LEVELS = torch.tensor([-8.0, -1.0, 0.0, 2.5, 9.0], dtype=torch.float64)
WEIGHTINGS = [UnitWeighting(), MinSNRWeighting(LogNormalNoise()), SigmoidWeighting(LogNormalNoise(), -1.0)]


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=lambda w: type(w).__name__)
def test_loss_is_the_weighted_mean_square_of_the_noise_error(weighting, normal):
    x, eps, mean = normal(5, 3, 4, 4), normal(5, 3, 4, 4, name="eps"), normal(5, 3, 4, 4, name="mean")
    loss = diffusion_loss(lambda *_: Posterior(mean), x, LEVELS, eps, Condition(), weighting)
    error = eps - eps_from_mean(diffuse(x, eps, LEVELS), mean, LEVELS)
    expected = weighting.log_ratio(LEVELS).exp() * error.square().sum((1, 2, 3)) / (3 * 4 * 4)
    assert_close(loss, expected, rtol=1e-10, atol=0)


def test_unit_weight_on_eps_prediction_is_ddpms_simple_loss(normal):
    x, eps, answer = normal(5, 3, 4, 4), normal(5, 3, 4, 4, name="eps"), normal(5, 3, 4, 4, name="F")
    denoiser = EpsPreconditioning(lambda *_, **__: answer)
    loss = diffusion_loss(denoiser, x, LEVELS, eps, Condition(), UnitWeighting())
    assert_close(loss, (eps - answer).square().mean((1, 2, 3)), rtol=1e-10, atol=0)


def test_a_squared_error_of_v_is_one_plus_inverse_snr_of_the_noise_error(normal):
    # The "SNR + 1" of progressive distillation, on x̂; 1 + e^{−λ} on ε̂.
    x, eps, answer = normal(5, 6), normal(5, 6, name="eps"), normal(5, 6, name="F")
    alpha, sigma = (c[:, None] for c in alpha_sigma(LEVELS))
    on_v = (alpha * eps - sigma * x - answer).square().mean(1)
    loss = diffusion_loss(VPreconditioning(lambda *_, **__: answer), x, LEVELS, eps, Condition(), UnitWeighting())
    assert_close((1 + (-LEVELS).exp()) * loss, on_v, rtol=1e-9, atol=0)


def test_expected_loss_of_an_exact_denoiser_is_the_trace_of_its_covariance(normal):
    # For zero-mean Gaussian data the loss is a quadratic form of (x, ε), so its expectation is the sum over the columns
    # of the two square roots of their covariances: no Monte Carlo.
    size = 4
    root = normal(size, size)
    covariance = root @ root.T
    oracle = GaussianDenoiser(torch.zeros(size, dtype=torch.float64), covariance)
    zero, unit = torch.zeros(size, size, dtype=torch.float64), torch.eye(size, dtype=torch.float64)
    x, eps = torch.cat([root.T, zero]), torch.cat([zero, unit])
    for level in (-6.0, 0.0, 5.0):
        log_snr = torch.full((2 * size,), level, dtype=torch.float64)
        expected_loss = diffusion_loss(oracle, x, log_snr, eps, Condition(), UnitWeighting()).sum()
        trace = torch.trace(oracle(x[:1], log_snr[:1], Condition()).covariance[0])
        assert float(expected_loss) == pytest.approx(math.exp(level) * float(trace) / size, rel=1e-10)


def test_loss_is_differentiable_and_the_exact_denoiser_is_its_minimum(normal):
    # Scaling the oracle's deviation from the prior mean by anything but 1 costs.
    covariance = torch.diag(torch.tensor([2.0, 0.3], dtype=torch.float64))
    oracle = GaussianDenoiser(torch.zeros(2, dtype=torch.float64), covariance)
    zero, unit = torch.zeros(2, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    x, eps = torch.cat([covariance.sqrt(), zero]), torch.cat([zero, unit])
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)

    def scaled(x_t, log_snr, condition):
        return Posterior(scale * oracle(x_t, log_snr, condition).mean)

    log_snr = torch.full((4,), 0.6, dtype=torch.float64)
    loss = diffusion_loss(scaled, x, log_snr, eps, Condition(), UnitWeighting()).sum()
    (slope,) = torch.autograd.grad(loss, scale)
    assert abs(float(slope)) < 1e-12


def test_learned_uncertainty_is_smallest_at_the_logarithm_of_the_loss(normal):
    x, eps, mean = normal(5, 6), normal(5, 6, name="eps"), normal(5, 6, name="mean")

    def loss(log_uncertainty):
        denoiser = lambda *_: Posterior(mean, log_uncertainty=log_uncertainty)  # noqa: E731
        return diffusion_loss(denoiser, x, LEVELS, eps, Condition(), UnitWeighting())

    plain = loss(None)
    assert_close(loss(torch.zeros_like(LEVELS)), plain)
    assert_close(loss(plain.log()), 1 + plain.log(), rtol=1e-12, atol=1e-12)
    assert bool((loss(plain.log() + 0.1) > loss(plain.log())).all())
    assert bool((loss(plain.log() - 0.1) > loss(plain.log())).all())


def test_half_precision_images_have_a_float32_loss(normal):
    x, eps = normal(2, 6).bfloat16(), normal(2, 6, name="eps").bfloat16()
    denoiser = EpsPreconditioning(lambda x, *_, **__: torch.zeros_like(x))
    loss = diffusion_loss(denoiser, x, torch.tensor([0.0, 3.0]), eps, Condition(), UnitWeighting())
    assert loss.dtype == torch.float32
    assert_close(loss, eps.float().square().mean(1), rtol=1e-2, atol=0)
