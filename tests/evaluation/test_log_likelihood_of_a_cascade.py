"""Log-likelihoods of real pictures by the probability flow: closed forms, and a figure that is a picture's own."""

import math

import pytest
import torch
from torch.testing import assert_close

from cascade import rng
from cascade.data.degradation import from_uint8
from cascade.diffusion import DiagonalGaussian, GaussianAugmentation, NoAugmentation, Posterior
from cascade.errors import CascadeError
from cascade.evaluation.bits_per_dim import ContinuousBound, Example, JudgedStage, PictureDraws
from cascade.evaluation.flow_likelihood import BIN, FlowLikelihood

GRID = torch.tensor([-14.0, 0.0, 10.0, math.inf], dtype=torch.float64)
VARIANCE = torch.linspace(0.05, 0.3, 12).reshape(3, 2, 2).double()
MEAN = 0.2


def pictures(count, side=2):
    return [(255 * rng.uniform("picture", i, shape=(3, side, side))).to(torch.uint8) for i in range(count)]


def stage(denoiser, chunk=4, **changes):
    return JudgedStage(
        "base", denoiser, GRID, chunk=chunk, **{"labelled": False, "augmentation": NoAugmentation(), **changes}
    )


def bent(x_t, log_snr, condition):
    """A denoiser of no data whose Jacobian is neither diagonal nor constant."""
    seen = x_t * log_snr.sigmoid().sqrt()[:, None, None, None]
    return Posterior((seen + 0.5 * seen.roll(1, 3)).tanh())


def test_it_is_the_density_of_the_cleanest_level_in_the_pictures_bin():
    """−ln N(x + Δu; m, v + σ²/α²) − D ln Δ for Gaussian pictures, with the picture's own u; Δ = 2/255."""
    examples = [Example(7 + i, image) for i, image in enumerate(pictures(3))]
    u = PictureDraws(5, "base", [7, 8, 9], (3, 2, 2)).dequantisation().double()
    x = from_uint8(torch.stack([one.image for one in examples])).double() + 2 / 255 * (u - 0.5)
    for level, flow in [(10.0, FlowLikelihood(None)), (2.0, FlowLikelihood(None, log_snr_max=2.0))]:
        variance = VARIANCE + math.exp(-level)
        density = -0.5 * ((x - MEAN).square() / variance + (2 * math.pi * variance).log())
        want = -density.flatten(1).sum(1) - 12 * math.log(2 / 255)
        terms = stage(DiagonalGaussian(VARIANCE, MEAN)).nats(flow, examples, seed=5)
        assert_close(terms.total, want, rtol=0, atol=1e-3)


def test_the_three_terms_are_where_the_flow_begins_its_volume_and_the_bin():
    """Data that are a point: every number shrinks from σ(λmin) to σ(λmax) on the way."""
    point = DiagonalGaussian(torch.zeros(3, 2, 2), 0.0)
    image = torch.full((3, 2, 2), 128, dtype=torch.uint8)
    terms = stage(point).nats(FlowLikelihood(None, steps=64), [Example(0, image)], seed=0)
    sigma = lambda level: 1 / (1 + math.exp(level)) ** 0.5  # noqa: E731
    assert float(terms.diffusion) == pytest.approx(12 * math.log(sigma(10) / sigma(-14)), abs=1e-3)
    assert float(terms.decoder) == pytest.approx(-12 * math.log(BIN * sigma(-10)), abs=1e-6)


def test_it_bounds_what_the_bins_cost_and_lies_close_where_the_density_is_smooth():
    """−ln of the mass of N(m, v + σ²/α²) in the bins, exactly; the mean over u of the bound lies above by O(Δ²)."""
    image = pictures(1)[0]
    examples = [Example(i, image) for i in range(200)]
    nats = stage(DiagonalGaussian(VARIANCE, MEAN), 50).nats(FlowLikelihood(None), examples, seed=1).total
    std = (VARIANCE + math.exp(-10.0)).sqrt()
    x = from_uint8(image).double()
    mass = torch.special.ndtr((x - MEAN + BIN / 2) / std) - torch.special.ndtr((x - MEAN - BIN / 2) / std)
    assert abs(float(nats.mean()) + float(mass.log().sum())) < 4 * float(nats.std()) / 200**0.5 + 1e-3


@pytest.mark.parametrize("probes", [1, 3])
def test_probes_are_a_pictures_own_and_its_figure_does_not_depend_on_the_batch(probes):
    flow = FlowLikelihood(probes, steps=4, log_snr_min=-4.0, log_snr_max=4.0)
    examples = [Example(i, image) for i, image in enumerate(pictures(5))]
    whole = stage(bent).nats(flow, examples, seed=1).total
    for chunk, order in [(1, [0, 1, 2, 3, 4]), (3, [4, 2, 0, 1, 3]), (8, [1, 3])]:
        total = stage(bent, chunk).nats(flow, [examples[i] for i in order], seed=1).total
        assert_close(total, whole[order], rtol=1e-5, atol=0)
    # The same picture at other places in the data, under other seeds and in another stage has other probes.
    same = [Example(i, examples[0].image) for i in range(6)]
    volumes = stage(bent).nats(flow, same, seed=1).diffusion
    assert len(volumes.round(decimals=3).unique()) > 1
    names = [
        PictureDraws(seed, name, [picture], (3, 2, 2)).probe_seeds()[0]
        for seed, name, picture in [(1, "base", 0), (2, "base", 0), (1, "sr", 0), (1, "base", 1)]
    ]
    assert len(set(names)) == 4
    draws = PictureDraws(1, "base", [0], (3, 2, 2))
    assert draws.dequantisation().flatten()[0] != draws.uniform(0)[0], "the levels of a bound are drawn apart"


def test_probes_are_right_on_average():
    flow = {"steps": 4, "log_snr_min": -4.0, "log_snr_max": 4.0}
    examples = [Example(i, pictures(1)[0]) for i in range(64)]
    exact = stage(bent, 64).nats(FlowLikelihood(None, **flow), examples, seed=1).diffusion
    probed = stage(bent, 64).nats(FlowLikelihood(1, **flow), examples, seed=1).diffusion
    error = float((probed - exact).std()) / 8
    assert error > 1e-3
    assert abs(float((probed - exact).mean())) < 4 * error


def test_a_super_resolution_stage_is_judged_given_the_augmented_small_picture():
    """The likelihood is that under the condition which `bits_per_dim` tells too: the same picture, level and noise."""
    seen = []

    def told(x_t, log_snr, condition):
        seen.append(condition)
        return Posterior(0.1 * x_t + condition.low_res.mean((1, 2, 3), keepdim=True))

    sr = stage(told, 2, augmentation=GaussianAugmentation(-2.0, 6.0, default=2.0), aug_log_snr=2.0)
    examples = [Example(3, pictures(1, 4)[0], None, pictures(1)[0])]
    flow = FlowLikelihood(1, steps=1, log_snr_min=-1.0, log_snr_max=1.0)
    first, again = (sr.nats(flow, examples, seed=0).total for _ in range(2))
    sr.nats(ContinuousBound(points=1), examples, seed=0)
    assert torch.equal(first, again)
    assert all(torch.equal(condition.low_res, seen[0].low_res) for condition in seen)


@pytest.mark.parametrize(("given", "says"), [({"probes": 0}, "probes=0"), ({"steps": 0}, "steps=0")])
def test_what_cannot_be_is_refused(given, says):
    with pytest.raises(CascadeError, match=f"log_likelihood.{says}"):
        FlowLikelihood(**given)
