"""Against the schedulers of Hugging Face's diffusers: the same ladder in float64, the same denoiser, the same noise.

Their ladders are float32, which costs more digits than the samplers do: they are given ours (that the two agree is a
test of its own).
"""

import warnings

import pytest
import torch

from cascade.diffusion import Condition, DiscreteBetas
from cascade.sampling import (
    DDIM,
    Ancestral,
    DPMSolverPP,
    DynamicThreshold,
    SDEDPMSolverPP,
    StaticThreshold,
    adm_respaced,
)

# What it warns of is its own affair.
pytestmark = pytest.mark.filterwarnings("ignore")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    schedulers = pytest.importorskip("diffusers", reason="diffusers is not installed (make parity)")

F64 = torch.float64
LADDERS = {"linear": DiscreteBetas("linear", 1000), "squaredcos_cap_v2": DiscreteBetas("cosine", 1000)}
on_ladders = pytest.mark.parametrize("ladder", LADDERS)
predicting = pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
NO_CLIPPING = {"clip_sample": False}
CLIPPINGS = {
    "none": (NO_CLIPPING, lambda denoiser: denoiser),
    "static": ({"clip_sample": True}, StaticThreshold),
    "dynamic": (
        {"clip_sample": False, "thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1e9},
        lambda denoiser: DynamicThreshold(denoiser, 0.9),
    ),
}


@pytest.fixture
def prepared():
    """prepared(name, ladder, ...): one of its schedulers, on our float64 ladder."""

    def make(name, ladder, **settings):
        scheduler = getattr(schedulers, name)(beta_schedule=ladder, beta_end=0.02, beta_start=0.0001, **settings)
        scheduler.alphas_cumprod = LADDERS[ladder].log_snrs.sigmoid()
        scheduler.final_alpha_cumprod = scheduler.one = torch.ones((), dtype=F64)
        return scheduler

    return make


@pytest.fixture
def walk(denoiser, noise):
    """walk(scheduler, grid, step): its loop over its time steps, asking our denoiser at the level of each."""

    def run(scheduler, grid, step, ask=denoiser):
        scale = lambda log_snr: log_snr.sigmoid().sqrt()  # noqa: E731
        x = scale(-grid[0]) * noise(-1)
        for i, t in enumerate(scheduler.timesteps):
            alpha, sigma = scale(grid[i]), scale(-grid[i])
            posterior = ask(x, grid[i].expand(len(x)), Condition())
            eps = (x - alpha * posterior.mean) / sigma
            predicted = {
                "sample": posterior.mean,
                "epsilon": eps,
                "v_prediction": alpha * eps - sigma * posterior.mean,
            }[scheduler.config.prediction_type]
            x = step(i, t, predicted, x, posterior)
        return x

    return run


@on_ladders
def test_the_ladders_are_the_same(ladder):
    theirs = schedulers.DDPMScheduler(beta_schedule=ladder, beta_end=0.02, beta_start=0.0001).alphas_cumprod
    torch.testing.assert_close(LADDERS[ladder].log_snrs.sigmoid(), theirs.double(), rtol=1e-4, atol=1e-7)


@on_ladders
@predicting
@pytest.mark.parametrize(
    ("variance", "theirs"), [("small", "fixed_small"), ("large", "fixed_large"), ("learned", "learned_range")]
)
def test_ancestral_is_ddpm(
    prepared, walk, sample, with_fraction, noise, agree, monkeypatch, ladder, prediction, variance, theirs
):
    scheduler = prepared("DDPMScheduler", ladder, variance_type=theirs, prediction_type=prediction, **NO_CLIPPING)
    scheduler.set_timesteps(25)
    grid = adm_respaced(LADDERS[ladder], "ddim25")

    def step(i, t, predicted, x, posterior):
        if variance == "learned":
            predicted = torch.cat([predicted, 2 * posterior.variance_fraction - 1], 1)
        monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: noise(i))
        return scheduler.step(predicted, t, x).prev_sample

    want = walk(scheduler, grid, step, with_fraction)
    agree(sample(Ancestral(variance), grid, lambda denoiser: with_fraction), want, 1e-5)


@on_ladders
@predicting
@pytest.mark.parametrize("clipping", CLIPPINGS)
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_is_ddim(prepared, walk, sample, noise, agree, ladder, prediction, clipping, eta):
    settings, wrap = CLIPPINGS[clipping]
    scheduler = prepared("DDIMScheduler", ladder, prediction_type=prediction, **settings)
    scheduler.set_timesteps(25)
    grid = adm_respaced(LADDERS[ladder], "ddim25")

    def step(i, t, predicted, x, posterior):
        # use_clipped_model_output: ε̂ is derived again, as we always do.
        return scheduler.step(predicted, t, x, eta, use_clipped_model_output=True, variance_noise=noise(i)).prev_sample

    agree(sample(DDIM(eta), grid, wrap), walk(scheduler, grid, step), 1e-5)


MULTISTEP = {
    ("dpmsolver++", 1): DPMSolverPP(1),
    ("dpmsolver++", 2): DPMSolverPP(2),
    ("dpmsolver++", 3): DPMSolverPP(3, published=True),
    ("sde-dpmsolver++", 1): SDEDPMSolverPP(1, 1.0),
    ("sde-dpmsolver++", 2): SDEDPMSolverPP(2, 1.0),
}


@on_ladders
@pytest.mark.parametrize("clipping", ["none", "dynamic"])
@pytest.mark.parametrize("sigmas", ["ladder", "use_karras_sigmas", "use_exponential_sigmas"])
@pytest.mark.parametrize(("algorithm", "order"), MULTISTEP, ids=str)
def test_dpm_solver_multistep(prepared, walk, sample, noise, agree, ladder, clipping, sigmas, algorithm, order):
    settings, wrap = CLIPPINGS[clipping]
    settings = {key: value for key, value in settings.items() if key != "clip_sample"}
    if sigmas != "ladder":
        settings |= {sigmas: True}
    scheduler = prepared(
        "DPMSolverMultistepScheduler",
        ladder,
        algorithm_type=algorithm,
        solver_order=order,
        solver_type="midpoint",
        lower_order_final=False,
        final_sigmas_type="zero",
        prediction_type="sample",
        **settings,
    )
    scheduler.set_timesteps(12)
    scheduler.sigmas = scheduler.sigmas.double()
    grid = -2 * scheduler.sigmas.log()

    def step(i, t, predicted, x, posterior):
        return scheduler.step(predicted, t, x, variance_noise=noise(i)).prev_sample

    agree(sample(MULTISTEP[algorithm, order], grid, wrap), walk(scheduler, grid, step), 1e-5)
