"""A solver of order k + 1 integrates a prediction that is a polynomial of degree k in λ exactly, whatever the steps.

The exact integrals are Gauss-Legendre's, in other variables than the solvers'. The steps are very uneven, so that no
two of them can change places unseen.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from cascade.diffusion import Condition, Posterior, alpha_sigma
from cascade.rng import randn
from cascade.sampling import DPMSolver, DPMSolverPP, DPMSolverPPSingle, SDEDPMSolverPP

F64 = torch.float64
GRID = torch.tensor([-3.0, -2.0, 2.0, 2.5, 5.5, 6.0], dtype=F64)
NODES, WEIGHTS = np.polynomial.legendre.leggauss(40)
X = randn("start", shape=(2, 3)).to(F64)
TERMS = randn("terms", shape=(3, 3)).to(F64)


def polynomial(degree):
    """λ → (3,): a polynomial of this degree."""
    return lambda log_snr: sum(TERMS[k] * (log_snr / 3) ** k for k in range(degree + 1))


def given_mean(polynomial):
    """A denoiser whose x̂ is that polynomial in λ, whatever x_t."""

    def denoiser(x_t, log_snr, condition):
        return Posterior(polynomial(log_snr[:, None]).expand_as(x_t))

    return denoiser


def given_eps(polynomial):
    """A denoiser whose ε̂ is that polynomial in λ, whatever x_t."""

    def denoiser(x_t, log_snr, condition):
        alpha, sigma = alpha_sigma(log_snr[:, None])
        return Posterior((x_t - sigma * polynomial(log_snr[:, None])) / alpha)

    return denoiser


def integral(function, begin, end):
    """∫ function dv over one step, by Gauss-Legendre."""
    centre, half = (begin + end) / 2, (end - begin) / 2
    return sum(half * w * function(centre + half * v) for v, w in zip(NODES, WEIGHTS, strict=True))


def exact_flow(grid, mean=None, eps=None):
    """x̄ = x/α along dx̄ = ε̂ dσ̄ or d(x̄/σ̄) = x̂ d(1/σ̄), σ̄ = e^{−λ/2}."""
    alpha, _ = alpha_sigma(grid)
    bars = (-grid / 2).exp()
    bar = X / alpha[0]
    for begin, end in pairwise(bars.tolist()):
        if eps is not None:
            bar = bar + integral(lambda v: eps(-2 * math.log(v)), begin, end)
        else:
            bar = end / begin * bar + end * integral(lambda v: mean(2 * math.log(v)), 1 / begin, 1 / end)
    return alpha[-1] * bar


def no_noise(step, draw=0):
    raise AssertionError("a deterministic sampler drew noise")


def sampled(sampler, denoiser, grid=GRID):
    return sampler(denoiser, X, grid, Condition(), no_noise)


def close(got, want):
    return torch.allclose(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("sampler", "degree"), [(DPMSolverPPSingle(1), 0), (DPMSolverPPSingle(3), 1), (DPMSolverPP(1), 0)], ids=str
)
def test_singlestep_in_the_mean(sampler, degree):
    exact, beyond = polynomial(degree), polynomial(degree + 1)
    assert close(sampled(sampler, given_mean(exact)), exact_flow(GRID, mean=exact))
    assert not close(sampled(sampler, given_mean(beyond)), exact_flow(GRID, mean=beyond))


@pytest.mark.parametrize(("sampler", "degree"), [(DPMSolver(1), 0), (DPMSolver(3), 1)], ids=str)
def test_singlestep_in_eps(sampler, degree):
    exact, beyond = polynomial(degree), polynomial(degree + 1)
    assert close(sampled(sampler, given_eps(exact)), exact_flow(GRID, eps=exact))
    assert not close(sampled(sampler, given_eps(beyond)), exact_flow(GRID, eps=beyond))


def test_multistep_of_order_3_integrates_a_parabola_once_it_has_three_means():
    """What the two steps that begin it leave behind decays as the flow does: x_s = (σs/σt) x_t + ..."""
    parabola, start = polynomial(2), GRID[:3]
    begun = sampled(DPMSolverPP(3), given_mean(parabola), start)
    left = begun - exact_flow(start, mean=parabola)
    sigma = alpha_sigma(GRID)[1]
    want = exact_flow(GRID, mean=parabola) + sigma[-1] / sigma[2] * left
    assert close(sampled(DPMSolverPP(3), given_mean(parabola)), want)
    assert not close(sampled(DPMSolverPP(3, published=True), given_mean(parabola)), want)


def test_the_published_order_3_takes_half_of_the_second_derivative():
    """The step of the third mean lacks ½ · x̂″ (λ − λt)²/2, and carries on how the first two differ."""
    parabola, sigma, third = polynomial(2), alpha_sigma(GRID)[1], GRID[2:4]

    def differ(grid):
        return sampled(DPMSolverPP(3, published=True), given_mean(parabola), grid) - sampled(
            DPMSolverPP(3), given_mean(parabola), grid
        )

    half = exact_flow(third, mean=lambda log_snr: TERMS[2] / 9 * (log_snr - GRID[2]) ** 2 / 2)
    nothing = exact_flow(third, mean=lambda log_snr: torch.zeros(3, dtype=F64))
    assert close(differ(GRID[:4]), sigma[3] / sigma[2] * differ(GRID[:3]) - (half - nothing))


@pytest.mark.parametrize("published", [False, True])
def test_multistep_of_order_3_begins_with_2s_and_2m_or_with_ddim_and_2m(published):
    """The published one differs in its first step and in nothing of its second."""
    line, grid = given_mean(polynomial(1)), GRID[:3]
    first = DPMSolverPP(1) if published else DPMSolverPPSingle(2)
    assert close(sampled(DPMSolverPP(3, published), line, grid[:2]), sampled(first, line, grid[:2]))
    sigma = alpha_sigma(grid)[1]
    moved = sampled(DPMSolverPP(3, published), line, grid) - sampled(DPMSolverPP(2), line, grid)
    begun = sampled(first, line, grid[:2]) - sampled(DPMSolverPP(1), line, grid[:2])
    assert close(moved, sigma[-1] / sigma[1] * begun)


@pytest.mark.parametrize("sampler", [DPMSolverPP(2), DPMSolverPPSingle(2), SDEDPMSolverPP(2, 0.0)], ids=str)
def test_order_2_takes_the_mean_at_the_middle_of_the_step_where_it_is_a_line(sampler):
    line, grid = polynomial(1), GRID if isinstance(sampler, DPMSolverPPSingle) else GRID[1:]
    levels = grid.tolist()
    # A multistep solver knows the line from its second step on.
    known = 0 if isinstance(sampler, DPMSolverPPSingle) else 1
    want = X
    for i, (begin, end) in enumerate(pairwise(levels)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(begin), alpha_sigma(end)
        mean = line((begin + end) / 2) if i >= known else line(begin)
        want = sigma_s / sigma_t * want + (alpha_s - sigma_s / sigma_t * alpha_t) * mean
    assert close(sampled(sampler, given_mean(line), grid), want)


def test_dpm_solver_of_order_2_takes_eps_at_the_middle_of_the_step():
    curve, levels = polynomial(2), GRID.tolist()
    want = X
    for begin, end in pairwise(levels):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(begin), alpha_sigma(end)
        want = alpha_s / alpha_t * want + (sigma_s - alpha_s / alpha_t * sigma_t) * curve((begin + end) / 2)
    assert close(sampled(DPMSolver(2), given_eps(curve)), want)


@pytest.mark.parametrize("kind", [DPMSolver, DPMSolverPPSingle])
def test_the_points_inside_a_step_are_reached_by_steps_of_lower_order(kind):
    """Order 2 asks where a step of order 1 leads; order 3 there too, and then where the line through two leads."""
    begin, end = GRID[1].item(), GRID[2].item()
    thirds = torch.tensor([begin, begin + (end - begin) / 3, begin + (end - begin) * 2 / 3], dtype=F64)
    line = polynomial(1)
    given = given_eps(line) if kind is DPMSolver else given_mean(line)

    def asked(order):
        seen = []

        def watching(x_t, log_snr, condition):
            seen.append(x_t)
            return given(x_t, log_snr, condition)

        sampled(kind(order), watching, GRID[1:3])
        return seen

    middle = torch.tensor([begin, (begin + end) / 2], dtype=F64)
    assert close(asked(2)[1], sampled(kind(1), given, middle))
    start, first, second = asked(3)
    assert torch.equal(start, X)
    assert close(first, sampled(kind(1), given, thirds[:2]))
    assert close(second, exact_flow(thirds[[0, 2]], **{"eps" if kind is DPMSolver else "mean": line}))
