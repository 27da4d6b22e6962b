"""Classifier guidance against Bayes' rule, ADM's own formulas, and the Gaussian that a linear classifier tilts."""

import math
from dataclasses import replace

import pytest
import torch

from cascade.diffusion import Condition, eps_from_mean, score_from_mean, v_from_mean
from cascade.diffusion.oracle import GaussianDenoiser, MixtureDenoiser
from cascade.errors import CascadeError
from cascade.rng import randn, uniform
from cascade.sampling import (
    DDIM,
    Ancestral,
    ClassifierAncestral,
    ClassifierFree,
    ClassifierGuidance,
    LabelLogProb,
    Unconditional,
    uniform_log_snr,
)
from cascade.sampling.classifier_guidance import classifier_around

F64 = torch.float64


def mixture(classes, dim, name="mixture"):
    root = randn(name, "root", shape=(classes, dim, dim)).to(F64)
    means = 1.5 * randn(name, "means", shape=(classes, dim)).to(F64)
    return MixtureDenoiser(uniform(name, shape=(classes,)).to(F64) + 0.1, means, root @ root.mT / dim)


ORACLE = mixture(3, 4)
X = randn("x", shape=(6, 4)).to(F64)
LOG_SNR = torch.tensor([-9.0, -2.0, 0.0, 0.5, 3.0, 6.0], dtype=F64)
CONDITION = Condition(label=torch.tensor([0, 1, 2, 2, 0, 1]))
LOG_PROB = LabelLogProb(ORACLE.log_class)
GRID = uniform_log_snr(-7.0, 7.0, 9)


def exact(got, want, tolerance=1e-10):
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def noise(step, draw=0):
    return randn("noise", step, draw, shape=(6, 4)).to(F64)


@pytest.mark.parametrize(("classes", "dim"), [(2, 1), (3, 4), (5, 2)])
def test_scale_1_on_the_unconditional_oracle_is_the_exact_conditional(classes, dim):
    oracle = mixture(classes, dim, "held")
    level = torch.linspace(-12, 12, 25, dtype=F64)
    x, condition = randn("many", shape=(25, dim)).to(F64), Condition(label=torch.arange(25) % classes)
    guided = ClassifierGuidance(Unconditional(oracle), LabelLogProb(oracle.log_class), 1.0)(x, level, condition)
    exact(guided.mean, oracle(x, level, condition).mean)


@pytest.mark.parametrize(("scale", "classifier_scale"), [(1.0, 2.0), (2.0, 0.5), (3.0, -1.0)])
def test_around_classifier_free_guidance_both_scales_add_up(scale, classifier_scale):
    """p(x)·p(c | x)^s by the network, and p(c | x)^t by the exact classifier: p(x)·p(c | x)^(s + t)."""
    both = classifier_around(ORACLE, ClassifierFree(ORACLE, scale), LOG_PROB, classifier_scale)
    one = ClassifierFree(ORACLE, scale + classifier_scale)
    exact(both(X, LOG_SNR, CONDITION).mean, one(X, LOG_SNR, CONDITION).mean)


@pytest.mark.parametrize("scale", [-1.0, 0.5, 2.0, 7.5])
def test_the_rule_in_every_currency(scale):
    """Score + s∇, ε̂ − σs∇, v̂ − (σ/α)s∇, x̂ + (σ²/α)s∇, with ∇ from the oracle's densities: ln p(x|c) − ln p(x)."""
    x = X.clone().requires_grad_()
    log_class = ORACLE.log_prob(x, LOG_SNR, CONDITION) - ORACLE.log_prob(x, LOG_SNR)
    step = scale * torch.autograd.grad(log_class.sum(), x)[0]
    for denoiser in (ORACLE, Unconditional(ORACLE)):
        plain = denoiser(X, LOG_SNR, CONDITION).mean
        guided = ClassifierGuidance(denoiser, LOG_PROB, scale)(X, LOG_SNR, CONDITION).mean
        sigma = torch.sigmoid(-LOG_SNR).sqrt()[:, None]
        alpha = torch.sigmoid(LOG_SNR).sqrt()[:, None]
        for currency, change in (
            (score_from_mean, step),
            (eps_from_mean, -sigma * step),
            (v_from_mean, -sigma / alpha * step),
            (lambda x, mean, _: mean, sigma**2 / alpha * step),
        ):
            exact(currency(X, guided, LOG_SNR), currency(X, plain, LOG_SNR) + change)


def test_every_sampler_takes_the_score_form():
    guided = ClassifierGuidance(Unconditional(ORACLE), LOG_PROB, 1.0)
    for sampler in (DDIM(), Ancestral("large")):
        exact(sampler(guided, X, GRID, CONDITION, noise), sampler(ORACLE, X, GRID, CONDITION, noise))


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_where_they_are_switched_off_and_leave_no_trace(off):
    guided, shifted = ClassifierGuidance(ORACLE, LOG_PROB, 2.0), ClassifierAncestral(LOG_PROB, 2.0)
    want, made = guided(X, LOG_SNR, CONDITION).mean, shifted(ORACLE, X, GRID, CONDITION, noise)
    with off():
        # Everything is made where gradients are off, as in a user's own loop.
        x, level, condition = X.clone(), LOG_SNR.clone(), Condition(label=CONDITION.label.clone())
        got = guided(x, level, condition).mean
        assert torch.equal(shifted(ORACLE, x, GRID, condition, noise), made)
    assert torch.equal(got, want)
    assert not got.requires_grad
    assert x.grad is None


def fails(x_t, log_snr, condition):
    raise AssertionError("the classifier was called")


@pytest.mark.parametrize(
    ("log_prob", "scale", "condition"),
    [
        (fails, 0.0, CONDITION),
        (LabelLogProb(fails), 3.0, Condition()),
        (lambda x_t, log_snr, condition: torch.ones(len(x_t), requires_grad=True), 3.0, CONDITION),
    ],
    ids=["scale 0", "no label", "the same everywhere"],
)
def test_what_says_nothing_of_x_reduces_to_the_denoiser_and_is_not_called_for_nothing(log_prob, scale, condition):
    guided = ClassifierGuidance(ORACLE, log_prob, scale)(X, LOG_SNR, condition)
    assert torch.equal(guided.mean, ORACLE(X, LOG_SNR, condition).mean)
    assert (guided.covariance is not None) == (scale == 0)
    for variance in ("small", "large", "optimal"):
        got = ClassifierAncestral(log_prob, scale, variance)(ORACLE, X, GRID, condition, noise)
        assert torch.equal(got, Ancestral(variance)(ORACLE, X, GRID, condition, noise))


def test_a_class_that_the_function_itself_names_needs_no_label():
    """It is asked whatever the condition says: ln p(2 | x_t) makes the unconditional oracle that of class 2."""
    log_prob = lambda x_t, log_snr, condition: ORACLE.log_class(x_t, log_snr)[:, 2]  # noqa: E731
    second = Condition(label=torch.full((6,), 2))
    exact(ClassifierGuidance(ORACLE, log_prob, 1.0)(X, LOG_SNR, Condition()).mean, ORACLE(X, LOG_SNR, second).mean)
    shifted = ClassifierAncestral(log_prob, 2.0)(ORACLE, X, GRID, Condition(), noise)
    exact(shifted, ClassifierAncestral(LOG_PROB, 2.0)(Unconditional(ORACLE), X, GRID, second, noise))


def test_a_guided_mean_has_no_covariance_and_keeps_the_fraction():
    def denoiser(x_t, log_snr, condition):
        return replace(ORACLE(x_t, log_snr, condition), variance_fraction=0.3 * x_t)

    guided = ClassifierGuidance(denoiser, LOG_PROB, 2.0)(X, LOG_SNR, CONDITION)
    assert guided.covariance is None
    assert torch.equal(guided.variance_fraction, 0.3 * X)


def test_no_class_guides_nowhere():
    condition = Condition(label=torch.tensor([-1, 3, 0, -1, 3, 2]))
    guided = ClassifierGuidance(ORACLE, LOG_PROB, 4.0)(X, LOG_SNR, condition).mean
    moved = (guided != ORACLE(X, LOG_SNR, condition).mean).any(1)
    assert moved.tolist() == [False, False, True, False, False, True]


def test_logits_need_not_be_normalised():
    shifted = LabelLogProb(lambda x, level: ORACLE.log_class(x, level) + x.sum(1, keepdim=True))
    exact(shifted(X, LOG_SNR, CONDITION), LOG_PROB(X, LOG_SNR, CONDITION))
    exact(LOG_PROB(X, LOG_SNR, CONDITION), ORACLE.log_class(X, LOG_SNR)[range(6), CONDITION.label])


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_a_linear_classifier_tilts_a_step_exactly(scale):
    """p(x_s | x_t)·exp(s g·x_s), normalised, where p(x_s | x_t) is conditioned from the joint Gaussian of a chain."""
    root = randn("root", shape=(4, 4)).to(F64)
    covariance, centre, g = root @ root.mT, randn("centre", shape=(4,)).to(F64), randn("g", shape=(4,)).to(F64)
    t, s = torch.tensor([-1.0, 1.5], dtype=F64)
    (alpha_t, alpha_s), (noise_t, noise_s) = (
        torch.sigmoid(torch.stack([t, s])).sqrt(),
        torch.sigmoid(-torch.stack([t, s])),
    )
    one = torch.eye(4, dtype=F64)
    marginal_s = alpha_s**2 * covariance + noise_s * one
    marginal_t = alpha_t**2 * covariance + noise_t * one
    cross = alpha_t / alpha_s * marginal_s  # x_t = (αt/αs) x_s + noise
    gain = torch.linalg.solve(marginal_t, cross).mT
    sigma = marginal_s - gain @ cross
    # A Gaussian times exp(b·x) has precision P and P⁻¹(Pμ + b) for a mean.
    precision = torch.linalg.inv(sigma)
    step_mean = alpha_s * centre + (X - alpha_t * centre) @ gain.mT
    tilted = torch.linalg.solve(precision, (step_mean @ precision + scale * g).mT).mT
    sampler = ClassifierAncestral(lambda x, level, condition: x @ g, scale, "optimal")
    oracle, grid = GaussianDenoiser(centre, covariance), torch.stack([t, s])
    got = sampler(oracle, X, grid, CONDITION, lambda step, draw=0: torch.zeros(6, 4, dtype=F64))
    exact(got, tilted)
    # And what is drawn has the covariance Σ.
    drawn = (
        sampler(oracle, X[:4], grid, CONDITION.take(slice(4)), lambda step, draw=0: torch.eye(4, dtype=F64)) - got[:4]
    )
    exact(drawn.mT @ drawn, sigma)


class WithFraction:
    """An oracle that predicts ADM's variance fraction too."""

    def __call__(self, x_t, log_snr, condition):
        return replace(ORACLE(x_t, log_snr, condition), variance_fraction=torch.sigmoid(x_t))


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_the_mean_shift_is_adms_own(variance):
    """Algorithm 1 with betas, β̃ and the posterior's coefficients as ADM writes them, down to step 2 of its 20."""
    betas = torch.linspace(0.005, 0.3, 20, dtype=F64)
    bars = torch.cumprod(1 - betas, 0)
    grid = torch.log(bars / (1 - bars)).flip(0)
    scale, x = 1.7, noise(-1)
    for i in range(19, 0, -1):
        level = torch.full((6,), float(grid[19 - i]), dtype=F64)
        posterior = WithFraction()(x, level, CONDITION)
        tilde = betas[i] * (1 - bars[i - 1]) / (1 - bars[i])
        mean = betas[i] * bars[i - 1].sqrt() / (1 - bars[i]) * posterior.mean
        mean = mean + (1 - betas[i]).sqrt() * (1 - bars[i - 1]) / (1 - bars[i]) * x
        fraction = {"small": 0 * x, "large": 0 * x + 1, "learned": posterior.variance_fraction}[variance]
        covariance = torch.exp(fraction * betas[i].log() + (1 - fraction) * tilde.log())
        at = x.clone().requires_grad_()
        gradient = torch.autograd.grad(ORACLE.log_class(at, level)[range(6), CONDITION.label].sum(), at)[0]
        x = mean + scale * covariance * gradient + covariance.sqrt() * noise(19 - i)
    got = ClassifierAncestral(LOG_PROB, scale, variance)(WithFraction(), noise(-1), grid, CONDITION, noise)
    exact(got, x)


def test_both_forms_agree_in_the_limit_of_short_steps():
    """Their gap halves with the steps."""
    gaps = []
    for n in (80, 160, 320):
        grid = uniform_log_snr(-6.0, 4.0, n + 1)[:-1]
        still = lambda step, draw=0: torch.zeros(6, 4, dtype=F64)  # noqa: E731
        score = Ancestral()(ClassifierGuidance(Unconditional(ORACLE), LOG_PROB, 1.5), X, grid, CONDITION, still)
        shift = ClassifierAncestral(LOG_PROB, 1.5)(Unconditional(ORACLE), X, grid, CONDITION, still)
        gaps.append(float((score - shift).norm()))
    assert gaps[0] > 1e-3
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.15)
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.1)


def test_a_step_into_the_clean_picture_returns_the_mean():
    grid = torch.tensor([1.0, math.inf], dtype=F64)
    got = ClassifierAncestral(fails, 2.0)(ORACLE, X, grid, CONDITION, noise)
    assert torch.equal(got, ORACLE(X, torch.ones(6, dtype=F64), CONDITION).mean)


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_a_scale_is_finite_and_a_variance_is_ancestrals(scale):
    for make in (lambda: ClassifierGuidance(ORACLE, LOG_PROB, scale), lambda: ClassifierAncestral(LOG_PROB, scale)):
        with pytest.raises(CascadeError, match="guidance scale"):
            make()
    with pytest.raises(CascadeError, match="did you mean 'small'"):
        ClassifierAncestral(LOG_PROB, 1.0, "smal")
