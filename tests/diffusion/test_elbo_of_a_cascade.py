"""The chain rule over the stages of a cascade, on the exact 1/f² cascade: every expectation is exact."""

import math

import pytest
import torch

from cascade.diffusion import Condition, GaussianCascade, LogNormalNoise
from cascade.diffusion.augmentation import augment
from cascade.diffusion.cascade_oracle import dct_matrix, pictures_of, project
from cascade.diffusion.elbo import continuous_elbo, discrete_elbo
from cascade.diffusion.elbo_ends import GaussianPrior, NoisyData

F64 = torch.float64
CASCADE = GaussianCascade((2, 3, 5), std=0.6)
LOG_SNR_MAX = 7.0
GRID = torch.tensor([-4.0, 0.0, 2.0, LOG_SNR_MAX], dtype=F64)


@pytest.fixture
def stage_nats(given, quadratic_points):
    """stage_nats(stage, aug, bound): the expected bound of one stage, told the real small picture at that level."""

    def expected(stage, aug, bound):
        side = CASCADE.sides[stage]
        low = CASCADE.sides[stage - 1] if stage else 0
        sizes = [side**2, side**2, low**2]
        z, eps, spoil = quadratic_points(sum(sizes)).split(sizes, dim=1)
        x = CASCADE.pictures(z.reshape(-1, 1, side, side), stage)
        condition = Condition()
        if stage:
            level = torch.full((len(x),), aug, dtype=F64)
            told = augment(project(x, low), level, spoil.reshape(-1, 1, low, low))
            condition = Condition(low_res=told, aug_log_snr=level)
        oracle = CASCADE.denoiser(stage)
        mean, variance = oracle.prior(condition, x)
        pixels = torch.kron(dct_matrix(side), dct_matrix(side))
        covariance = pixels.mT @ variance.expand(len(x), 1, side, side).flatten(1).diag_embed() @ pixels
        prior = GaussianPrior(pictures_of(mean.expand_as(x)).flatten(1), covariance)
        terms = bound(oracle, x, condition, given(eps.reshape(x.shape)), prior=prior, decoder=NoisyData())
        return float(terms.total.mean())

    return expected


def discrete(oracle, x, condition, draws, **ends):
    return discrete_elbo(oracle, x, GRID, condition, draws, variance="optimal", **ends)


def continuous(oracle, x, condition, draws, **ends):
    noise = LogNormalNoise(-0.75, 20.0, -4.0, LOG_SNR_MAX)
    return continuous_elbo(oracle, x, noise, condition, draws, points=60, **ends)


@pytest.mark.parametrize(("bound", "tolerance"), [(discrete, 1e-8), (continuous, 5e-3)])
def test_the_sum_is_the_entropy_of_the_largest_picture_and_what_its_known_numbers_cost(stage_nats, bound, tolerance):
    """h(y_0) + Σ h(y_i | x_{i−1}) = h(y) + Σ (n_low/2)·ln(2πe·e^{−λmax}), y = x + e^{−λmax/2}·n."""
    total = sum(stage_nats(stage, math.inf, bound) for stage in range(3))
    whole = GaussianCascade((5,), std=0.6)
    known = (2**2 + 3**2) / 2 * math.log(2 * math.pi * math.e * math.exp(-LOG_SNR_MAX))
    assert total == pytest.approx(whole.entropy(0, math.inf, LOG_SNR_MAX) + known, abs=tolerance)


@pytest.mark.parametrize("aug", [4.0, 0.0, -3.0])
def test_a_stage_at_an_augmentation_level_is_the_entropy_given_the_augmented_picture(stage_nats, aug):
    nats = stage_nats(1, aug, discrete)
    assert nats == pytest.approx(CASCADE.entropy(1, aug, LOG_SNR_MAX), abs=1e-8)


def test_what_is_told_lowers_the_bound_of_a_stage():
    entropies = [CASCADE.entropy(2, aug, LOG_SNR_MAX) for aug in (math.inf, 6.0, 2.0, 0.0, -4.0)]
    alone = float(0.5 * (2 * math.pi * math.e * (CASCADE.variances(2) + math.exp(-LOG_SNR_MAX))).log().sum())
    assert entropies == sorted(entropies)
    assert entropies[-1] < alone
