"""The corrector is Langevin's step in x/α at the paper's SNR, with each image's own norms, and has a known bias."""

import math

import pytest
import torch
from scipy.special import roots_genlaguerre

from cascade.diffusion import Condition, Posterior
from cascade.diffusion.oracle import GaussianDenoiser, MixtureDenoiser
from cascade.errors import CascadeError
from cascade.registry import build, complete
from cascade.rng import randn
from cascade.sampling import DDIM, Ancestral, AnnealedLangevin, EulerMaruyama, Heun, PredictorCorrector, karras
from cascade.sampling.transition import Level, transitions

F64 = torch.float64
PREDICTORS = [Ancestral("small"), Ancestral("large"), EulerMaruyama(), DDIM(eta=0.5), Heun()]
MIXTURE = MixtureDenoiser(
    torch.tensor([0.3, 0.7], dtype=F64),
    torch.tensor([[-1.0, 0.4, 0.0, 0.2], [0.8, 0.1, -0.3, 0.5]], dtype=F64),
    torch.stack([torch.eye(4, dtype=F64) * 0.1, torch.eye(4, dtype=F64) * 0.3]),
)
GRID = torch.tensor([-3.0, -2.0, -0.5, 1.5, math.inf], dtype=F64)

each_predictor = pytest.mark.parametrize("predictor", PREDICTORS, ids=str)


def noise(step, draw=0):
    return randn("noise", step, draw, shape=(3, 4)).to(F64)


@each_predictor
@pytest.mark.parametrize("grid", [GRID, GRID[:-1]], ids=["clean", "finite"])
@pytest.mark.parametrize("without", [{"corrector_steps": 0}, {"corrector_steps": 2, "snr": 0.0}], ids=str)
def test_without_corrections_it_reduces_to_its_predictor(predictor, grid, without):
    got = PredictorCorrector(predictor, **without)(MIXTURE, noise(-1), grid, Condition(), noise)
    assert torch.equal(got, predictor(MIXTURE, noise(-1), grid, Condition(), noise))


@each_predictor
def test_the_corrector_is_algorithm_4_on_x_over_alpha(predictor):
    """Written for a variance-exploding process, one image at a time: ε = 2(r‖z‖/‖s̄‖)², x̄ + εs̄ + √(2ε)z."""
    r, grid = 0.2, torch.tensor([-1.0, 0.7], dtype=F64)
    got = PredictorCorrector(predictor, 2, r)(MIXTURE, noise(-1), grid, Condition(), noise)
    x = predictor(MIXTURE, noise(-1), grid, Condition(), noise)
    alpha, deviation = 1 / math.sqrt(1 + math.exp(-0.7)), math.exp(-0.35)
    for i in range(3):
        bar = x[i] / alpha
        for draw in (1, 2):
            z = noise(0, draw)[i]
            mean = MIXTURE(alpha * bar[None], torch.full((1,), 0.7, dtype=F64), Condition()).mean[0]
            score = (mean - bar) / deviation**2
            size = 2 * (r * z.norm() / score.norm()) ** 2
            bar = bar + size * score + (2 * size).sqrt() * z
        torch.testing.assert_close(got[i], alpha * bar, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("log_snr", [-1.0, 2.0])
@pytest.mark.parametrize("r", [0.02, 0.1])
@pytest.mark.parametrize("dim", [32, 256])
def test_the_corrector_leaves_the_marginal_alone_up_to_its_known_bias(dim, r, log_snr):
    """E‖x′‖² / E‖x‖² = 1 + 16r²/(D − 2) + 4r⁴(D + 2)/(D − 2) for x of the exact marginal of isotropic data.

    By quadrature over the two radii, and over the sign of z, which takes away the scalar product of x and z.
    """
    grid = torch.tensor([log_snr - 1.0, log_snr], dtype=F64)
    step = next(transitions(grid))
    data = GaussianDenoiser(torch.zeros(dim, dtype=F64), 0.6 * torch.eye(dim, dtype=F64))
    variance = 0.6 * step.s.alpha**2 + step.s.sigma**2
    # u = ‖·‖²/2 has density u^{D/2−1}e^{−u}; one power less, so that 1/u is a polynomial under the weight.
    nodes, weights = (torch.from_numpy(a) for a in roots_genlaguerre(4, dim / 2 - 2))
    weights = weights / (weights * nodes).sum()
    axes = (nodes, nodes, torch.tensor([-1.0, 1.0], dtype=F64))
    masses = (weights * nodes, weights * nodes, torch.full((2,), 0.5, dtype=F64))
    of_x, of_z, sign = (axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij"))
    weight = torch.stack([mass.flatten() for mass in torch.meshgrid(*masses, indexing="ij")]).prod(0)
    x = torch.zeros(len(of_x), dim, dtype=F64)
    x[:, 0] = (2 * variance * of_x).sqrt()
    z = sign[:, None] * (2 * of_z).sqrt()[:, None] * torch.tensor([0.6, 0.8, *[0] * (dim - 2)], dtype=F64)

    def denoiser(x_t, level, condition):
        """At the noisier level what predicts x from 0 without noise, at the cleaner one the exact answer."""
        if level[0] < log_snr - 0.5:
            return Posterior(x / (step.s.alpha * step.one_minus_r))
        torch.testing.assert_close(x_t, x)
        return data(x_t, level, condition)

    sampler = PredictorCorrector(Ancestral("small"), 1, r)
    out = sampler(denoiser, 0 * x, grid, Condition(), lambda step, draw=0: z if draw else 0 * z)
    got = (weight * out.square().sum(1)).sum() / (weight * x.square().sum(1)).sum()
    want = 1 + 16 * r**2 / (dim - 2) + 4 * r**4 * (dim + 2) / (dim - 2)
    assert got.item() == pytest.approx(want, rel=1e-10)


def test_a_config_names_the_predictor_as_it_names_any_sampler():
    """Nested, with its own parameters, and without a word about which samplers there are."""
    config = {"name": "predictor_corrector", "predictor": {"name": "ddim", "eta": 1.0}, "corrector_steps": 0}
    assert build("sampler", config) == PredictorCorrector(DDIM(eta=1.0), 0)
    assert complete("sampler", {"name": "predictor_corrector", "predictor": {"name": "ancestral"}})["predictor"] == {
        "name": "ancestral",
        "variance": "small",
    }
    assert build("sampler", {"name": "predictor_corrector"}).predictor == Ancestral("small")
    with pytest.raises(CascadeError, match="unknown sampler 'ancestor'; did you mean 'ancestral'"):
        build("sampler", {**config, "predictor": {"name": "ancestor"}})


def test_a_predictor_that_draws_more_than_once_in_a_step_is_refused():
    """Its second draw would be the corrector's."""
    with pytest.raises(CascadeError, match="draws at most once in a step"):
        PredictorCorrector(AnnealedLangevin(10))(MIXTURE, noise(-1), GRID, Condition(), noise)


def test_calls_and_draws():
    drawn, levels = [], []

    def named(step, draw=0):
        drawn.append((step, draw))
        return noise(step, draw)

    def seen(x_t, log_snr, condition):
        levels.append(log_snr[0].item())
        return MIXTURE(x_t, log_snr, condition)

    PredictorCorrector(Ancestral("small"), 2)(seen, noise(-1), GRID, Condition(), named)
    assert drawn == [(i, draw) for i in range(3) for draw in range(3)]
    assert levels == [-3.0, *[-2.0] * 3, *[-0.5] * 3, *[1.5] * 3]


def test_an_image_without_noise_is_not_thrown_away():
    """ε̂ = 0 asks for an infinite step: ρ is held at 1. Without z there is no step at all."""
    point = lambda x_t, log_snr, condition: Posterior(x_t / log_snr.sigmoid().sqrt()[:, None])  # noqa: E731
    z = torch.tensor([[1.0, -2.0], [0.0, 0.0]], dtype=F64)
    out = PredictorCorrector(EulerMaruyama(), 1)(
        point,
        torch.zeros(2, 2, dtype=F64),
        torch.tensor([-1.0, 0.5], dtype=F64),
        Condition(),
        lambda _, draw=0: draw * z,
    )
    torch.testing.assert_close(out, Level(0.5).sigma * math.sqrt(2) * z, rtol=1e-14, atol=0)


def test_the_norms_are_those_of_an_image():
    alone = PredictorCorrector()(MIXTURE, noise(-1)[1:2], karras(5), Condition(), lambda *name: noise(*name)[1:2])
    among = PredictorCorrector()(MIXTURE, noise(-1), karras(5), Condition(), noise)
    torch.testing.assert_close(among[1:2], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: PredictorCorrector("ancestral"),
            "a predictor is a sampler, in a config {name: ancestral}, not 'ancestral'",
        ),
        (lambda: PredictorCorrector(corrector_steps=-1), "corrector_steps=-1"),
        (lambda: PredictorCorrector(corrector_steps=1.5), "whole number"),
        (lambda: PredictorCorrector(snr=-0.1), "snr=-0.1"),
        (lambda: PredictorCorrector(snr=math.inf), "snr"),
    ],
)
def test_wrong_parameters_are_refused(make, says):
    with pytest.raises(CascadeError, match=says):
        make()
