"""On a Gaussian, Langevin's chains and Euler-Maruyama are affine maps of their noise: their moments are exact.

The map is read with one batch of unit impulses, one for each draw of each step. The recursions are scalar, along the
eigenvectors of the data's covariance; Langevin's live in x/α, the SDE's in its drift and diffusion.
"""

import math
from itertools import pairwise

import pytest
import torch

from cascade.diffusion import Condition
from cascade.diffusion.oracle import GaussianDenoiser
from cascade.rng import randn
from cascade.sampling import AnnealedLangevin, EulerMaruyama, langevin_chain, uniform_log_snr

F64 = torch.float64
LEVELS = [-3.0, 0.0, 2.5]
GRIDS = {
    "to the picture": torch.tensor([-2.0, -1.0, 0.5, 3.0, math.inf], dtype=F64),
    "to a level": torch.tensor([-2.0, -1.0, 0.5, 3.0], dtype=F64),
    "one level": torch.tensor([0.3, math.inf], dtype=F64),
}
on_grids = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())


def scales(log_snr):
    """α, σ and σ_E = σ/α."""
    return 1 / math.sqrt(1 + math.exp(-log_snr)), 1 / math.sqrt(1 + math.exp(log_snr)), math.exp(-log_snr / 2)


@pytest.fixture(params=[1, 3])
def data(request):
    """Mean, eigenvalues and eigenvectors of Gaussian data."""
    dim = request.param
    basis, _ = torch.linalg.qr(randn("basis", dim, shape=(dim, dim)).to(F64))
    return randn("mean", dim, shape=(dim,)).to(F64), randn("values", dim, shape=(dim,)).to(F64).exp(), basis


def oracle(data):
    mean, values, basis = data
    return GaussianDenoiser(mean, basis @ values.diag() @ basis.mT)


def rotated(data, along):
    """The covariance with these variances along the eigenvectors."""
    return data[2] @ torch.as_tensor(along, dtype=F64).diag() @ data[2].mT


def output_moments(run, draws, start_mean, start_covariance):
    """Mean and covariance of run(x, randn) for x ~ N(start_mean, start_covariance); `draws` are its (step, draw)."""
    dim = len(start_mean)
    rows = 1 + dim * (1 + len(draws))
    x = start_mean.expand(rows, dim).clone()
    values, vectors = torch.linalg.eigh(start_covariance)
    x[1 : 1 + dim] += (vectors * values.clamp_min(0).sqrt()).mT
    place = {name: 1 + dim * (1 + i) for i, name in enumerate(draws)}
    asked = []

    def impulses(step, draw=0):
        asked.append((step, draw))
        z = torch.zeros(rows, dim, dtype=F64)
        z[place[step, draw] : place[step, draw] + dim] = torch.eye(dim, dtype=F64)
        return z

    out = run(x, impulses)
    assert asked == draws, "each draw once, in its order"
    columns = out[1:] - out[0]
    return out[0], columns.mT @ columns


def exact(got, want):
    torch.testing.assert_close(got, torch.as_tensor(want, dtype=F64), rtol=1e-11, atol=1e-11)


# Langevin dynamics


@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("log_snr", LEVELS)
def test_the_stationary_variance_is_s2_over_1_minus_eta_over_2_s2(data, log_snr, steps):
    mean, values, _ = data
    alpha, _, noise = scales(log_snr)
    eta = 0.4 * noise**2
    s2 = values + noise**2
    stationary = s2 / (1 - eta / (2 * s2))
    got_mean, got = output_moments(
        lambda x, randn: langevin_chain(oracle(data), x, log_snr, Condition(), randn, steps=steps, step_size=eta),
        [(0, k) for k in range(steps)],
        alpha * mean,
        alpha**2 * rotated(data, stationary),
    )
    exact(got_mean, alpha * mean)
    exact(got, alpha**2 * rotated(data, stationary))


@pytest.mark.parametrize("log_snr", LEVELS)
def test_a_step_from_the_exact_density_adds_eta2_over_s2_to_the_variance(data, log_snr):
    mean, values, _ = data
    alpha, _, noise = scales(log_snr)
    eta = 0.4 * noise**2
    s2 = values + noise**2
    _, got = output_moments(
        lambda x, randn: langevin_chain(oracle(data), x, log_snr, Condition(), randn, steps=1, step_size=eta, index=5),
        [(5, 0)],
        alpha * mean,
        alpha**2 * rotated(data, s2),
    )
    exact(got, alpha**2 * rotated(data, s2 + eta**2 / s2))


def langevin_recursion(m, c, grid, steps, step_size, variance):
    """Mean and variance of x̄ along an eigenvector, and at last of x̂ or x."""
    levels = [level for level in grid.tolist() if level < math.inf]
    bar_mean, bar_variance = 0.0, variance
    last = scales(levels[-1])[2] ** 2
    for level in levels:
        noise = scales(level)[2] ** 2
        eta, s2 = step_size * noise / last, c + noise
        for _ in range(steps):
            bar_mean += eta * (m - bar_mean) / s2
            bar_variance = (1 - eta / s2) ** 2 * bar_variance + 2 * eta
    if len(levels) == len(grid):
        alpha = scales(levels[-1])[0]
        return alpha * bar_mean, alpha**2 * bar_variance
    gain = c / (c + last)
    return m + gain * (bar_mean - m), gain**2 * bar_variance


def annealed(data, grid, sampler, variance=None):
    """Moments of the sampler's output from N(0, σ0² variance)."""
    levels = int(grid.isfinite().sum())
    _, sigma, _ = scales(grid[0].item())
    dim = len(data[0])
    return output_moments(
        lambda x, randn: sampler(oracle(data), x, grid, Condition(), randn),
        [(i, k) for i in range(levels) for k in range(sampler.steps)],
        torch.zeros(dim, dtype=F64),
        sigma**2 * (1.0 if variance is None else variance) * torch.eye(dim, dtype=F64),
    )


@on_grids
@pytest.mark.parametrize("steps", [1, 4])
def test_the_annealed_chain_follows_the_recursion_in_x_over_alpha(data, grid, steps):
    step_size = 0.3 * scales(grid[grid.isfinite()][-1].item())[2] ** 2
    got_mean, got = annealed(data, grid, AnnealedLangevin(steps, step_size))
    start = scales(grid[0].item())[2] ** 2
    along = [
        langevin_recursion(m, c, grid, steps, step_size, start)
        for m, c in zip((data[2].mT @ data[0]).tolist(), data[1].tolist(), strict=True)
    ]
    exact(got_mean, data[2] @ torch.tensor([m for m, _ in along], dtype=F64))
    exact(got, rotated(data, [v for _, v in along]))


@on_grids
def test_many_steps_forget_the_start_and_give_the_last_levels_stationary_density(data, grid):
    mean, values, _ = data
    alpha, _, noise = scales(grid[grid.isfinite()][-1].item())
    eta = 0.5 * noise**2
    s2 = values + noise**2
    stationary = s2 / (1 - eta / (2 * s2))
    # 1 − η/s² to the power 2K lies below 1e-13 along every eigenvector.
    steps = math.ceil(15 * s2.max().item() / eta)
    scale = (values / s2) ** 2 if grid[-1] == math.inf else torch.full_like(s2, alpha**2)
    x = torch.stack([alpha * mean, torch.full_like(mean, 40.0)])

    def silent(step, draw=0):
        return torch.zeros_like(x)

    ends = AnnealedLangevin(steps, eta)(oracle(data), x, grid, Condition(), silent)
    want_mean = mean if grid[-1] == math.inf else alpha * mean
    torch.testing.assert_close(ends, want_mean.expand(2, -1), rtol=0, atol=1e-4)
    # The variances by the recursion, which the chain follows exactly.
    for c, s, k in zip(values.tolist(), stationary.tolist(), scale.tolist(), strict=True):
        _, variance = langevin_recursion(0.0, c, grid, steps, eta, 1e3)
        assert variance == pytest.approx(k * s, rel=1e-9)


# Euler-Maruyama


def em_recursion(m, c, levels, mean, variance):
    """The SDE's own drift σ²(x/2 + score) and diffusion σ, with the exact score of N(αm, α²c + σ²)."""
    for t, s in pairwise(levels):
        alpha, sigma, _ = scales(t)
        total = alpha**2 * c + sigma**2
        slope = sigma**2 * (0.5 - 1 / total)
        mean, variance = (
            mean + (s - t) * (slope * mean + sigma**2 * alpha * m / total),
            (1 + (s - t) * slope) ** 2 * variance + (s - t) * sigma**2,
        )
    return mean, variance


def euler_maruyama(data, grid):
    """Moments at the grid's end from the exact marginal at its start."""
    mean, values, _ = data
    alpha, sigma, _ = scales(grid[0].item())
    return output_moments(
        lambda x, randn: EulerMaruyama()(oracle(data), x, grid, Condition(), randn),
        [(i, 0) for i in range(len(grid) - 1)],
        alpha * mean,
        alpha**2 * rotated(data, values) + sigma**2 * torch.eye(len(mean), dtype=F64),
    )


def test_euler_maruyama_follows_the_recursion_of_the_sde(data):
    grid = torch.tensor([-7.0, -6.5, -5.0, -4.9, -3.4, -2.0, 0.1, 1.1], dtype=F64)
    got_mean, got = euler_maruyama(data, grid)
    alpha, sigma, _ = scales(-7.0)
    along = [
        em_recursion(m, c, grid.tolist(), alpha * m, alpha**2 * c + sigma**2)
        for m, c in zip((data[2].mT @ data[0]).tolist(), data[1].tolist(), strict=True)
    ]
    exact(got_mean, data[2] @ torch.tensor([m for m, _ in along], dtype=F64))
    exact(got, rotated(data, [v for _, v in along]))


def test_the_reverse_sde_has_weak_order_1_and_converges_to_the_marginals(data):
    mean, values, _ = data
    alpha, sigma, _ = scales(5.0)
    want = alpha**2 * rotated(data, values) + sigma**2 * torch.eye(len(mean), dtype=F64)
    errors = {}
    for n in (32, 128):
        got_mean, got = euler_maruyama(data, uniform_log_snr(-4.0, 5.0, n + 1)[:-1])
        errors[n] = [(got_mean - alpha * mean).norm().item(), (got - want).norm().item()]
    for coarse, fine in zip(errors[32], errors[128], strict=True):
        assert fine < 0.1 * want.norm().item()
        assert math.log(coarse / fine) / math.log(4) == pytest.approx(1, abs=0.15)
