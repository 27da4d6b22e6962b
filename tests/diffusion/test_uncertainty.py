"""EDM2's learned weight: u(λ) ends at the logarithm of the mean loss, and every level then counts as one."""

import math
from statistics import NormalDist

import pytest
import torch
from torch.testing import assert_close

from cascade.diffusion import (
    Condition,
    GaussianDenoiser,
    LogNormalNoise,
    MultiScaleLoss,
    PlainLoss,
    Posterior,
    UncertaintyLoss,
    UnitWeighting,
    VWeighting,
    diffusion_loss,
)
from cascade.diffusion.uncertainty import LogUncertainty, Uncertain
from cascade.registry import build

LEVELS = torch.tensor([-8.0, -1.0, 0.0, 2.5, 9.0], dtype=torch.float64)


def test_u_is_a_sum_of_waves_in_edms_noise_number(normal):
    head = LogUncertainty(16).double()
    head.weight.data.copy_(normal(16))
    c_noise = (-LEVELS / 2).exp().log() / 4
    waves = [
        math.sqrt(2) * torch.cos(2 * math.pi * (f * c_noise + phase))
        for f, phase in zip(head.frequency.tolist(), head.phase.tolist(), strict=True)
    ]
    assert_close(head(LEVELS).detach(), sum(w * wave for w, wave in zip(head.weight.tolist(), waves, strict=True)))


def test_frequencies_and_phases_are_quantiles_of_edm2s_distributions():
    head = LogUncertainty()
    assert len(head.weight) == 128
    quantiles = [NormalDist().inv_cdf((i + 0.5) / 128) for i in range(128)]
    assert head.frequency.tolist() == pytest.approx(quantiles, abs=1e-6)
    # Every interval of length 1/16 holds its share of the phases, give or take one, also among the low frequencies.
    for part in (head.phase, head.phase[32:96]):
        counts = torch.histc(part, 16, 0, 1)
        assert float((counts - len(part) / 16).abs().max()) <= 2
    assert LogUncertainty(1).frequency.tolist() == [0]


def test_before_training_it_is_the_loss_inside(normal):
    x, eps, mean = normal(5, 1, 64, 64), normal(5, 1, 64, 64, name="eps"), normal(5, 1, 64, 64, name="mean")
    arguments = (lambda *_: Posterior(mean), x, LEVELS, eps, Condition(), UnitWeighting())
    for inside in (PlainLoss(), MultiScaleLoss(8)):
        assert torch.equal(UncertaintyLoss(inside)(*arguments).detach(), inside(*arguments))
    nested = build("loss", {"name": "uncertainty", "channels": 8, "loss": {"name": "multi_scale", "smallest": 8}})
    assert nested.loss == MultiScaleLoss(8)
    assert nested.log_uncertainty.weight.shape == (8,)


def test_u_learns_the_logarithm_of_the_mean_loss_and_every_level_counts_as_one():
    # For data N(0, s²) the exact denoiser's loss at λ is ratio·E(ε − ε̂)² = ratio·sigmoid(λ + 2 ln s); two of (x, ε)
    # give its expectation exactly. Training is full-batch over levels from −10 to 10: no randomness.
    scale, levels = 0.4, torch.linspace(-10, 10, 201, dtype=torch.float64)
    oracle = GaussianDenoiser(torch.zeros(1, dtype=torch.float64), torch.full((1, 1), scale**2, dtype=torch.float64))
    weighting = VWeighting(LogNormalNoise())
    root = math.sqrt(2)
    x, eps = (torch.tensor([[a], [b]], dtype=torch.float64) for a, b in ((root * scale, 0), (0, root)))
    both = (x.repeat_interleave(201, 0), levels.repeat(2), eps.repeat_interleave(201, 0), Condition(), weighting)
    loss = UncertaintyLoss(channels=128).double()
    optimizer = torch.optim.LBFGS(loss.parameters(), max_iter=400, history_size=50, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        mean = loss(oracle, *both).mean()
        mean.backward()
        return mean

    optimizer.step(closure)
    expected = diffusion_loss(oracle, *both).reshape(2, -1).mean(0)
    closed = weighting.log_ratio(levels).exp() * (levels + 2 * math.log(scale)).sigmoid()
    assert_close(expected, closed, rtol=1e-9, atol=0)
    u = loss.log_uncertainty(levels).detach()
    assert float((u - closed.log()).abs().max()) < 0.03
    assert_close((-u).exp() * expected, torch.ones_like(u), rtol=0.03, atol=0)
    # The least value is 1 + E ln loss, what no u goes below.
    assert float(closure().detach()) == pytest.approx(float(1 + closed.log().mean()), abs=1e-3)
    assert float(closure().detach()) > float(1 + closed.log().mean())


def test_all_else_in_the_posterior_is_the_denoisers_own(normal):
    posterior = Posterior(normal(5, 2), normal(5, 2, 2), normal(5, 2, name="f"))
    head = LogUncertainty(4).double()
    head.weight.data.fill_(0.3)
    told = Uncertain(lambda *_: posterior, head)(posterior.mean, LEVELS, Condition())
    assert told.mean is posterior.mean
    assert told.covariance is posterior.covariance
    assert told.variance_fraction is posterior.variance_fraction
    assert torch.equal(told.log_uncertainty, head(LEVELS))


def test_u_is_computed_in_single_precision_under_autocast():
    head = LogUncertainty()
    head.weight.data.fill_(1 / 128)
    with torch.autocast("cpu", torch.bfloat16):
        cast = head(LEVELS.float())
    assert cast.dtype == torch.float32
    assert torch.equal(cast, head(LEVELS.float()))


def test_a_head_without_features_is_refused():
    with pytest.raises(ValueError, match="channels must be at least 1"):
        LogUncertainty(0)
