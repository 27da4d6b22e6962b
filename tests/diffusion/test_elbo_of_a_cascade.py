"""The chain rule over the stages of a cascade: on the exact 1/f² cascade, all expectations exact, and on 8 bits.

The 8-bit data are four pictures, as often each, of which two have the same small one; the denoisers are exact. So
−ln P(large) = ln 4, and what the stages' bounds add up to is known.
"""

import math

import pytest
import torch

from cascade import rng
from cascade.diffusion import (
    Condition,
    GaussianCascade,
    LinearLogSNRSchedule,
    LogNormalNoise,
    MixtureDenoiser,
    Posterior,
    ScheduleNoise,
    alpha_sigma,
)
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


# 8-bit pictures


LARGE = torch.tensor([[3, 90, 200, 255], [255, 200, 90, 3], [10, 20, 30, 250], [130, 131, 0, 99]], dtype=F64)
COUNT = 3000


def in_range(levels):
    return levels / 127.5 - 1


def small_of(large):
    """The 8-bit small pictures, (4, 1): the mean of four numbers, rounded."""
    return large.mean(1, keepdim=True).round()


class Named:
    """Noise like the pictures, and a level of each one's own, by the term."""

    def __init__(self, stage, size):
        self.stage, self.size = stage, size

    def normal(self, term):
        return rng.randn("8 bits", self.stage, term, shape=(4 * COUNT, self.size)).double()

    def uniform(self, term):
        return rng.uniform("8 bits", self.stage, term, shape=(4 * COUNT,)).double()


class Told:
    """The exact denoiser that is told a small picture z: p(k | x_t, z) ∝ p(x_t | x_k)·p(z | small_k)."""

    def __call__(self, x_t, log_snr, condition):
        far = self.far(x_t, LARGE, log_snr) + self.far(condition.low_res, small_of(LARGE), condition.aug_log_snr)
        return Posterior((-far / 2).softmax(1) @ in_range(LARGE))

    def far(self, x, pictures, log_snr):
        """‖x − αx_k‖²/σ², (B, K); a clean picture is taken for one with noise of 10⁻⁹."""
        alpha, sigma = (part[:, None] for part in alpha_sigma(log_snr.clamp(max=40.0)))
        return (x[:, None] - alpha[..., None] * in_range(pictures)).square().sum(2) / sigma.square()


def nats_of_all_stages(aug, weights=(1.0, 1.0, 1.0, 1.0)):
    """The mean of the sum over the stages, and its standard error."""
    large, small = (in_range(levels).repeat(COUNT, 1) for levels in (LARGE, small_of(LARGE)))
    base = MixtureDenoiser(torch.tensor(weights), in_range(small_of(LARGE)), torch.zeros(4, 1, 1))
    level = torch.full((4 * COUNT,), aug, dtype=F64)
    told = Condition(low_res=augment(small, level, Named("augmentation", 1).normal(0)), aug_log_snr=level)
    noise = ScheduleNoise(LinearLogSNRSchedule(-10.0, 14.0))
    nats = continuous_elbo(base, small, noise, Condition(), Named("base", 1), points=24).total
    nats = nats + continuous_elbo(Told(), large, noise, told, Named("sr", 4), points=24).total
    return float(nats.mean()), float(nats.std()) / len(nats) ** 0.5


def test_of_8_bit_data_the_sum_is_the_cost_of_the_largest_picture():
    """Told the small picture itself, a function of the large one: P(small)·P(large | small) = P(large)."""
    value, error = nats_of_all_stages(math.inf)
    assert error < 0.02
    assert value == pytest.approx(math.log(4), abs=4 * error)


@pytest.mark.parametrize(("aug", "told"), [(-9.0, 0.0), (11.0, 1.5 * math.log(2))])
def test_told_less_it_lies_above_by_what_noise_hides(aug, told):
    """H(small) + H(large | z) = ln 4 + H(small) − I(large; z), where H(small) = 1½ bits: all of it hidden, or none."""
    value, error = nats_of_all_stages(aug)
    assert value == pytest.approx(math.log(4) + 1.5 * math.log(2) - told, abs=4 * error + 0.01)


def test_a_stage_that_is_wrong_lies_above_by_its_divergence():
    """A base that expects the pair of the same small picture less often than it comes."""
    value, error = nats_of_all_stages(math.inf, (0.05, 0.05, 0.45, 0.45))
    divergence = 0.5 * math.log(0.5 / 0.1) + 0.5 * math.log(0.25 / 0.45)
    assert value == pytest.approx(math.log(4) + divergence, abs=4 * error)
