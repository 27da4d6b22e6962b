"""What samplers are compared on: one nonlinear denoiser, one picture of noise and one noise for each step, in float64.

The other implementations are no dependency of the project: `make parity` installs them and runs these tests, which are
skipped where they are not. Nothing of theirs is rewritten here; their networks are our denoiser in their currency.
"""

import math

import pytest
import torch

from cascade.diffusion import Condition, Posterior, alpha_sigma
from cascade.diffusion.oracle import MixtureDenoiser
from cascade.rng import randn

SHAPE = (2, 3, 2, 2)
F64 = torch.float64


@pytest.fixture(scope="session")
def denoiser():
    """An exact mixture of two Gaussians over pictures of 12 numbers; some of its means lie outside [−1, 1]."""
    dim = math.prod(SHAPE[1:])
    means = 0.9 * randn("means", shape=(2, dim)).to(F64)
    roots = 0.2 * randn("roots", shape=(2, dim, dim)).to(F64)
    return MixtureDenoiser(torch.tensor([0.3, 0.7]), means, roots @ roots.mT)


@pytest.fixture(scope="session")
def noise():
    """noise(step): step −1 is what sampling starts from, at σ = 1."""

    def of_step(step, draw=0):
        assert draw == 0
        return randn("noise", step, shape=SHAPE).to(F64)

    return of_step


@pytest.fixture(scope="session")
def sample(denoiser, noise):
    """sample(sampler, grid, wrap): from σ(λ0)·ε, with `wrap(denoiser)` for a denoiser."""

    def run(sampler, grid, wrap=lambda denoiser: denoiser):
        x = alpha_sigma(grid[0])[1] * noise(-1)
        return sampler(wrap(denoiser), x, grid, Condition(), noise)

    return run


@pytest.fixture(scope="session")
def with_fraction(denoiser):
    """The denoiser, with a variance fraction that depends on the picture."""

    def fractional(x_t, log_snr, condition):
        return Posterior(denoiser(x_t, log_snr, condition).mean, variance_fraction=torch.sigmoid(x_t))

    return fractional


@pytest.fixture
def agree(request):
    """agree(got, want, atol): the largest difference is at most `atol`; `make parity` prints it."""

    def check(got, want, atol):
        assert got.shape == want.shape == SHAPE
        assert got.isfinite().all()
        difference = (got - want).abs().max().item()
        request.node.user_properties.append(("difference", difference))
        assert difference <= atol

    return check


def pytest_terminal_summary(terminalreporter, config):
    """Where these tests alone are run, print the largest difference of each."""
    if not all("parity" in argument for argument in config.args):
        return
    largest = {}
    for report in terminalreporter.getreports("passed"):
        name = report.nodeid.split("::")[-1].split("[")[0]
        for _, difference in report.user_properties:
            largest[name] = max(difference, largest.get(name, 0.0))
    terminalreporter.section("largest differences")
    for name, difference in largest.items():
        terminalreporter.write_line(f"{difference:.0e}  {name.removeprefix('test_').replace('_', ' ')}")
