"""Against k-diffusion (Katherine Crowson), whose x is our x/α and whose σ is e^{−λ/2}."""

import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch

from cascade.diffusion import Condition
from cascade.sampling import (
    DDIM,
    Ancestral,
    DPMSolver,
    DPMSolverPP,
    DPMSolverPPSingle,
    Heun,
    SDEDPMSolverPP,
    karras,
    uniform_log_snr,
)

SPEC = find_spec("k_diffusion")
if SPEC is None:
    pytest.skip("k-diffusion is not installed (make parity)", allow_module_level=True)
# The package's `__init__` loads its training, which needs far older libraries than ours: only the samplers are loaded.
sys.modules["k_diffusion"] = ModuleType("k_diffusion")
sys.modules["k_diffusion"].__path__ = SPEC.submodule_search_locations
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    sampling = import_module("k_diffusion.sampling")

# What it warns of is its own affair.
pytestmark = pytest.mark.filterwarnings("ignore")
GRIDS = {"karras": karras(12), "exponential": uniform_log_snr(-8.0, 9.0, 12)}
on_grids = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
TOLERANCE = 1e-9


@pytest.fixture
def run(denoiser, noise):
    """run(sampler, grid, ...): one of their samplers from σ0·ε, with our denoiser."""

    def model(x, sigma):
        scale = (1 + sigma**2).rsqrt().reshape(-1, 1, 1, 1)
        return denoiser(scale * x, -2 * sigma.log(), Condition()).mean

    def sampled(sampler, grid, **settings):
        sigmas = (-grid / 2).exp()
        return sampler(model, sigmas[0] * noise(-1), sigmas, disable=True, **settings)

    sampled.model = model
    return sampled


@pytest.fixture
def noise_sampler(noise):
    """Their source of noise: one draw in each step."""
    steps = iter(range(1000))
    return lambda sigma, sigma_next: noise(next(steps))


@on_grids
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_is_euler_ancestral(run, sample, agree, noise_sampler, grid, eta):
    want = run(sampling.sample_euler_ancestral, grid, eta=eta, noise_sampler=noise_sampler)
    agree(sample(DDIM(eta), grid), want, TOLERANCE)


@on_grids
def test_ancestral_small_is_euler_ancestral(run, sample, agree, noise_sampler, grid):
    want = run(sampling.sample_euler_ancestral, grid, noise_sampler=noise_sampler)
    agree(sample(Ancestral("small"), grid), want, TOLERANCE)


@on_grids
def test_ddim_without_noise_is_euler(run, sample, agree, grid):
    agree(sample(DDIM(), grid), run(sampling.sample_euler, grid), TOLERANCE)


@on_grids
@pytest.mark.parametrize(
    "settings", [{}, {"s_churn": 4.0}, {"s_churn": 40.0, "s_min": 0.05, "s_max": 20.0, "s_noise": 1.003}], ids=str
)
def test_heun_is_heun(run, sample, agree, noise_sampler, monkeypatch, grid, settings):
    monkeypatch.setattr(sampling.torch, "randn_like", lambda x: noise_sampler(None, None))
    theirs = {key.replace("s_m", "s_tm"): value for key, value in settings.items()}
    agree(sample(Heun(**settings), grid), run(sampling.sample_heun, grid, **theirs), TOLERANCE)


@on_grids
def test_dpm_solver_pp_is_dpmpp_2m(run, sample, agree, grid):
    agree(sample(DPMSolverPP(2), grid), run(sampling.sample_dpmpp_2m, grid), TOLERANCE)


@on_grids
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0, 2.0])
def test_sde_dpm_solver_pp_is_dpmpp_2m_sde(run, sample, agree, noise_sampler, grid, eta):
    want = run(sampling.sample_dpmpp_2m_sde, grid, eta=eta, noise_sampler=noise_sampler)
    agree(sample(SDEDPMSolverPP(2, eta), grid), want, TOLERANCE)


@on_grids
def test_dpm_solver_pp_single_is_dpmpp_2s(run, sample, agree, noise_sampler, grid):
    # Without noise; its last step to σ = 0 is Euler's.
    want = run(sampling.sample_dpmpp_2s_ancestral, grid, eta=0.0, noise_sampler=lambda sigma, sigma_next: 0.0)
    agree(sample(DPMSolverPPSingle(2), grid), want, TOLERANCE)


@on_grids
@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpm_solver_is_its_step_of_that_order(run, sample, agree, noise, grid, order):
    solver = sampling.DPMSolver(run.model)
    step = getattr(solver, f"dpm_solver_{order}_step")
    finite = grid[:-1]
    x = (-finite[0] / 2).exp() * noise(-1)
    for t, t_next in (finite / 2).unfold(0, 2, 1):
        x, _ = step(x, t, t_next)
    alpha = finite[-1].sigmoid().sqrt()
    agree(sample(DPMSolver(order), finite), alpha * x, TOLERANCE)


@pytest.mark.parametrize(("rho", "low", "high"), [(7.0, 0.002, 80.0), (3.0, 0.1, 20.0)])
def test_karras_grid(rho, low, high):
    want = sampling.get_sigmas_karras(10, low, high, rho).double()
    torch.testing.assert_close((-karras(10, rho, low, high) / 2).exp(), want, rtol=2e-5, atol=0)


def test_uniform_log_snr_is_the_exponential_grid():
    want = sampling.get_sigmas_exponential(10, 0.01, 50.0).double()
    grid = uniform_log_snr(-2 * torch.tensor(50.0, dtype=torch.float64).log().item(), 9.210340371976184, 10)
    torch.testing.assert_close((-grid / 2).exp(), want, rtol=2e-6, atol=0)
