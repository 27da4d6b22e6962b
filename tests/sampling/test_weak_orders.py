"""Weak orders: how fast the distribution of a stochastic sampler's output tends to the data's, without Monte Carlo.

With a Gaussian oracle the output's moments are read from the affine map of its noise. From the exact marginal at λ0 the
reverse SDE ends, for every η, in the exact marginal at λN.
"""

import math

import pytest
import torch

from cascade.diffusion import Condition, alpha_sigma
from cascade.diffusion.oracle import GaussianDenoiser
from cascade.sampling import DDIM, Ancestral, SDEDPMSolverPP, karras, uniform_log_snr

F64 = torch.float64
START, END = -4.0, 5.0
VALUES = torch.tensor([0.3, 1.5], dtype=F64)
ORDERS = [
    *((SDEDPMSolverPP(1, eta), 1) for eta in (0.3, 1.0, 2.0)),
    *((SDEDPMSolverPP(2, eta), 2) for eta in (0.3, 1.0, 2.0)),
    (DDIM(0.5), 1),
    (DDIM(1.0), 1),
    (Ancestral("large"), 1),
]


def uniform(n):
    return uniform_log_snr(START, END, n + 1)[:-1]


def uneven(n):
    return karras(n + 1, rho=3.0, sigma_min=math.exp(-END / 2), sigma_max=math.exp(-START / 2))[:-1]


def excess(sampler, grid):
    """The output's variance less the data's at the last level, for each eigenvalue; its mean is asserted."""
    steps = len(grid) - 1
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(grid[0]), alpha_sigma(grid[-1])
    mean = torch.full((2,), 0.7, dtype=F64)
    # A row without noise, one for the start's noise, and one for that of each step; the coordinates do not mix.
    x = (alpha_t * mean).repeat(2 + steps, 1)
    x[1] += (alpha_t**2 * VALUES + sigma_t**2).sqrt()

    def impulses(step, draw=0):
        z = torch.zeros(2 + steps, 2, dtype=F64)
        z[2 + step] = 1
        return z

    out = sampler(GaussianDenoiser(mean, VALUES.diag()), x, grid, Condition(), impulses)
    torch.testing.assert_close(out[0], alpha_s * mean, rtol=1e-12, atol=1e-12)
    return (out[1:] - out[0]).square().sum(0) - (alpha_s**2 * VALUES + sigma_s**2)


@pytest.mark.parametrize("grid", [uniform, uneven])
@pytest.mark.parametrize(("sampler", "order"), ORDERS, ids=str)
def test_weak_order(sampler, order, grid):
    ratio = (excess(sampler, grid(80)) / excess(sampler, grid(240))).abs()
    torch.testing.assert_close(ratio.log() / math.log(3), torch.full((2,), float(order), dtype=F64), rtol=0, atol=0.1)


@pytest.mark.parametrize("grid", [uniform, uneven])
def test_the_second_order_is_worth_it(grid):
    """At 40 steps its variance is wrong by less than a fifth of the first order's error."""
    first, second = (excess(SDEDPMSolverPP(order, 1.0), grid(40)).abs() for order in (1, 2))
    assert (second < first / 5).all()
