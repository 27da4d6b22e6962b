"""q(x_s | x_t, x) is Bayes' rule, and what is made of it agrees with torch's distributions."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.testing import assert_close

from cascade.diffusion import Condition, DiscreteBetas, GaussianDenoiser, Posterior, alpha_sigma
from cascade.diffusion.forward import forward_step
from cascade.diffusion.reverse import ReverseStep, Spread
from cascade.errors import CascadeError

F64 = torch.float64


def exact(actual, expected, tolerance=1e-11):
    assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def number(value):
    return torch.tensor([[value]], dtype=F64)


@pytest.mark.parametrize(("t", "s"), [(-3.0, -2.5), (-1.0, 1.0), (2.0, 6.0), (-6.0, 3.0)])
def test_posterior_is_bayes_rule_by_quadrature(t, s, integrate):
    # q(x_s | x_t, x) ∝ q(x_t | x_s)·q(x_s | x).
    alpha, sigma = (float(part) for part in alpha_sigma(s))
    factor, variance = (float(part) for part in forward_step(s, t))
    step = ReverseStep(t, s)
    for x, x_t in [(0.7, -0.4), (-1.5, 0.9)]:

        def joint(x_s, x=x, x_t=x_t):
            return torch.exp(-0.5 * ((x_s - alpha * x) / sigma) ** 2 - 0.5 * (x_t - factor * x_s) ** 2 / variance)

        evidence = integrate(joint, -12, 12, panels=2000)
        mean = integrate(lambda y, joint=joint: y * joint(y), -12, 12, panels=2000) / evidence
        spread = integrate(lambda y, joint=joint, m=mean: (y - m) ** 2 * joint(y), -12, 12, panels=2000) / evidence
        assert float(step.mean(number(x_t), number(x))) == pytest.approx(mean, rel=1e-9)
        assert float(step.small) == pytest.approx(spread, rel=1e-9)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_on_discrete_betas_it_is_ddpms(kind):
    ladder = DiscreteBetas(kind, 50)
    beta = ladder.betas[1:]
    kept = (1 - ladder.betas).cumprod(0)
    before, now = kept[:-1], kept[1:]
    step = ReverseStep(ladder.log_snrs[1:], ladder.log_snrs[:-1])
    exact(step.small, (1 - before) / (1 - now) * beta, 1e-9)
    exact(step.large, beta, 1e-9)
    one, nothing = torch.ones(49, dtype=F64), torch.zeros(49, dtype=F64)
    exact(step.mean(nothing, one), before.sqrt() * beta / (1 - now), 1e-9)
    exact(step.mean(one, nothing), (1 - beta).sqrt() * (1 - before) / (1 - now), 1e-9)


def test_the_last_step_gives_the_picture():
    step = ReverseStep(2.0, math.inf)
    assert float(step.mean(number(5.0), number(0.25))) == 0.25
    assert float(step.small) == 0
    assert float(step.r) == 0
    assert float(step.large) == pytest.approx(1 / (1 + math.exp(2.0)))


def test_a_learned_variance_lies_between_the_two_on_a_logarithmic_scale(normal):
    step = ReverseStep(-1.0, 1.5)
    fraction = torch.tensor([[0.0, 0.5, 1.0, 1.5]], dtype=F64)
    spread = step.spread("learned", Posterior(torch.zeros(1, 4, dtype=F64), variance_fraction=fraction))
    small, large = float(step.small), float(step.large)
    expected = [small, math.sqrt(small * large), large, large * math.sqrt(large / small)]
    exact(spread.variance[0], torch.tensor(expected, dtype=F64))


@pytest.mark.parametrize("variance", ["small", "large", "learned", "optimal"])
def test_levels_of_each_picture_are_those_of_the_pictures_alone(variance, normal):
    x_t, mean, noise = normal(2, 1, 2, 2), normal(2, 1, 2, 2, name="mean"), normal(2, 1, 2, 2, name="noise")
    root = normal(2, 4, 4, name="root")
    posterior = Posterior(mean, root @ root.mT, normal(2, 1, 2, 2, name="fraction"))
    t, s = torch.tensor([-1.0, 0.5], dtype=F64), torch.tensor([1.0, 0.75], dtype=F64)
    step = ReverseStep(t.reshape(2, 1, 1, 1), s.reshape(2, 1, 1, 1))
    spread = step.spread(variance, posterior)
    for i in range(2):
        one = slice(i, i + 1)
        alone = ReverseStep(float(t[i]), float(s[i]))
        told = Posterior(mean[one], posterior.covariance[one], posterior.variance_fraction[one])
        own = alone.spread(variance, told)
        exact(step.mean(x_t, mean)[one], alone.mean(x_t[one], mean[one]))
        exact(spread.root(noise)[one], own.root(noise[one]))
        exact(spread.kl(x_t - mean, step.small)[one], own.kl((x_t - mean)[one], alone.small))


def test_optimal_is_the_exact_reverse_of_a_gaussian(normal):
    # p(x_s | x_t) of the joint Gaussian of x_s and x_t, by conditioning.
    root, mean = normal(3, 3, name="root"), normal(3, name="mean")
    covariance, t, s = root @ root.T, -0.5, 1.25
    x_t = normal(2, 3)
    (factor, added), eye = forward_step(s, t), torch.eye(3, dtype=F64)
    (alpha_s, sigma_s), (alpha_t, _) = alpha_sigma(s), alpha_sigma(t)
    before = alpha_s**2 * covariance + sigma_s**2 * eye
    gain = factor * before @ torch.linalg.inv(factor**2 * before + added * eye)
    posterior = GaussianDenoiser(mean, covariance)(x_t, torch.full((2,), t, dtype=F64), Condition())
    step = ReverseStep(t, s)
    exact(step.mean(x_t, posterior.mean), alpha_s * mean + (x_t - alpha_t * mean) @ gain.mT)
    spread = step.spread("optimal", posterior)
    exact(
        spread.axes @ spread.variance.diag_embed() @ spread.axes.mT, (before - gain @ (factor * before)).expand(2, 3, 3)
    )


def test_divergence_and_density_are_torchs(normal):
    difference, variance = normal(2, 3), torch.tensor(0.6, dtype=F64)
    root = normal(3, 3, name="root")
    covariance = root @ root.T
    values, axes = torch.linalg.eigh(covariance)
    spread = Spread(values, axes)
    zero = torch.zeros(2, 3, dtype=F64)
    dense = MultivariateNormal(zero, covariance)
    ours = MultivariateNormal(difference, variance * torch.eye(3, dtype=F64))
    exact(spread.kl(difference, variance), kl_divergence(ours, dense))
    exact(spread.nats(difference), -dense.log_prob(difference))
    exact(spread.root(spread.root(difference)), difference @ covariance)
    flat = Spread(values.expand(2, 3))
    each = Normal(zero, values.sqrt())
    exact(flat.kl(difference, variance), kl_divergence(Normal(difference, variance.sqrt().expand(3)), each).sum(1))
    exact(flat.nats(difference), -each.log_prob(difference).sum(1))
    exact(flat.root(difference), difference * values.sqrt())


def test_what_the_denoiser_does_not_tell_is_refused():
    step, bare = ReverseStep(-1.0, 1.0), Posterior(torch.zeros(1, 2))
    for variance in ("learned", "optimal"):
        with pytest.raises(CascadeError, match=f"'{variance}' needs"):
            step.spread(variance, bare)
    with pytest.raises(CascadeError, match="unknown variance 'smal'; did you mean 'small'"):
        step.spread("smal", bare)
