"""With a Gaussian oracle a sampler is an affine map of its noise: its output moments are exact, and have a closed form.

The map is read with one batch of unit impulses. The recursions it is held against are scalar, one for each eigenvalue
of the data's covariance, and written in other forms than the samplers: Bayes' rule, ᾱ, and x/α over σ.
"""

import math
from itertools import pairwise

import pytest
import torch

from cascade.diffusion import Condition, CosineSchedule, Posterior
from cascade.diffusion.oracle import GaussianDenoiser
from cascade.rng import randn
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
    uniform_t,
)

F64 = torch.float64
FRACTION = 0.3
IRREGULAR = torch.tensor([-7.0, -6.5, -3.0, -2.9, 0.4, 2.0, 6.0, 6.1], dtype=F64)
GRIDS = {
    "uniform_t": uniform_t(CosineSchedule(), 6),
    "karras": karras(6),
    "karras, finite": karras(6)[:-1],
    "uniform λ": uniform_log_snr(-9.0, 9.0, 7),
    "uniform λ, finite": uniform_log_snr(-9.0, 9.0, 7)[:-1],
    "irregular": IRREGULAR,
    "one step": torch.tensor([-3.0, math.inf], dtype=F64),
    "one step, finite": torch.tensor([-3.0, 1.0], dtype=F64),
}
SAMPLERS = [
    Ancestral("small"),
    Ancestral("large"),
    Ancestral("learned"),
    Ancestral("optimal"),
    DDIM(0.0),
    DDIM(0.4),
    DDIM(1.0),
    DPMSolver(1),
    DPMSolver(2),
    DPMSolver(3),
    DPMSolverPP(1),
    DPMSolverPP(2),
    DPMSolverPP(3),
    DPMSolverPP(3, published=True),
    DPMSolverPPSingle(1),
    DPMSolverPPSingle(2),
    DPMSolverPPSingle(3),
    SDEDPMSolverPP(1, 1.0),
    SDEDPMSolverPP(2, 0.0),
    SDEDPMSolverPP(2, 0.4),
    SDEDPMSolverPP(2, 1.0),
    SDEDPMSolverPP(2, 3.0),
    Heun(),
    Heun(s_churn=2.0),
    Heun(s_churn=9.0, s_min=0.1, s_max=10.0, s_noise=1.1),
]


class WithFraction:
    """The exact denoiser, also giving a constant variance fraction."""

    def __init__(self, oracle):
        self.oracle = oracle

    def __call__(self, x_t, log_snr, condition):
        posterior = self.oracle(x_t, log_snr, condition)
        return Posterior(posterior.mean, posterior.covariance, torch.full_like(x_t, FRACTION))


def regression(m, c, alpha, sigma):
    """x̂ = a + b x_t of scalar data N(m, c), and the variance that is left."""
    gain = alpha * c / (alpha**2 * c + sigma**2)
    return m - gain * alpha * m, gain, c - gain * alpha * c


class Affine:
    """A scalar random variable: constant + coefficients · independent standard normals."""

    def __init__(self, constant, noise=()):
        self.constant, self.noise = constant, list(noise)

    def combine(self, a, other, b):
        size = max(len(self.noise), len(other.noise))
        pad = lambda noise: noise + [0.0] * (size - len(noise))  # noqa: E731
        return Affine(
            a * self.constant + b * other.constant,
            [a * p + b * q for p, q in zip(pad(self.noise), pad(other.noise), strict=True)],
        )

    def plus_noise(self, scale):
        return Affine(self.constant, [*self.noise, scale])

    def predict(self, m, c, alpha, sigma):
        a, b, _ = regression(m, c, alpha, sigma)
        return Affine(a + b * self.constant, [b * q for q in self.noise])

    @property
    def variance(self):
        return sum(q * q for q in self.noise)


def ancestral_recursion(variance, m, c, points):
    """By Bayes: x_s | x has precision 1/σs², and x_t | x_s is N(k x_s, σt² − k²σs²), k = αt/αs."""
    x = Affine(0.0, [points[0][1]])
    for (alpha_t, sigma_t), (alpha_s, sigma_s) in pairwise(points):
        mean = x.predict(m, c, alpha_t, sigma_t)
        if sigma_s == 0:
            return mean
        k = alpha_t / alpha_s
        forward = sigma_t**2 - k**2 * sigma_s**2
        small = 1 / (1 / sigma_s**2 + k**2 / forward)
        of_mean = small * alpha_s / sigma_s**2
        left = regression(m, c, alpha_t, sigma_t)[2]
        noise = {
            "small": small,
            "large": forward,
            "learned": forward**FRACTION * small ** (1 - FRACTION),
            "optimal": small + of_mean**2 * left,
        }[variance]
        x = mean.combine(of_mean, x, small * k / forward).plus_noise(math.sqrt(noise))
    return x


def ddim_recursion(eta, m, c, points):
    """In ᾱ, as the paper writes it."""
    x = Affine(0.0, [points[0][1]])
    for (alpha_t, sigma_t), (alpha_s, _) in pairwise(points):
        bar_t, bar_s = alpha_t**2, alpha_s**2
        mean = x.predict(m, c, alpha_t, sigma_t)
        eps = x.combine(1 / math.sqrt(1 - bar_t), mean, -math.sqrt(bar_t / (1 - bar_t)))
        noise = eta * math.sqrt((1 - bar_s) / (1 - bar_t)) * math.sqrt(1 - bar_t / bar_s)
        x = mean.combine(math.sqrt(bar_s), eps, math.sqrt(1 - bar_s - noise**2)).plus_noise(noise)
    return x


def multistep_recursion(sampler, m, c, points):
    """On x/α, in the clock τ = −ln(σ/α): the polynomial through the last means, integrated against e^{τ−τs}."""
    bar, taus, means = Affine(0.0, [points[0][1] / points[0][0]]), [], []
    for (alpha_t, sigma_t), (alpha_s, sigma_s) in pairwise(points):
        means.append(bar.combine(alpha_t, bar, 0.0).predict(m, c, alpha_t, sigma_t))
        if sigma_s == 0:
            return means[-1]
        taus.append(math.log(alpha_t / sigma_t))
        end = math.log(alpha_s / sigma_s)
        h = end - taus[-1]
        count = min(sampler.order, len(taus))
        if sampler == DPMSolverPP(3) and count == 1:
            bar = singlestep(bar, taus[-1], end, means[-1], lambda bar, tau: mean_at(bar, tau, m, c), 2)
            continue
        weights = lagrange(taus[-count:], taus[-1], h, sampler)
        decayed = bar.combine(math.exp(-h), bar, 0.0)
        for weight, mean in zip(weights, means[-count:], strict=True):
            decayed = decayed.combine(1.0, mean, weight)
        bar = decayed
    return bar.combine(points[-1][0], bar, 0.0)


def lagrange(taus, start, h, sampler):
    """The weight of each mean in x̄_s.

    2M takes the line's value at the middle of the step; 3M integrates the parabola's three Taylor terms about the start
    one by one, where the published one halves the last.
    """
    units = [(tau - start) / h for tau in taus]
    moments = [1 - math.exp(-h), 1 - (1 - math.exp(-h)) / h, 1 - 2 * (1 - (1 - math.exp(-h)) / h) / h]
    if len(units) == 2:
        moments[1] = moments[0] / 2
    if sampler == DPMSolverPP(3, published=True):
        moments[2] /= 2
    # Column j of V⁻¹ holds the coefficients 1, u, u² of the polynomial that is 1 at mean j and 0 at the others.
    powers = torch.tensor(units, dtype=F64)[:, None] ** torch.arange(len(units))
    return (torch.linalg.inv(powers).mT @ torch.tensor(moments[: len(units)], dtype=F64)).tolist()


def mean_at(bar, tau, m, c):
    alpha, sigma = 1 / math.sqrt(1 + math.exp(-2 * tau)), 1 / math.sqrt(1 + math.exp(2 * tau))
    return bar.combine(alpha, bar, 0.0).predict(m, c, alpha, sigma)


def singlestep(bar, tau, end, mean, mean_of, order):
    """DPM-Solver++ on x/α: order 2 through the middle, order 3 through the thirds."""

    def to(place, slope=None):
        # ∫ e^{τ−place} (x̂ + slope·(τ − start)) dτ
        h = place - tau
        reached = bar.combine(math.exp(-h), mean, 1 - math.exp(-h))
        return reached if slope is None else reached.combine(1.0, slope, h - 1 + math.exp(-h))

    h = end - tau
    if order == 1:
        return to(end)
    if order == 2:
        middle = mean_of(to(tau + h / 2), tau + h / 2)
        return bar.combine(math.exp(-h), middle, 1 - math.exp(-h))
    first = mean_of(to(tau + h / 3), tau + h / 3).combine(3 / h, mean, -3 / h)
    second = mean_of(to(tau + 2 * h / 3, first), tau + 2 * h / 3).combine(1.5 / h, mean, -1.5 / h)
    return to(end, second)


def singlestep_recursion(order, m, c, points):
    bar = Affine(0.0, [points[0][1] / points[0][0]])
    for (alpha_t, sigma_t), (alpha_s, sigma_s) in pairwise(points):
        mean = bar.combine(alpha_t, bar, 0.0).predict(m, c, alpha_t, sigma_t)
        if sigma_s == 0:
            return mean
        clock = math.log(alpha_t / sigma_t), math.log(alpha_s / sigma_s)
        bar = singlestep(bar, *clock, mean, lambda bar, tau: mean_at(bar, tau, m, c), order)
    return bar.combine(points[-1][0], bar, 0.0)


def dpm_solver_recursion(order, m, c, points):
    """On x/α over σ = σ_EDM, where dx̄ = ε̂ dσ and the clock is −ln σ."""

    def eps(bar, sigma):
        mean = mean_at(bar, -math.log(sigma), m, c)
        return bar.combine(1 / sigma, mean, -1 / sigma)

    sigmas = [sigma / alpha for alpha, sigma in points]
    bar = Affine(0.0, [sigmas[0]])
    for begin, end in pairwise(sigmas):
        start = eps(bar, begin)
        if end == 0:
            return bar.combine(1.0, start, -begin)

        def to(sigma, slope=None, bar=bar, start=start, begin=begin):
            # ∫ (ε̂ + slope·ln(begin/σ′)) dσ′ from `begin` to `sigma`
            reached = bar.combine(1.0, start, sigma - begin)
            return (
                reached
                if slope is None
                else reached.combine(1.0, slope, sigma * math.log(begin / sigma) + sigma - begin)
            )

        h = math.log(begin / end)
        if order == 1:
            bar = to(end)
        elif order == 2:
            middle = math.sqrt(begin * end)
            bar = bar.combine(1.0, eps(to(middle), middle), end - begin)
        else:
            one, two = begin * math.exp(-h / 3), begin * math.exp(-2 * h / 3)
            first = eps(to(one), one).combine(3 / h, start, -3 / h)
            second = eps(to(two, first), two).combine(1.5 / h, start, -1.5 / h)
            bar = to(end, second)
    return bar.combine(points[-1][0], bar, 0.0)


def sde_recursion(sampler, m, c, points):
    """On x/α with q = SNR_t/SNR_s, SNR = (α/σ)²: a step keeps q^{(1+η)/2} and adds the variance (1 − q^η)/SNR_s."""
    bar, before = Affine(0.0, [points[0][1] / points[0][0]]), None
    for (alpha_t, sigma_t), (alpha_s, sigma_s) in pairwise(points):
        mean = bar.combine(alpha_t, bar, 0.0).predict(m, c, alpha_t, sigma_t)
        if sigma_s == 0:
            return mean
        snr_t, snr_s = (alpha_t / sigma_t) ** 2, (alpha_s / sigma_s) ** 2
        used, length = mean, math.log(snr_s / snr_t)
        if sampler.order == 2 and before is not None:
            used = mean.combine(1 + length / (2 * before[0]), before[1], -length / (2 * before[0]))
        before = length, mean
        k = (snr_t / snr_s) ** ((1 + sampler.eta) / 2)
        bar = bar.combine(k, used, 1 - k)
        bar = bar.plus_noise(math.sqrt((1 - (snr_t / snr_s) ** sampler.eta) / snr_s))
    return bar.combine(points[-1][0], bar, 0.0)


def heun_recursion(sampler, m, c, points):
    """EDM's algorithm 2 on u = x/α − m over σ, where the flow is du/dσ = σu/(c + σ²): each step multiplies u.

    Euler's step from σ to σ′ keeps the share (c + σσ′)/(c + σ²). Written as x/α + (σ′ − σ)d its rounding, which
    the second slope multiplies by σ/σ′, would be 1e-9 of the whole from λ = −20, where σ = 2·10⁴.
    """
    sigmas = [sigma / alpha for alpha, sigma in points]
    bar = Affine(-m, [sigmas[0]])
    for sigma, following in pairwise(sigmas):
        churns = sampler.s_min <= sigma <= sampler.s_max
        gamma = min(sampler.s_churn / (len(sigmas) - 1), math.sqrt(2) - 1) if churns else 0.0
        hat = sigma * (1 + gamma)
        bar = bar.plus_noise(sampler.s_noise * math.sqrt(hat**2 - sigma**2))
        share = (c + hat * following) / (c + hat**2)
        if following > 0:
            slopes = hat / (c + hat**2), following / (c + following**2) * share
            share = 1 + (following - hat) * sum(slopes) / 2
        bar = bar.combine(share, bar, 0.0)
    alpha = points[-1][0]
    return Affine(alpha * (bar.constant + m), [alpha * q for q in bar.noise])


def recursion(sampler, m, c, points):
    if isinstance(sampler, Ancestral):
        return ancestral_recursion(sampler.variance, m, c, points)
    if isinstance(sampler, DDIM):
        return ddim_recursion(sampler.eta, m, c, points)
    if isinstance(sampler, DPMSolver):
        return dpm_solver_recursion(sampler.order, m, c, points)
    if isinstance(sampler, DPMSolverPP):
        return multistep_recursion(sampler, m, c, points)
    if isinstance(sampler, DPMSolverPPSingle):
        return singlestep_recursion(sampler.order, m, c, points)
    if isinstance(sampler, SDEDPMSolverPP):
        return sde_recursion(sampler, m, c, points)
    return heun_recursion(sampler, m, c, points)


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_output_moments_equal_the_scalar_recursion(sampler, grid, dim, gaussian, levels, output_moments):
    mean, values, basis = gaussian(dim)
    oracle = WithFraction(GaussianDenoiser(mean, basis @ values.diag() @ basis.mT))
    points = list(levels(grid))
    start = points[0][1] * torch.eye(dim, dtype=F64)
    got_mean, got_covariance = output_moments(sampler, oracle, grid, dim, torch.zeros(dim, dtype=F64), start)

    along = [recursion(sampler, m, c, points) for m, c in zip((basis.mT @ mean).tolist(), values.tolist(), strict=True)]
    want_mean = basis @ torch.tensor([a.constant for a in along], dtype=F64)
    want_covariance = basis @ torch.tensor([a.variance for a in along], dtype=F64).diag() @ basis.mT
    # Relative to the whole: Heun's few steps from λ = −20 overshoot to covariances of 10⁸, the mean lying within them.
    spread = max(1.0, want_covariance.abs().max().item())
    for got, want, scale in [(got_mean, want_mean, spread**0.5), (got_covariance, want_covariance, spread)]:
        torch.testing.assert_close(got / scale, want / scale, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("dim", "shape"), [(12, (3, 2, 2)), (3, (3,))])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_pictures_are_sampled_as_flat_vectors(sampler, dim, shape, gaussian):
    mean, values, basis = gaussian(dim)
    oracle = WithFraction(GaussianDenoiser(mean, basis @ values.diag() @ basis.mT))

    def sample(shape):
        noise = lambda step, draw=0: randn("noise", step, shape=(2, dim)).to(F64).reshape(2, *shape)  # noqa: E731
        return sampler(oracle, noise(-1), IRREGULAR, Condition(), noise)

    assert sample(shape).shape == (2, *shape)
    torch.testing.assert_close(sample(shape).flatten(1), sample((dim,)), rtol=1e-13, atol=1e-13)
