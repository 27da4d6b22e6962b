"""Every "A reduces to B" of a docstring in cascade.sampling, and the cases in which two reverse variances coincide."""

import math
from dataclasses import replace

import pytest
import torch

from cascade.diffusion import Condition, CosineSchedule
from cascade.diffusion.oracle import GaussianDenoiser, MixtureDenoiser
from cascade.rng import randn
from cascade.sampling import (
    DDIM,
    Ancestral,
    ClassifierFree,
    DPMSolver,
    DPMSolverPP,
    DPMSolverPPSingle,
    DynamicThreshold,
    Heun,
    Interval,
    NoThreshold,
    SDEDPMSolverPP,
    StaticThreshold,
    Unguided,
    karras,
    uniform_log_snr,
    uniform_t,
)
from cascade.sampling.transition import transitions

F64 = torch.float64
ORACLE = MixtureDenoiser(
    torch.tensor([0.4, 0.6], dtype=F64),
    torch.tensor([[-0.8, 0.5, 0.1], [0.9, -0.2, 0.6]], dtype=F64),
    torch.stack([torch.eye(3, dtype=F64) * 0.5, torch.eye(3, dtype=F64) * 0.1]),
)
GUIDED = ClassifierFree(ORACLE, 4.0)
DENOISERS = {
    "plain": ORACLE,
    "guided": GUIDED,
    "static": StaticThreshold(GUIDED),
    "dynamic": DynamicThreshold(GUIDED, 0.7),
}
GRIDS = {
    "uniform_t": uniform_t(CosineSchedule(), 9),
    "karras": karras(9),
    "finite": uniform_log_snr(-8.0, 8.0, 9)[:-1],
    "huge steps": torch.tensor([-20.0, 20.0, math.inf], dtype=F64),
}
CONDITION = Condition(label=torch.tensor([0, 1, -1]))

across = pytest.mark.parametrize("denoiser", DENOISERS.values(), ids=DENOISERS.keys())
on_grids = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())


def noise(step, draw=0):
    return randn("noise", step, draw, shape=(3, 3)).to(F64)


def no_noise(step, draw=0):
    raise AssertionError("a deterministic sampler drew noise")


def same(first, second, denoiser, grid, randn=noise, condition=CONDITION):
    a, b = (sampler(denoiser, noise(-1), grid, condition, randn) for sampler in (first, second))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@on_grids
@across
def test_ddim_with_eta_1_reduces_to_ancestral_small(denoiser, grid):
    same(DDIM(1.0), Ancestral("small"), denoiser, grid)


@on_grids
@across
@pytest.mark.parametrize(
    "sampler", [DPMSolver(1), DPMSolverPP(1), DPMSolverPP(1, published=True), DPMSolverPPSingle(1)], ids=str
)
def test_dpm_solvers_of_order_1_reduce_to_ddim(sampler, denoiser, grid):
    same(sampler, DDIM(0.0), denoiser, grid, no_noise)


HIGHER = [
    *(DPMSolver(order) for order in (2, 3)),
    *(DPMSolverPP(order) for order in (2, 3)),
    DPMSolverPP(3, published=True),
    *(DPMSolverPPSingle(order) for order in (2, 3)),
    SDEDPMSolverPP(2, 0.0),
]


@pytest.mark.parametrize("grid", [GRIDS["karras"], GRIDS["finite"]], ids=["karras", "finite"])
@pytest.mark.parametrize("sampler", HIGHER, ids=str)
def test_dpm_solvers_of_any_order_reduce_to_ddim_where_the_mean_is_constant(sampler, grid):
    point = GaussianDenoiser(torch.tensor([0.3, -1.0, 2.0], dtype=F64), torch.zeros(3, 3, dtype=F64))
    same(sampler, DDIM(0.0), point, grid, no_noise)


@on_grids
@across
def test_the_published_order_2_reduces_to_order_2(denoiser, grid):
    same(DPMSolverPP(2, published=True), DPMSolverPP(2), denoiser, grid, no_noise)


@on_grids
@across
@pytest.mark.parametrize("order", [1, 2])
def test_sde_dpm_solver_pp_without_noise_reduces_to_dpm_solver_pp(order, denoiser, grid):
    same(SDEDPMSolverPP(order, 0.0), DPMSolverPP(order), denoiser, grid, no_noise)


@on_grids
@across
def test_sde_dpm_solver_pp_of_order_1_and_eta_1_reduces_to_ddim_with_eta_1(denoiser, grid):
    same(SDEDPMSolverPP(1, 1.0), DDIM(1.0), denoiser, grid)


@on_grids
@across
def test_sde_dpm_solver_pp_of_order_1_and_eta_1_reduces_to_ancestral_small(denoiser, grid):
    same(SDEDPMSolverPP(1, 1.0), Ancestral("small"), denoiser, grid)


def test_between_0_and_1_the_two_eta_count_differently():
    """The noise of a step has the variance σs²(1 − r^η) here and η²σs²(1 − r) in DDIM."""
    grid, point = torch.tensor([-1.0, 0.5], dtype=F64), GaussianDenoiser(torch.zeros(3), torch.zeros(3, 3))

    def variance(sampler):
        noised, quiet = (
            sampler(point, noise(-1), grid, CONDITION, lambda step, z=z: z * torch.ones(3, 3, dtype=F64))
            for z in (1, 0)
        )
        return (noised - quiet).square().mean().item()

    r, sigma_s = math.exp(-1.5), math.sqrt(1 / (1 + math.exp(0.5)))
    assert variance(SDEDPMSolverPP(1, 0.5)) == pytest.approx(sigma_s**2 * (1 - r**0.5), rel=1e-12)
    assert variance(DDIM(0.5)) == pytest.approx(0.25 * sigma_s**2 * (1 - r), rel=1e-12)


@on_grids
@across
def test_heun_without_churn_draws_nothing(denoiser, grid):
    same(Heun(), Heun(s_churn=0.0, s_min=1.0, s_max=2.0, s_noise=3.0), denoiser, grid, no_noise)


def test_heun_draws_only_where_sigma_is_in_the_interval():
    drawn = []

    def counting(step, draw=0):
        drawn.append(step)
        return noise(step, draw)

    sigmas = [8.0, 4.0, 2.0, 1.0]
    grid = torch.tensor([-2 * math.log(sigma) for sigma in sigmas] + [math.inf], dtype=F64)
    Heun(s_churn=1.0, s_min=1.5, s_max=5.0)(ORACLE, noise(-1), grid, CONDITION, counting)
    assert drawn == [1, 2]


def test_a_flow_step_reduces_to_ddim_and_to_euler_in_sigma():
    step = next(transitions(torch.tensor([-1.0, 2.5], dtype=F64)))
    x, mean = noise(0), noise(1)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = ((level.alpha, level.sigma) for level in (step.t, step.s))
    ddim = alpha_s * mean + sigma_s * (x - alpha_t * mean) / sigma_t
    edm_t, edm_s = sigma_t / alpha_t, sigma_s / alpha_s
    euler = alpha_s * (x / alpha_t + (edm_s - edm_t) * (x / alpha_t - mean) / edm_t)
    torch.testing.assert_close(step.flow(x, mean), ddim, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(step.flow(x, mean), euler, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("fraction", "variance"), [(0.0, "small"), (1.0, "large")])
@on_grids
def test_learned_variance_reduces_to_its_ends(fraction, variance, grid):
    def denoiser(x_t, log_snr, condition):
        posterior = ORACLE(x_t, log_snr, condition)
        return replace(posterior, variance_fraction=torch.full_like(x_t, fraction))

    same(Ancestral("learned"), Ancestral(variance), denoiser, grid)


@pytest.mark.parametrize(("variance", "spread"), [("small", 0.0), ("large", 1.0)])
@on_grids
def test_optimal_variance_reduces_to_small_for_a_point_and_to_large_for_white_noise(variance, spread, grid):
    oracle = GaussianDenoiser(torch.tensor([0.3, -1.0, 2.0], dtype=F64), spread * torch.eye(3, dtype=F64))
    same(Ancestral("optimal"), Ancestral(variance), oracle, grid)


@on_grids
def test_wrappers_that_are_identities_change_no_bit(grid):
    for wrapped in (Unguided(ORACLE), NoThreshold(ORACLE), ClassifierFree(ORACLE, 1.0)):
        a, b = (DDIM(0.5)(denoiser, noise(-1), grid, CONDITION, noise) for denoiser in (wrapped, ORACLE))
        assert torch.equal(a, b)


@on_grids
def test_interval_over_the_whole_line_reduces_to_the_guided_denoiser(grid):
    whole = Interval(GUIDED, ORACLE, -math.inf, math.inf)
    a, b = (DDIM(0.5)(denoiser, noise(-1), grid, CONDITION, noise) for denoiser in (whole, GUIDED))
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    "sampler", [Ancestral("large"), DDIM(0.7), Heun(), SDEDPMSolverPP(2, 1.0), DPMSolverPP(2), *HIGHER], ids=str
)
def test_one_step_to_the_clean_picture_returns_the_mean_and_draws_nothing(sampler):
    grid = torch.tensor([-2.0, math.inf], dtype=F64)
    out = sampler(GUIDED, noise(-1), grid, CONDITION, no_noise)
    assert torch.equal(out, GUIDED(noise(-1), torch.full((3,), -2.0, dtype=F64), CONDITION).mean)
