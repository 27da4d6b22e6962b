"""The hybrid loss: its second term is the ELBO's, it leaves the mean alone, and it learns the optimal variance."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cascade import rng
from cascade.diffusion import (
    Condition,
    GaussianDenoiser,
    LogNormalNoise,
    MixtureDenoiser,
    Posterior,
    UnitWeighting,
    VPreconditioning,
    alpha_sigma,
    diffuse,
    diffusion_loss,
)
from cascade.diffusion.elbo import discrete_elbo
from cascade.diffusion.elbo_ends import NoisyData
from cascade.diffusion.hybrid import HybridLoss
from cascade.diffusion.multi_scale import MultiScaleLoss
from cascade.diffusion.reverse import ReverseStep
from cascade.errors import CascadeError
from cascade.sampling import Ancestral

F64 = torch.float64
NOTHING = Condition()
GRID = torch.tensor([-5.0, -3.0, 0.0, 1.5, 4.0, math.inf], dtype=F64)


class Bent:
    """Some denoiser whose variance depends on what it sees."""

    calls = 0

    def __call__(self, x_t, log_snr, condition):
        self.calls += 1
        return Posterior(torch.tanh(x_t), variance_fraction=x_t.sin() + log_snr.sigmoid()[:, None])


def at(level, count):
    return torch.full((count,), level, dtype=F64)


def test_at_the_levels_of_the_grid_the_second_term_is_the_elbos(normal, given):
    """N times a step's KL in bits per dimension; summed over the steps it is the ELBO's diffusion term."""
    x, eps, total = normal(3, 4), normal(3, 4, name="eps"), 0.0
    for level in GRID[:-1].tolist():
        loss = HybridLoss(GRID, vlb_weight=0.3)(Bent(), x, at(level, 3), eps, NOTHING, UnitWeighting())
        plain = diffusion_loss(Bent(), x, at(level, 3), eps, NOTHING, UnitWeighting())
        total = total + (loss - plain) / 0.3
        if level == 4.0:
            assert_close(loss, plain, rtol=0, atol=0)
    elbo = discrete_elbo(Bent(), x, GRID, NOTHING, given(eps), variance="learned", decoder=NoisyData())
    assert_close(total / 5, elbo.diffusion / (4 * math.log(2)), rtol=1e-10, atol=0)


def test_between_levels_a_step_ends_as_far_along_the_grid():
    loss = HybridLoss(GRID)
    begins, ends = loss.step(torch.tensor([-5.1, -4.0, -0.75, 1.5, 1.6], dtype=F64))
    assert begins.tolist() == [False, True, True, True, False]
    assert_close(ends[1:4], torch.tensor([-1.5, 1.125, 4.0], dtype=F64))
    # On a grid that is uniform in λ every step has the grid's length.
    begins, ends = HybridLoss(torch.linspace(-6, 6, 7, dtype=F64)).step(torch.linspace(-6, 4, 30, dtype=F64))
    assert bool(begins.all())
    assert_close(ends - torch.linspace(-6, 4, 30, dtype=F64), at(2.0, 30))


def test_a_grid_of_two_levels_has_one_step():
    begins, ends = HybridLoss(torch.tensor([-2.0, 3.0, math.inf], dtype=F64)).step(torch.tensor([-2.0, -1.9, 3.0]))
    assert begins.tolist() == [True, False, False]
    assert float(ends[0]) == 3.0


def test_only_the_variance_feels_the_second_term(normal):
    x, eps, level = normal(5, 4), normal(5, 4, name="eps"), torch.tensor([-9.0, -5.0, -1.0, 1.0, 9.0], dtype=F64)
    mean, fraction = (normal(5, 4, name=name).requires_grad_() for name in ("mean", "fraction"))
    denoiser = lambda x_t, log_snr, condition: Posterior(mean, variance_fraction=fraction)  # noqa: E731
    loss = HybridLoss(GRID, vlb_weight=0.5)(denoiser, x, level, eps, NOTHING, UnitWeighting())
    of_mean, of_fraction = torch.autograd.grad(loss.sum(), (mean, fraction))
    plain = diffusion_loss(denoiser, x, level, eps, NOTHING, UnitWeighting())
    assert_close(of_mean, torch.autograd.grad(plain.sum(), mean)[0], rtol=0, atol=0)
    # Levels outside the grid have no step, and no gradient, not even NaN.
    assert [bool(row.any()) for row in of_fraction] == [False, True, True, True, False]
    assert bool(of_fraction.isfinite().all())


def test_both_terms_share_one_call_and_any_first_term_serves(normal):
    x, eps = normal(2, 3, 64, 64), normal(2, 3, 64, 64, name="eps")
    denoiser = lambda x_t, log_snr, condition: Posterior(0.5 * x_t, variance_fraction=x_t)  # noqa: E731
    level = at(-1.0, 2)
    plain, scales = (
        HybridLoss(GRID, loss=loss)(denoiser, x, level, eps, NOTHING, UnitWeighting())
        - loss(denoiser, x, level, eps, NOTHING, UnitWeighting())
        for loss in (HybridLoss(GRID).loss, MultiScaleLoss())
    )
    assert_close(plain, scales, rtol=1e-9, atol=1e-12)
    assert HybridLoss(GRID).vlb_weight == 0.001  # the paper's
    counted = Bent()
    HybridLoss(GRID)(counted, normal(2, 4), level, normal(2, 4), NOTHING, UnitWeighting())
    assert counted.calls == 1


def test_the_best_fraction_is_the_optimal_variance():
    """For an exact mean: the expected term is least where Σ = σs²(1−r) + αs²(1−r)²·Var[x | x_t], whatever p(λ)."""
    oracle = GaussianDenoiser(torch.zeros(1, dtype=F64), torch.full((1, 1), 0.36, dtype=F64))
    t, s = -1.5, 0.75
    x_t = torch.tensor([[0.4]], dtype=F64)
    posterior = oracle(x_t, at(t, 1), NOTHING)
    step = ReverseStep(t, s)
    optimal = float(step.spread("optimal", posterior).variance)
    best = math.log(optimal / float(step.small)) / math.log(float(step.large / step.small))
    # Two values of x with the posterior's mean and variance: quadratics see no more of it.
    x = posterior.mean + torch.tensor([[1.0], [-1.0]], dtype=F64) * posterior.covariance[0].sqrt()
    fraction = at(best, 1)[:, None].requires_grad_()
    told = Posterior(posterior.mean.expand(2, 1), variance_fraction=fraction.expand(2, 1))
    value = HybridLoss(GRID).vlb(x, at(t, 2), told).mean()
    (slope,) = torch.autograd.grad(value, fraction)
    assert abs(float(slope)) < 1e-12
    assert 0 < best < 1


class Net(nn.Module):
    """A small perceptron on pictures of `pixels` numbers, that also answers with a variance."""

    def __init__(self, pixels):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Linear(pixels + 3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2 * pixels)
            )

    def forward(self, x, log_snr, label=None, low_res=None, aug_log_snr=None, augment=None):
        level = log_snr[:, None] / 4
        told = torch.cat([x, level, level.sin(), level.cos()], 1)
        return self.layers(told)


def trained(data, pixels, steps, noise):
    """A v-prediction trained by the hybrid loss on `data(step)` (B, pixels)."""
    denoiser = VPreconditioning(Net(pixels), learn_variance=True)
    loss = HybridLoss(GRID, vlb_weight=0.1)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    for step in range(steps):
        x = data(step)
        u = (torch.arange(len(x)) + rng.uniform("hybrid", step, shape=(len(x),))) / len(x)
        eps = rng.randn("hybrid", step, shape=tuple(x.shape))
        optimizer.zero_grad()
        loss(denoiser, x, noise.icdf(u), eps, NOTHING, VWeight()).mean().backward()
        optimizer.step()
        schedule.step()
    return denoiser


class VWeight:
    """The loss in v: 1 + e^{−λ}, even over the levels."""

    def log_ratio(self, log_snr):
        return torch.nn.functional.softplus(-log_snr)


@pytest.fixture
def wide():
    return LogNormalNoise(0.25, 2.0, -6.0, 5.0)


@pytest.mark.usefixtures("one_thread")
def test_a_toy_learns_the_optimal_variance_of_each_point(wide):
    """A mixture in one dimension, whose best variance depends on where x_t lies and on the level."""
    oracle = MixtureDenoiser(
        torch.tensor([0.4, 0.6]), torch.tensor([[-0.8], [0.7]]), torch.tensor([[[0.01]], [[0.04]]])
    )

    def data(step, count=256):
        first = rng.uniform("which", step, shape=(count,)) < 0.4
        spread = rng.randn("data", step, shape=(count,))
        return torch.where(first, -0.8 + 0.1 * spread, 0.7 + 0.2 * spread)[:, None]

    denoiser = trained(data, 1, 700, wide)
    x, eps = data("test", 4000), rng.randn("test eps", shape=(4000, 1))
    for t, s in zip(GRID[:3].tolist(), GRID[1:4].tolist(), strict=True):
        x_t, level, step = diffuse(x, eps, t), torch.full((4000,), t), ReverseStep(t, s)
        with torch.no_grad():
            learned = step.spread("learned", denoiser(x_t, level, NOTHING)).variance
        optimal = step.spread("optimal", oracle(x_t, level, NOTHING)).variance
        off = (learned / optimal).log().abs().mean()
        # What the fixed variances are off by is many times that.
        fixed = [float((variance / optimal).log().abs().mean()) for variance in (step.small, step.large)]
        assert float(off) < 0.08
        assert min(fixed) > 3 * float(off)


@pytest.mark.usefixtures("one_thread")
def test_a_toy_samples_the_data_in_four_steps_where_the_small_variance_does_not(wide):
    deviations = torch.tensor([0.8, 0.3])
    denoiser = trained(lambda step: deviations * rng.randn("data", step, shape=(256, 2)), 2, 600, wide)
    noise = lambda step, draw=0: rng.randn("sampling", step, shape=(8000, 2))  # noqa: E731
    start = float(alpha_sigma(-5.0)[1]) * noise(-1)
    made = {}
    for variance in ("learned", "small"):
        with torch.no_grad():
            x = Ancestral(variance)(denoiser, start, GRID[:-1], NOTHING, noise)
        alpha, sigma = (float(part) for part in alpha_sigma(4.0))
        made[variance] = x.var(0) / (alpha**2 * deviations.square() + sigma**2)
    assert_close(made["learned"], torch.ones(2), rtol=0, atol=0.2)
    assert float(made["small"].max()) < 0.65


def test_what_cannot_learn_a_variance_is_refused(normal):
    with pytest.raises(CascadeError, match="learn_variance=true"):
        HybridLoss(GRID)(
            lambda x_t, log_snr, condition: Posterior(x_t), normal(1, 2), at(0.0, 1), normal(1, 2), NOTHING, VWeight()
        )
    with pytest.raises(ValueError, match="one step"):
        HybridLoss(GRID[4:])
    with pytest.raises(ValueError, match="vlb_weight"):
        HybridLoss(GRID, vlb_weight=0.0)
