"""Where a sampler's output should have the data's own moments, it has them exactly, or falls short as it must."""

import math

import pytest
import torch

from cascade.diffusion import Condition
from cascade.diffusion.oracle import GaussianDenoiser
from cascade.sampling import Ancestral, Heun, uniform_log_snr

F64 = torch.float64
IRREGULAR = torch.tensor([-7.0, -6.5, -3.0, -2.9, 0.4, 2.0, 6.0, 6.1], dtype=F64)


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("grid", [uniform_log_snr(-9.0, 9.0, n)[:-1] for n in (2, 3, 9)] + [IRREGULAR], ids=len)
def test_optimal_variance_gives_exactly_the_data(grid, dim, gaussian, levels, output_moments):
    """From the exact marginal at λ0, the output is the exact marginal at the last level, at any number of steps."""
    mean, values, basis = gaussian(dim)
    covariance = basis @ values.diag() @ basis.mT
    points = list(levels(grid))

    def marginal(alpha, sigma):
        return alpha * mean, alpha**2 * covariance + sigma**2 * torch.eye(dim, dtype=F64)

    start_mean, start_covariance = marginal(*points[0])
    start_root = torch.linalg.cholesky(start_covariance)
    oracle = GaussianDenoiser(mean, covariance)
    got_mean, got_covariance = output_moments(Ancestral("optimal"), oracle, grid, dim, start_mean, start_root)
    want_mean, want_covariance = marginal(*points[-1])
    torch.testing.assert_close(got_mean, want_mean, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(got_covariance, want_covariance, rtol=1e-11, atol=1e-11)


def test_optimal_noise_is_scaled_by_the_symmetric_root(gaussian):
    mean, values, basis = gaussian(3)
    oracle = GaussianDenoiser(mean, basis @ values.diag() @ basis.mT)
    grid = torch.tensor([-1.0, 2.0], dtype=F64)

    def sample(z):
        return Ancestral("optimal")(oracle, torch.zeros(3, 3, dtype=F64), grid, Condition(), lambda step, draw=0: z)

    root = sample(torch.eye(3, dtype=F64)) - sample(torch.zeros(3, 3, dtype=F64))
    torch.testing.assert_close(root, root.mT, rtol=1e-12, atol=1e-12)
    assert (torch.linalg.eigvalsh(root) > 0).all()


def test_small_variance_gives_too_little_and_tends_to_the_data(output_moments):
    oracle = GaussianDenoiser(torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64))
    zero, one = torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64)
    grids = [uniform_log_snr(-12.0, 12.0, n + 1)[:-1] for n in (5, 20, 160, 320)]
    variances = [output_moments(Ancestral("small"), oracle, grid, 1, zero, one)[1].item() for grid in grids]
    gaps = [1 - variance for variance in variances]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.2
    assert gaps[-1] > 0
    assert gaps[-2] / gaps[-1] == pytest.approx(2, rel=0.05)


def test_churn_keeps_the_marginal(gaussian, levels, output_moments):
    """A churned step from the marginal at λ is an unchurned one from the marginal at λ̂ = λ − 2 ln(1+γ)."""
    mean, values, basis = gaussian(3)
    covariance = basis @ values.diag() @ basis.mT
    oracle = GaussianDenoiser(mean, covariance)
    gamma = 0.25
    grid = torch.tensor([-1.0, 2.0], dtype=F64)
    louder = torch.tensor([-1.0 - 2 * math.log(1 + gamma), 2.0], dtype=F64)

    def from_marginal(sampler, grid):
        alpha, sigma = next(levels(grid))
        root = torch.linalg.cholesky(alpha**2 * covariance + sigma**2 * torch.eye(3, dtype=F64))
        return output_moments(sampler, oracle, grid, 3, alpha * mean, root)

    churned, plain = from_marginal(Heun(s_churn=gamma), grid), from_marginal(Heun(), louder)
    torch.testing.assert_close(churned, plain, rtol=1e-12, atol=1e-12)
