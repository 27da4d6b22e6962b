"""Gaussian data, and the exact output of a sampler on them."""

import math

import pytest
import torch

from cascade.diffusion import Condition
from cascade.rng import randn

F64 = torch.float64


def _gaussian(dim, name="data"):
    """Mean, eigenvalues and eigenvectors of Gaussian data."""
    basis, _ = torch.linalg.qr(randn(name, dim, shape=(dim, dim)).to(F64))
    mean = randn(name, "mean", dim, shape=(dim,)).to(F64)
    values = (randn(name, "values", dim, shape=(dim,)).to(F64) * 1.5).exp()
    return mean, values, basis


def _output_moments(sampler, denoiser, grid, dim, start_mean, start_root):
    """Mean and covariance of the output for x ~ N(start_mean, root rootᵀ), read from the affine map itself."""
    steps = len(grid) - 1
    rows = 1 + dim + steps * dim
    x = start_mean.expand(rows, dim).clone()
    x[1 : 1 + dim] += start_root.mT

    def impulses(step, draw=0):
        assert draw == 0
        z = torch.zeros(rows, dim, dtype=F64)
        z[1 + dim * (step + 1) : 1 + dim * (step + 2)] = torch.eye(dim, dtype=F64)
        return z

    out = sampler(denoiser, x, grid, Condition(), impulses)
    columns = out[1:] - out[0]
    return out[0], columns.mT @ columns


def _levels(grid):
    for log_snr in grid.tolist():
        yield (
            (1.0, 0.0)
            if log_snr == math.inf
            else (
                math.sqrt(1 / (1 + math.exp(-log_snr))),
                math.sqrt(1 / (1 + math.exp(log_snr))),
            )
        )


@pytest.fixture(scope="session")
def gaussian():
    return _gaussian


@pytest.fixture(scope="session")
def output_moments():
    return _output_moments


@pytest.fixture(scope="session")
def levels():
    return _levels
