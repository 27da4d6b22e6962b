"""Conditioning augmentation, truncated and not, on the exact 1/f² cascade: what the chain makes and what it should.

Every map is linear and diagonal in frequency, so a unit impulse on all frequencies, one picture for each draw of noise,
measures the variance of whatever a sampler makes: the sum of squares over the batch.
"""

import math

import pytest
import torch

from cascade.diffusion import Condition
from cascade.diffusion.augmentation import augment
from cascade.diffusion.cascade_oracle import GaussianCascade, frequencies, gaussian_kl, pictures_of
from cascade.sampling import DDIM, Ancestral, DPMSolverPP, Heun, uniform_log_snr
from cascade.sampling.grid import cut

F64 = torch.float64
LOW, HIGH, ROWS = 2, 4, 24
CASCADE = GaussianCascade((LOW, HIGH), std=0.7)
SPOILT = GaussianCascade((LOW,), exponent=1.2, std=1.1)
BASE_GRID = uniform_log_snr(-9.0, 9.0, 9)
GRID = uniform_log_snr(-9.0, 7.0, 7)[:-1]
LEVELS = [-4.0, -1.0, 0.5, 3.0, 6.0]
FINISHED = 40.0  # σ² = 4e-18
levels = pytest.mark.parametrize("aug", LEVELS)
ways = pytest.mark.parametrize("truncated", [True, False], ids=["truncated", "finished"])


class Impulses:
    """Draws of noise: each is 1 on all frequencies in a picture of its own, and 0 in the others."""

    def __init__(self):
        self.drawn = 0

    def __call__(self, side):
        coefficients = torch.zeros(ROWS, 1, side, side, dtype=F64)
        coefficients[self.drawn] = 1  # an error where there are more draws than rows
        self.drawn += 1
        return pictures_of(coefficients)


def alpha_sigma2(level):
    return math.sqrt(1 / (1 + math.exp(-level))), 1 / (1 + math.exp(level))


def start(level, mean, variance, noise):
    """The exact marginal at a level of coefficients N(mean, variance)."""
    alpha, sigma2 = alpha_sigma2(level)
    return pictures_of(alpha * mean + (alpha**2 * variance + sigma2).sqrt() * frequencies(noise))


def small_pictures(base, sampler, aug, impulses, truncated):
    """x_λ at λ_a: where the base stops, or a finished picture to which noise is added."""
    grid = cut(BASE_GRID, aug if truncated else FINISHED)
    variance = base.variances(0)
    x = start(float(grid[0]), 0 * variance, variance, impulses(LOW))
    made = sampler(base.denoiser(0), x, grid, Condition(), lambda step, draw=0: impulses(LOW))
    return made if truncated else augment(made, torch.full((ROWS,), aug, dtype=F64), impulses(LOW))


def chain(base, sampler, aug, truncated):
    """Variances (d, d) of x_λ and, without the noise of the last level, of what an exact SR stage makes of it."""
    impulses = Impulses()
    told = small_pictures(base, sampler, aug, impulses, truncated)
    condition = Condition(low_res=told, aug_log_snr=torch.full((ROWS,), aug, dtype=F64))
    stage = CASCADE.denoiser(1)
    mean, variance = stage.prior(condition, torch.zeros(ROWS, 1, HIGH, HIGH, dtype=F64))
    x = start(float(GRID[0]), mean, variance, impulses(HIGH))
    made = Ancestral("optimal")(stage, x, GRID, condition, lambda step, draw=0: impulses(HIGH))
    alpha, sigma2 = alpha_sigma2(float(GRID[-1]))
    return spread(told), (spread(made) - sigma2) / alpha**2


def small_variances(base, sampler, aug, truncated):
    """Variances of x_λ alone."""
    return spread(small_pictures(base, sampler, aug, Impulses(), truncated))


def spread(pictures):
    return frequencies(pictures).square().sum((0, 1))


def exact(got, want, tolerance=1e-9):
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


@levels
@ways
def test_an_exact_base_gives_exactly_the_data_either_way(aug, truncated):
    told, made = chain(CASCADE, Ancestral("optimal"), aug, truncated)
    exact(told, CASCADE.augmented_variances(1, CASCADE.variances(0), aug))
    exact(made, CASCADE.variances(1))


@levels
@ways
def test_a_spoilt_base_gives_the_closed_form_either_way(aug, truncated):
    told, made = chain(SPOILT, Ancestral("optimal"), aug, truncated)
    exact(told, CASCADE.augmented_variances(1, SPOILT.variances(0), aug))
    exact(made, CASCADE.chained_variances(1, SPOILT.variances(0), aug))


@ways
@pytest.mark.parametrize("sampler", [Ancestral(), Ancestral("large"), DDIM(), DPMSolverPP(2), Heun()], ids=str)
@pytest.mark.parametrize("base", [CASCADE, SPOILT], ids=["exact denoiser", "spoilt denoiser"])
def test_the_chain_is_no_further_from_the_data_than_what_it_is_told(base, sampler, truncated):
    """Data processing, for what samplers of few steps make: KL(chain ‖ data) ≤ KL(told ‖ augmented data)."""
    for aug in LEVELS:
        told, made = chain(base, sampler, aug, truncated)
        bound = gaussian_kl(told, CASCADE.augmented_variances(1, CASCADE.variances(0), aug))
        assert 0 <= float(gaussian_kl(made, CASCADE.variances(1))) <= float(bound) + 1e-9


@ways
def test_augmentation_hides_what_is_wrong_with_the_base(truncated):
    """KL(chain ‖ data) falls as noise is added; without any (λ → ∞) it is that of the spoilt pictures themselves."""
    divergences = [
        float(gaussian_kl(chain(SPOILT, Ancestral("optimal"), aug, truncated)[1], CASCADE.variances(1)))
        for aug in [30.0, *reversed(LEVELS)]
    ]
    assert divergences == sorted(divergences, reverse=True)
    assert divergences[0] == pytest.approx(float(gaussian_kl(SPOILT.variances(0), CASCADE.variances(0))), rel=1e-6)
    assert divergences[-1] < 1e-2 * divergences[0]


@pytest.mark.parametrize("sampler", [DDIM(), DDIM(1.0)], ids=str)
def test_neither_way_is_always_nearer_to_the_augmented_data(sampler):
    """Truncation spares the errors of the steps that are not taken; a finished picture is given noise without error."""

    def divergences(cascade, aug):
        truth = cascade.augmented_variances(1, cascade.variances(0), aug)
        return [float(gaussian_kl(small_variances(cascade, sampler, aug, way), truth)) for way in (True, False)]

    for aug in LEVELS:
        stopped, finished = divergences(CASCADE, aug)
        assert 0 < stopped < finished
    stopped, finished = divergences(GaussianCascade((2, 6), exponent=1.2, std=1.3), 0.0)
    assert 0 < 1.1 * finished < stopped
