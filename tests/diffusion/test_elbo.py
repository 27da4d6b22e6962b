"""The ELBO of Gaussian data, whose entropy is known: no Monte Carlo, every expectation is exact."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.testing import assert_close

from cascade.diffusion import (
    Condition,
    CosineSchedule,
    DiscreteBetas,
    GaussianDenoiser,
    LadderNoise,
    LogNormalNoise,
    MixtureDenoiser,
    Posterior,
    ScheduleNoise,
    alpha_sigma,
)
from cascade.diffusion.elbo import continuous_elbo, discrete_elbo
from cascade.diffusion.elbo_ends import DiscretisedGaussian, GaussianDecoder, GaussianPrior, NoisyData, WhitePrior
from cascade.errors import CascadeError
from cascade.sampling import Ancestral

F64 = torch.float64
NOTHING = Condition()
MEAN = torch.tensor([0.5, -1.0, 0.2], dtype=F64)
ROOT = torch.tensor([[0.5, 0.0, 0.0], [0.3, 0.2, 0.0], [-0.4, 0.1, 0.6]], dtype=F64)
COVARIANCE = ROOT @ ROOT.T
GRIDS = [[4.0], [-5.0, 3.0], [-3.0, -1.0, 0.0, 6.0], [-20.0, -1.0, -0.9, 2.0, 20.0]]


def grid(*levels):
    return torch.tensor(levels, dtype=F64)


@pytest.fixture
def data(given, quadratic_points):
    """Pictures and noise over which the mean of a quadratic function is its expectation."""

    def make(mean=MEAN, root=ROOT):
        both = quadratic_points(2 * len(mean))
        return mean + both[:, : len(mean)] @ root.T, given(both[:, len(mean) :])

    return make


def noisy_entropy(covariance, log_snr):
    noisy = covariance + math.exp(-log_snr) * torch.eye(len(covariance), dtype=F64)
    return float(MultivariateNormal(torch.zeros(len(covariance), dtype=F64), noisy).entropy())


@pytest.mark.parametrize("levels", GRIDS, ids=len)
def test_with_the_optimal_variance_it_is_the_entropy_at_every_number_of_steps(levels, data):
    x, draws = data()
    bound = discrete_elbo(
        GaussianDenoiser(MEAN, COVARIANCE),
        x,
        grid(*levels, math.inf),
        NOTHING,
        draws,
        variance="optimal",
        prior=GaussianPrior(MEAN, COVARIANCE),
        decoder=GaussianDecoder(),
    )
    entropy = float(MultivariateNormal(MEAN, COVARIANCE).entropy())
    assert float(bound.total.mean()) == pytest.approx(entropy, abs=1e-7 if levels[-1] == 20 else 1e-10)


@pytest.mark.parametrize("levels", GRIDS, ids=len)
def test_without_a_decoder_it_is_the_entropy_of_the_noisy_data(levels, data):
    x, draws = data()
    bound = discrete_elbo(
        GaussianDenoiser(MEAN, COVARIANCE),
        x,
        grid(*levels),
        NOTHING,
        draws,
        variance="optimal",
        prior=GaussianPrior(MEAN, COVARIANCE),
        decoder=NoisyData(),
    )
    assert float(bound.total.mean()) == pytest.approx(noisy_entropy(COVARIANCE, levels[-1]), abs=1e-8)


def small_gap(data, steps, variance="small"):
    """How far the bound lies above the entropy on `steps` steps from λ = −8 to 8, for N(0.3, 0.7²)."""
    mean, root = MEAN[:1] - 0.2, torch.full((1, 1), 0.7, dtype=F64)
    x, draws = data(mean, root)
    oracle = GaussianDenoiser(mean, root**2)
    levels = torch.linspace(-8, 8, steps + 1, dtype=F64)
    prior = GaussianPrior(mean, root**2)
    bound = discrete_elbo(oracle, x, levels, NOTHING, draws, variance=variance, prior=prior, decoder=NoisyData())
    return float(bound.total.mean()) - noisy_entropy(root**2, 8.0)


def test_with_the_small_variance_it_lies_above_and_falls_on_nested_grids(data):
    gaps = [small_gap(data, 8 * 2**n) for n in range(6)]
    assert all(one > two > 0 for one, two in pairwise(gaps))
    ratios = [one / two for one, two in pairwise(gaps)]
    assert ratios[-1] == pytest.approx(2, rel=0.02)
    assert abs(ratios[-1] - 2) < abs(ratios[-3] - 2)
    assert small_gap(data, 64, "optimal") == pytest.approx(0, abs=1e-10)
    # Any other variance is worse than the optimal one.
    assert small_gap(data, 64, "large") > 0


@pytest.mark.parametrize("variance", ["small", "large", "optimal"])
def test_it_bounds_what_ancestral_sampling_really_gives(variance, data):
    # The density of the samples, a Gaussian whose moments are read off with unit impulses.
    mean, root = torch.zeros(1, dtype=F64), torch.full((1, 1), 0.7, dtype=F64)
    oracle, levels = GaussianDenoiser(mean, root**2), torch.linspace(-8, 6, 8, dtype=F64)
    start = alpha_sigma(levels[0])[1]
    impulses = torch.eye(8, dtype=F64)
    made = Ancestral(variance)(
        oracle, start * impulses[0][:, None], levels, NOTHING, lambda step, draw=0: impulses[step + 1][:, None]
    )
    spread = made.square().sum()
    alpha, sigma = alpha_sigma(6.0)
    truth = alpha**2 * 0.49 + sigma**2
    # In x/α, where the noisy data live.
    cross_entropy = 0.5 * ((2 * math.pi * spread).log() + truth / spread) - alpha.log()
    x, draws = data(mean, root)
    bound = discrete_elbo(oracle, x, levels, NOTHING, draws, variance=variance, decoder=NoisyData()).total.mean()
    assert float(cross_entropy) >= noisy_entropy(root**2, 6.0)
    assert float(bound) > float(cross_entropy)
    if variance == "optimal":
        assert float(bound) == pytest.approx(float(cross_entropy), abs=1e-3)


class Blind:
    """A denoiser that answers the same whatever it sees: x̂ = 0.25, and a variance half-way between the two."""

    def __call__(self, x_t, log_snr, condition):
        return Posterior(torch.full_like(x_t, 0.25), variance_fraction=torch.full_like(x_t, 0.5))


@pytest.mark.parametrize("t", [1, 20, 49])
def test_the_coefficient_is_the_lectures(t, normal, given):
    """β²/(2σ²α(1 − ᾱ)) with σ² = β̃ is ½·expm1(λ_{t−1} − λ_t), on ‖ε − ε̂‖²."""
    ladder = DiscreteBetas("linear", 50)
    kept = (1 - ladder.betas).cumprod(0)
    beta, before, now = ladder.betas[t], kept[t - 1], kept[t]
    slide = beta**2 / (2 * (1 - before) / (1 - now) * beta * (1 - beta) * (1 - now))
    assert_close(slide, 0.5 * (ladder.log_snrs[t - 1] - ladder.log_snrs[t]).expm1(), rtol=1e-10, atol=0)
    x, eps = normal(2, 3), normal(2, 3, name="eps")
    x_t = now.sqrt() * x + (1 - now).sqrt() * eps
    error = (eps - (x_t - now.sqrt() * 0.25) / (1 - now).sqrt()).square().sum(1)
    bound = discrete_elbo(Blind(), x, ladder.log_snrs[[t, t - 1]], NOTHING, given(eps), decoder=NoisyData())
    assert_close(bound.diffusion, slide * error, rtol=1e-9, atol=0)


@pytest.mark.parametrize("variance", ["large", "learned"])
def test_other_variances_are_judged_by_the_divergence_of_two_gaussians(variance, normal, given):
    x, eps, t, s = normal(2, 3), normal(2, 3, name="eps"), -0.5, 1.0
    (alpha_s, sigma_s), (_, sigma_t) = alpha_sigma(s), alpha_sigma(t)
    gone = -math.expm1(t - s)
    small, large = sigma_s**2 * gone, sigma_t**2 * gone
    wide = large if variance == "large" else (small * large).sqrt()
    ours, theirs = Normal(alpha_s * gone * x, small.sqrt()), Normal(alpha_s * gone * 0.25 + 0 * x, wide.sqrt())
    bound = discrete_elbo(Blind(), x, grid(t, s), NOTHING, given(eps), variance=variance, decoder=NoisyData())
    assert_close(bound.diffusion, kl_divergence(ours, theirs).sum(1), rtol=1e-10, atol=0)


ENDS = (-9.0, 7.0)
NOISES = [ScheduleNoise(CosineSchedule(*ENDS)), LogNormalNoise(-0.5, 2.0, *ENDS), LogNormalNoise(0.5, 20.0, *ENDS)]


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_the_continuous_bound_does_not_depend_on_the_schedule(noise, data):
    x, draws = data()
    # A denoiser of other data: the bound is then no entropy, and still the same under every schedule.
    wrong = GaussianDenoiser(MEAN + 0.3, 1.7 * COVARIANCE)
    oracle = GaussianDenoiser(MEAN, COVARIANCE)
    values = torch.linalg.eigvalsh(COVARIANCE)
    exact = 0.5 * sum(math.log1p(math.exp(ENDS[1]) * v) - math.log1p(math.exp(ENDS[0]) * v) for v in values.tolist())
    options = {"points": 400, "prior": GaussianPrior(MEAN, COVARIANCE), "decoder": NoisyData()}
    bound = continuous_elbo(oracle, x, noise, NOTHING, draws, **options)
    assert float(bound.diffusion.mean()) == pytest.approx(exact, rel=5e-4)
    assert float(bound.total.mean()) == pytest.approx(noisy_entropy(COVARIANCE, ENDS[1]), abs=4e-3)
    reference = continuous_elbo(wrong, x, NOISES[0], NOTHING, draws, **options)
    other = continuous_elbo(wrong, x, noise, NOTHING, draws, **options)
    assert_close(other.diffusion.mean(), reference.diffusion.mean(), rtol=5e-4, atol=0)
    assert float(other.total.mean()) > float(bound.total.mean()) + 0.1


def test_few_levels_are_right_on_average(data, given):
    # One level in each stratum, at all places of the stratum in turn, is a finer grid.
    x, draws = data()
    oracle, noise = GaussianDenoiser(MEAN, COVARIANCE), NOISES[0]
    fine = continuous_elbo(oracle, x, noise, NOTHING, draws, points=12).diffusion
    few = [
        continuous_elbo(oracle, x, noise, NOTHING, given(draws.eps, (k + 0.5) / 4), points=3).diffusion
        for k in range(4)
    ]
    assert_close(torch.stack(few).mean(0), fine, rtol=1e-12, atol=0)


def test_the_discrete_bound_tends_to_the_continuous_one(data):
    x, draws = data()
    wrong = GaussianDenoiser(MEAN + 0.3, 1.7 * COVARIANCE)
    limit = continuous_elbo(wrong, x, NOISES[2], NOTHING, draws, points=400).diffusion.mean()

    def gap(steps):
        levels = torch.linspace(*ENDS, steps + 1, dtype=F64)
        return float(discrete_elbo(wrong, x, levels, NOTHING, draws).diffusion.mean() - limit)

    assert gap(100) > 0
    assert gap(100) / gap(200) == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("variance", [None, 1.0])
def test_prior_is_the_divergence_from_white_noise(variance, normal):
    x = normal(2, 3)
    alpha, sigma = alpha_sigma(-3.0)
    wide = sigma if variance is None else torch.tensor(variance, dtype=F64).sqrt()
    expected = kl_divergence(Normal(alpha * x, sigma), Normal(0 * x, wide)).sum(1)
    assert_close(WhitePrior(variance).nats(x, -3.0), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("std", [0.3, 0.01, 0.001])
def test_decoder_is_the_mass_in_a_bin(std, normal):
    decoder = DiscretisedGaussian()
    levels = torch.linspace(-1, 1, 256, dtype=F64)
    mean = torch.tensor([[0.31], [-0.98], [1.2]], dtype=F64)
    mass = decoder.bins(levels, mean, std).exp()
    assert_close(mass.sum(1), torch.ones(3, dtype=F64), rtol=1e-12, atol=0)
    edges = torch.cat([-torch.ones(1, dtype=F64) * math.inf, (levels[1:] + levels[:-1]) / 2, torch.ones(1) * math.inf])
    above = torch.special.ndtr((edges - mean) / std)
    assert_close(mass, above.diff(dim=1), rtol=0, atol=1e-12)


def test_far_from_the_mean_the_decoder_keeps_its_digits():
    # ln of the tail, from its leading terms: ln φ(a)/a·(1 − 1/a²) with a the near edge.
    decoder, std = DiscretisedGaussian(), 0.002
    for x, mean in [(-0.2, 0.4), (0.4, -0.2)]:
        x = round((x + 1) * 127.5) / 127.5 - 1
        near = (abs(x - mean) - 1 / 255) / std
        expected = -(near**2) / 2 - math.log(near * math.sqrt(2 * math.pi)) + math.log1p(-1 / near**2)
        assert float(decoder.bins(torch.tensor(x, dtype=F64), torch.tensor(mean, dtype=F64), std)) == pytest.approx(
            expected, rel=1e-9
        )


def test_of_eight_bit_data_it_is_an_upper_bound_that_is_tight_in_the_limit(given):
    """An exact denoiser of 8-bit data: the bound lies above the entropy and comes close to it."""
    levels = torch.tensor([3, 4, 130, 255], dtype=F64)[:, None] / 127.5 - 1
    probability = torch.tensor([0.1, 0.4, 0.3, 0.2], dtype=F64)
    entropy = float(-(probability * probability.log()).sum())
    oracle = MixtureDenoiser(probability, levels, torch.zeros(4, 1, 1))
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(60))
    weights = weights / weights.sum()
    x, eps = levels.repeat_interleave(60, 0), nodes.repeat(4)[:, None]

    def mean(nats):
        return float((nats.reshape(4, 60) @ weights) @ probability)

    steps = [
        mean(discrete_elbo(oracle, x, torch.linspace(-12, 14, n, dtype=F64), NOTHING, given(eps)).total)
        for n in (20, 80, 240)
    ]
    assert steps[0] > steps[1] > steps[2] > entropy
    uniform = LogNormalNoise(-0.5, 100.0, -12, 14)  # as good as
    limit = mean(continuous_elbo(oracle, x, uniform, NOTHING, given(eps), points=300).total)
    assert entropy < limit < steps[2]
    assert limit == pytest.approx(entropy, abs=1e-3)


def test_terms_do_not_depend_on_the_batch_and_are_float64(data, given):
    x, draws = data()
    oracle, levels = GaussianDenoiser(MEAN, COVARIANCE), grid(-5.0, 1.0, 4.0)
    whole = discrete_elbo(oracle, x, levels, NOTHING, draws).total
    part = discrete_elbo(oracle, x[3:5], levels, NOTHING, given(draws.eps[3:5])).total
    assert_close(part, whole[3:5], rtol=1e-12, atol=0)
    single = discrete_elbo(oracle, x.float(), levels, NOTHING, given(draws.eps.float())).total
    assert single.dtype == F64
    assert_close(single, whole, rtol=1e-4, atol=1e-4)


def test_bounds_without_levels_are_refused(data):
    x, draws = data()
    oracle = GaussianDenoiser(MEAN, COVARIANCE)
    with pytest.raises(CascadeError, match="at least one level"):
        discrete_elbo(oracle, x, grid(math.inf), NOTHING, draws)
    with pytest.raises(CascadeError, match="points=0"):
        continuous_elbo(oracle, x, NOISES[0], NOTHING, draws, points=0)


def test_a_ladder_has_no_continuous_bound(data):
    x, draws = data()
    with pytest.raises(CascadeError, match="a ladder has no density"):
        continuous_elbo(GaussianDenoiser(MEAN, COVARIANCE), x, LadderNoise(), NOTHING, draws, points=4)
