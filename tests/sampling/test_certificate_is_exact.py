"""The sampler certificate: its moments are those of dense matrices, its KL is that of whole pictures, its laws hold."""

import math
from itertools import pairwise

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from cascade.diffusion import Condition
from cascade.diffusion.cascade_oracle import DiagonalGaussian, GaussianCascade, dct_matrix
from cascade.diffusion.oracle import GaussianDenoiser
from cascade.errors import CascadeError
from cascade.rng import randn
from cascade.sampling import DDIM, Ancestral, DPMSolverPP, Heun, PredictorCorrector, karras, uniform_log_snr
from cascade.sampling.certificate import certify, output_moments, picture_bands
from cascade.sampling.transition import transitions

F64 = torch.float64


def levels(grid):
    """(α, σ) of each level."""
    return [(1 / math.sqrt(1 + math.exp(-x)), 1 / math.sqrt(1 + math.exp(x))) for x in grid.tolist()]


class Dense:
    """A random vector M·m + L·ξ: m the data's mean, ξ white noise that grows by D numbers with each draw."""

    def __init__(self, mean, noise):
        self.mean, self.noise = mean, noise

    def combine(self, a, other, b):
        width = max(self.noise.shape[1], other.noise.shape[1])
        grow = lambda part: torch.nn.functional.pad(part, (0, width - part.shape[1]))  # noqa: E731
        return Dense(a * self.mean + b * other.mean, a * grow(self.noise) + b * grow(other.noise))

    def plus_noise(self, scale):
        return Dense(self.mean, torch.cat([self.noise, scale * torch.eye(len(self.noise), dtype=F64)], 1))

    def predict(self, covariance, alpha, sigma):
        """x̂ = m + G(x − αm), G = αΣ(α²Σ + σ²)⁻¹."""
        eye = torch.eye(len(covariance), dtype=F64)
        gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * eye)
        return Dense(gain @ self.mean + eye - alpha * gain, gain @ self.noise)


def by_matrices(sampler, covariance, grid):
    """A sampler's recursion on whole vectors, in the papers' forms."""
    points = levels(grid)
    dim = len(covariance)
    x = Dense(torch.zeros(dim, dim, dtype=F64), points[0][1] * torch.eye(dim, dtype=F64))
    before = None
    for (a, s), (b, q) in pairwise(points):
        mean = x.predict(covariance, a, s)
        eps = x.combine(1 / s, mean, -a / s)
        if q == 0:
            return mean
        if isinstance(sampler, DDIM):
            fresh = sampler.eta * math.sqrt(q**2 / s**2 * (1 - a**2 / b**2))
            x = mean.combine(b, eps, math.sqrt(q**2 - fresh**2)).plus_noise(fresh)
        elif isinstance(sampler, DPMSolverPP):
            h = math.log(b / q) - math.log(a / s)
            used = mean if before is None else mean.combine(1 + h / (2 * before[0]), before[1], -h / (2 * before[0]))
            x, before = x.combine(q / s, used, -b * math.expm1(-h)), (h, mean)
        else:
            euler = x.combine(b / a, eps, b * (q / b - s / a))
            after = euler.predict(covariance, b, q)
            slope = eps.combine(0.5, euler.combine(1 / q, after, -b / q), 0.5)
            x = x.combine(b / a, slope, b * (q / b - s / a))
    return x


@pytest.mark.parametrize("grid", [karras(5), uniform_log_snr(-7.0, 6.0, 6)[:-1]], ids=["clean", "finite"])
@pytest.mark.parametrize("sampler", [DDIM(), DDIM(0.6), DDIM(1.0), DPMSolverPP(2), Heun()], ids=str)
def test_moments_are_those_of_dense_matrices(sampler, grid):
    basis, _ = torch.linalg.qr(randn("certificate", shape=(3, 3)).to(F64))
    values = torch.tensor([0.03, 0.7, 5.0], dtype=F64)
    want = by_matrices(sampler, basis @ values.diag() @ basis.mT, grid)
    got = output_moments(sampler, values, grid)
    # Heun's few steps from σ = 80 overshoot; what is small beside that has fewer digits.
    scale = max(1.0, got.variance.max().item())
    covariance = basis @ got.variance.diag() @ basis.mT
    torch.testing.assert_close(covariance / scale, want.noise @ want.noise.mT / scale, rtol=0, atol=1e-10)
    mean = basis @ got.gain.diag() @ basis.mT
    torch.testing.assert_close(mean / scale**0.5, want.mean / scale**0.5, rtol=0, atol=1e-10)


def test_draws_and_calls_are_counted():
    grid = uniform_log_snr(-7.0, 6.0, 6)
    counted = {str(s): output_moments(s, torch.ones(1), grid) for s in (DDIM(), Ancestral(), Heun())}
    assert [(m.calls, m.draws) for m in counted.values()] == [(6, 0), (6, 5), (11, 0)]


def pixel_map(sampler, mean, covariance, grid):
    """The affine map of a sampler on whole pictures: its constant part, and the matrix of all its noise."""
    dim = len(covariance)
    steps = len(grid) - 1
    start = levels(grid)[0][1]
    rows = 1 + dim * (1 + steps)
    x = torch.zeros(rows, dim, dtype=F64)
    x[1 : 1 + dim] = start * torch.eye(dim, dtype=F64)

    def impulses(step, draw=0):
        z = torch.zeros(rows, dim, dtype=F64)
        z[1 + dim * (step + 1) : 1 + dim * (step + 2)] = torch.eye(dim, dtype=F64)
        return z

    out = sampler(GaussianDenoiser(mean, covariance), x, grid, Condition(), impulses)
    return out[0], (out[1:] - out[0]).mT


def pixel_covariance(side):
    basis = torch.kron(dct_matrix(side), dct_matrix(side))
    return basis.mT @ GaussianCascade((side,)).variances(0).flatten().diag() @ basis


@pytest.mark.parametrize("end", ["clean", "finite"])
@pytest.mark.parametrize("sampler", [DDIM(), Ancestral("small"), Ancestral("optimal")], ids=str)
def test_the_divergence_is_that_of_whole_pictures(sampler, end):
    grid = uniform_log_snr(-6.0, 7.0, 5)
    grid = grid if end == "clean" else grid[:-1]
    covariance = pixel_covariance(4)
    zero = torch.zeros(16, dtype=F64)
    _, noise = pixel_map(sampler, zero, covariance, grid)
    alpha, sigma = levels(grid)[-1]
    data = MultivariateNormal(zero, alpha**2 * covariance + sigma**2 * torch.eye(16, dtype=F64))
    want = kl_divergence(MultivariateNormal(zero, noise @ noise.mT), data).item()
    got = certify(sampler, grid, picture_bands(4, width=1e-9))
    assert got.nats == pytest.approx(want, rel=1e-8)
    assert got.per_dimension == pytest.approx(want / 16, rel=1e-8)


@pytest.mark.parametrize("end", ["clean", "finite"])
def test_the_divergence_of_super_resolution_is_the_mean_over_augmented_small_pictures(end):
    """All in pixels: a small picture as bright as the large one, and Bayes' rule by a Schur complement."""
    level, grid, sampler = 3.0, uniform_log_snr(-6.0, 2.0, 5), DDIM(0.5)
    grid = grid if end == "clean" else grid[:-1]
    covariance = pixel_covariance(4)
    low_of = torch.kron(*[dct_matrix(2).mT @ dct_matrix(4)[:2]] * 2) * (2 / 4)
    assert low_of.sum(1).allclose(torch.ones(4, dtype=F64))  # grey stays grey
    ((alpha, sigma),) = levels(torch.tensor([level]))
    of_low = alpha**2 * low_of @ covariance @ low_of.mT + sigma**2 * torch.eye(4, dtype=F64)
    gain = alpha * covariance @ low_of.mT @ torch.linalg.inv(of_low)
    left = covariance - gain @ of_low @ gain.mT

    kept, blurred = levels(grid)[-1]
    data = kept**2 * left + blurred**2 * torch.eye(16, dtype=F64)
    noise = pixel_map(sampler, torch.zeros(16, dtype=F64), left, grid)[1]
    made = noise @ noise.mT
    moved = torch.stack([pixel_map(sampler, column, left, grid)[0] - kept * column for column in gain.mT], 1)
    inverse = torch.linalg.inv(data)
    want = 0.5 * (
        (inverse @ made).trace() - 16 - torch.logdet(made) + torch.logdet(data)
        + (inverse @ moved @ of_low @ moved.mT).trace()
    )  # fmt: skip
    bands = picture_bands(4, 2, level, width=1e-9)
    assert float((bands.variance * bands.count).sum()) == pytest.approx(float(left.trace()), rel=1e-9)
    assert certify(sampler, grid, bands).nats == pytest.approx(float(want), rel=1e-7)


def test_what_a_clean_small_picture_tells_is_left_out():
    bands = picture_bands(8, 4)
    assert int(bands.count.sum()) == 64 - 16
    assert not bool(bands.told.any())


def test_told_frequencies_and_others_of_the_same_variance_are_bands_apart():
    bands = picture_bands(32, 8, 3.0)
    assert int(bands.count[bands.told > 0].sum()) == 8 * 8
    assert int(bands.count.sum()) == 32 * 32


@pytest.mark.parametrize("n", [2, 5, 40])
@pytest.mark.parametrize("grid", [uniform_log_snr, karras], ids=["uniform", "karras"])
def test_the_optimal_variance_is_certified_to_be_exact(grid, n):
    """From the exact marginal its output is the exact marginal, at any number of steps."""
    log_snrs = (uniform_log_snr(-8.0, 8.0, n) if grid is uniform_log_snr else karras(n, sigma_max=20.0))[:-1]
    bands = picture_bands(16)
    alpha, sigma = levels(log_snrs)[0]
    start = alpha**2 * bands.variance + sigma**2
    optimal, small = (certify(Ancestral(v), log_snrs, bands, start).nats for v in ("optimal", "small"))
    assert abs(optimal) < 1e-10
    assert small > 1e-3


ORDERS = [(DDIM(), 2), (DDIM(1.0), 2), (Ancestral("small"), 2), (DPMSolverPP(2), 4), (Heun(), 4)]


@pytest.mark.parametrize(("sampler", "slope"), ORDERS, ids=str)
def test_the_divergence_falls_as_the_square_of_the_error(sampler, slope):
    """A sampler of order k from the exact marginal: errors ~ N⁻ᵏ, KL ~ N⁻²ᵏ on a finite interval."""
    bands = picture_bands(8)
    alpha, sigma = levels(torch.tensor([-3.0]))[0]
    start = alpha**2 * bands.variance + sigma**2
    grids = [torch.linspace(-3.0, 3.0, n + 1, dtype=F64) for n in (64, 128)]
    coarse, fine = (certify(sampler, grid, bands, start).nats for grid in grids)
    assert math.log2(coarse / fine) == pytest.approx(slope, abs=0.25)


def test_bands_stand_for_their_frequencies():
    grid = uniform_log_snr(-9.0, 9.0, 12)
    each, bands = picture_bands(32, width=1e-9), picture_bands(32)
    assert len(bands.count) < len(each.count) / 2
    for whole in (lambda b: b.count.sum(), lambda b: (b.variance * b.count).sum()):
        assert float(whole(bands)) == pytest.approx(float(whole(each)), rel=1e-12)
    assert float((bands.variance * bands.count).sum() / 32**2) == pytest.approx(0.5**2)
    assert (bands.frequency.diff() > 0).all()
    assert bands.frequency[-1].item() == pytest.approx(31 / math.sqrt(2), rel=0.02)
    for sampler in (DDIM(), Ancestral(), DPMSolverPP()):
        got, want = (certify(sampler, grid, b).nats for b in (bands, each))
        assert got == pytest.approx(want, rel=2e-4)


def test_the_loss_of_the_exact_denoiser_is_its_variance_in_eps():
    bands, level = picture_bands(8), torch.tensor([-2.0, 1.5], dtype=F64)
    oracle = DiagonalGaussian(bands.variance)
    left = oracle(torch.zeros(2, len(bands.count), dtype=F64), level, Condition()).covariance.diagonal(dim1=1, dim2=2)
    want = (level.exp()[:, None] * left * bands.count).sum(1) / 64
    torch.testing.assert_close(bands.denoising_loss(level), want)


class Clamped:
    def __call__(self, denoiser, x, log_snrs, condition, randn):
        return DDIM()(denoiser, x, log_snrs, condition, randn).clamp(-0.1, 0.1)


class Restless:
    """Draws other noise when it meets other numbers."""

    def __call__(self, denoiser, x, log_snrs, condition, randn):
        return x + randn(int(x.numel()))


class Growing:
    def __call__(self, denoiser, x, log_snrs, condition, randn):
        for step in transitions(log_snrs):
            x = 1e300 * x + randn(step.index)
        return x


@pytest.mark.parametrize(
    ("sampler", "why"),
    [
        (Clamped(), "not an affine map"),
        (PredictorCorrector(), "not an affine map"),
        (Restless(), "other noise"),
        (Growing(), "diverges"),
    ],
)
def test_what_cannot_be_certified_is_refused(sampler, why):
    with pytest.raises(CascadeError, match=why):
        output_moments(sampler, torch.ones(2), uniform_log_snr(-9.0, 9.0, 4))


def test_what_would_take_too_long_is_refused():
    with pytest.raises(CascadeError, match="too many to certify"):
        output_moments(Ancestral(), torch.ones(2), uniform_log_snr(-9.0, 9.0, 4), max_work=10)
    with pytest.raises(CascadeError, match="more than 4096 network calls"):
        output_moments(Ancestral(), torch.ones(2), uniform_log_snr(-9.0, 9.0, 5000))
