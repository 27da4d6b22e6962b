"""Heun with churn against algorithm 2 of Karras et al. 2022, written line by line as the paper prints it."""

import math

import pytest
import torch

from cascade.diffusion import Condition
from cascade.sampling import Heun, karras


def algorithm_2(d_theta, t, s_churn, s_tmin, s_tmax, s_noise, draw):
    """EDM's stochastic sampler for σ(t) = t and s(t) = 1; t falls to 0, draw(i) is ε_i ~ N(0, I)."""
    n = len(t) - 1
    x = t[0] * draw(-1)
    for i in range(n):
        gamma = min(s_churn / n, math.sqrt(2) - 1) if s_tmin <= t[i] <= s_tmax else 0.0
        epsilon = s_noise * draw(i)
        t_hat = t[i] + gamma * t[i]
        x_hat = x + math.sqrt(t_hat**2 - t[i] ** 2) * epsilon
        d = (x_hat - d_theta(x_hat, t_hat)) / t_hat
        x = x_hat + (t[i + 1] - t_hat) * d
        if t[i + 1] != 0:
            d_prime = (x - d_theta(x, t[i + 1])) / t[i + 1]
            x = x_hat + (t[i + 1] - t_hat) * (d / 2 + d_prime / 2)
    return x


@pytest.mark.parametrize("n", [1, 7, 40])
@pytest.mark.parametrize(
    ("s_churn", "s_min", "s_max", "s_noise"),
    [(0.0, 0.0, math.inf, 1.0), (40.0, 0.05, 50.0, 1.003), (3.0, 0.0, math.inf, 1.0), (1e6, 0.5, 5.0, 0.9)],
)
def test_heun_is_algorithm_2(sample, denoiser, noise, agree, n, s_churn, s_min, s_max, s_noise):
    grid = karras(n)
    sigmas = (-grid / 2).exp().tolist()

    def d_theta(x, sigma):
        scale = 1 / math.sqrt(1 + sigma**2)
        level = torch.full((len(x),), -2 * math.log(sigma), dtype=x.dtype)
        return denoiser(scale * x, level, Condition()).mean

    want = algorithm_2(d_theta, sigmas, s_churn, s_min, s_max, s_noise, noise)
    agree(sample(Heun(s_churn, s_min, s_max, s_noise), grid), want, 1e-10)
