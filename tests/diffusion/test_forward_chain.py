"""The forward process is a chain: any number of steps one after another are one step."""

import math
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from cascade.diffusion import DiscreteBetas, alpha_sigma, diffuse
from cascade.diffusion.forward import diffuse_further, forward_step

F64 = torch.float64
LEVELS = [math.inf, 12.0, 5.0, 4.99, 0.3, -2.0, -7.0, -20.0]


def test_steps_of_any_grid_make_up_q_of_x_t_given_x():
    # Var[x_t] = f²·Var[x_s] + v, step by step from the picture itself.
    factor, variance = torch.ones((), dtype=F64), torch.zeros((), dtype=F64)
    for s, t in pairwise(LEVELS):
        step, added = forward_step(s, t)
        factor, variance = step * factor, step**2 * variance + added
        alpha, sigma = alpha_sigma(t)
        assert_close(factor, alpha, rtol=1e-12, atol=0)
        assert_close(variance, sigma**2, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("r", "s", "t"), [(8.0, 2.0, -1.0), (math.inf, 0.0, -3.0), (1.0, 1.0, -1.0)])
def test_two_steps_are_one(r, s, t):
    (first, before), (second, after), (whole, both) = forward_step(r, s), forward_step(s, t), forward_step(r, t)
    assert_close(first * second, whole, rtol=1e-13, atol=0)
    assert_close(second**2 * before + after, both, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_on_discrete_betas_it_is_ddpms(kind):
    ladder = DiscreteBetas(kind, 100)
    factor, variance = forward_step(ladder.log_snrs[:-1], ladder.log_snrs[1:])
    assert_close(variance, ladder.betas[1:], rtol=1e-9, atol=0)
    assert_close(factor, (1 - ladder.betas[1:]).sqrt(), rtol=1e-9, atol=0)


def test_a_sample_has_the_factor_and_the_root_of_the_variance(normal):
    x, eps = normal(2, 3, 2, 2), normal(2, 3, 2, 2, name="eps")
    s, t = torch.tensor([3.0, 1.0], dtype=F64), torch.tensor([-1.0, 0.5], dtype=F64)
    factor, variance = (part[:, None, None, None] for part in forward_step(s, t))
    assert_close(diffuse_further(x, eps, s, t), factor * x + variance.sqrt() * eps, rtol=1e-13, atol=1e-13)
    assert_close(diffuse_further(x, eps, math.inf, t), diffuse(x, eps, t), rtol=1e-13, atol=1e-13)
    assert diffuse_further(x.float(), eps.float(), s, t).dtype == torch.float32
