"""Guidance: against the exact score, linear in the scale, one network call where one is enough."""

import math
from dataclasses import replace

import pytest
import torch

from cascade.diffusion import Condition, Posterior, eps_from_mean, score_from_mean, v_from_mean
from cascade.diffusion.oracle import GaussianDenoiser, MixtureDenoiser
from cascade.errors import CascadeError
from cascade.rng import randn
from cascade.sampling import AutoGuidance, ClassifierFree, Interval, Unconditional, Unguided
from cascade.sampling.guidance import interval

F64 = torch.float64
ORACLE = MixtureDenoiser(
    torch.tensor([0.4, 0.6], dtype=F64),
    torch.tensor([[-0.8, 0.5], [0.9, -0.2]], dtype=F64),
    torch.stack([torch.eye(2, dtype=F64) * 0.5, torch.eye(2, dtype=F64) * 0.1]),
)
X = randn("x", shape=(3, 2)).to(F64)
LOG_SNR = torch.tensor([-2.0, 0.5, 1.0], dtype=F64)
CONDITION = Condition(label=torch.tensor([0, 1, 1]))
NULL = Unconditional(ORACLE)
BAD = GaussianDenoiser(torch.tensor([0.2, 0.1], dtype=F64), torch.eye(2, dtype=F64) * 1.5)


class Counted:
    """A denoiser that remembers the labels it was called with, and whose posterior has every field."""

    def __init__(self):
        self.labels = []

    def __call__(self, x_t, log_snr, condition):
        self.labels.append(None if condition.label is None else condition.label.tolist())
        posterior = ORACLE(x_t, log_snr, condition)
        label = torch.zeros(len(x_t), dtype=torch.int64) if condition.label is None else condition.label
        return replace(
            posterior,
            variance_fraction=torch.ones_like(x_t) * label[:, None],
            log_uncertainty=label.to(x_t.dtype),
        )


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, 7.5])
def test_the_guided_score_is_the_exact_one(scale):
    """∇ ln p(x_t) + s ∇ ln p(c | x_t), both by autograd from the oracle's densities."""
    x = X.clone().requires_grad_()
    score = torch.autograd.grad(ORACLE.log_prob(x, LOG_SNR).sum(), x)[0]
    log_class = ORACLE.log_class(x, LOG_SNR)[range(3), CONDITION.label]
    want = score + scale * torch.autograd.grad(log_class.sum(), x)[0]
    guided = ClassifierFree(ORACLE, scale)(X, LOG_SNR, CONDITION).mean
    torch.testing.assert_close(score_from_mean(X, guided, LOG_SNR), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("currency", [lambda x, mean, _: mean, eps_from_mean, v_from_mean, score_from_mean])
@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("kind", ["classifier-free", "autoguidance", "interval"])
def test_guidance_is_linear_and_the_same_in_every_currency(currency, scale, kind):
    conditional, null, bad = (
        d(X, LOG_SNR, c).mean for d, c in ((ORACLE, CONDITION), (NULL, CONDITION), (BAD, CONDITION))
    )
    worse = bad if kind == "autoguidance" else null
    if kind == "interval":  # of the third image alone
        worse = torch.where(LOG_SNR[:, None] >= 0.7, null, conditional)
    first, second = (currency(X, mean, LOG_SNR) for mean in (worse, conditional))
    guided = {
        "classifier-free": ClassifierFree(ORACLE, scale),
        "autoguidance": AutoGuidance(ORACLE, BAD, scale),
        "interval": Interval(ClassifierFree(ORACLE, scale), ORACLE, lo=0.7, hi=math.inf),
    }[kind]
    got = currency(X, guided(X, LOG_SNR, CONDITION).mean, LOG_SNR)
    torch.testing.assert_close(got, first + scale * (second - first), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1.5, 3.0])
def test_the_autoguided_score_is_that_of_the_good_density_times_a_power_of_good_over_bad(scale):
    """∇ ln p_good + (s − 1) ∇ ln(p_good/p_bad), by autograd from the oracles' densities."""
    x = X.clone().requires_grad_()
    good, bad = ORACLE.log_prob(x, LOG_SNR, CONDITION).sum(), BAD.log_prob(x, LOG_SNR).sum()
    want = torch.autograd.grad(good + (scale - 1) * (good - bad), x)[0]
    guided = AutoGuidance(ORACLE, BAD, scale)(X, LOG_SNR, CONDITION).mean
    torch.testing.assert_close(score_from_mean(X, guided, LOG_SNR), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", [-2.0, 0.0, 0.3, 1.0, 1.7, 8.0])
def test_guided_by_itself_is_itself_bit_for_bit(scale):
    x, level = randn("many", shape=(64, 2)), torch.linspace(-9, 9, 64)
    condition = Condition(label=torch.arange(64) % 2)
    got = AutoGuidance(ORACLE, ORACLE, scale)(x, level, condition).mean
    assert torch.equal(got, ORACLE(x, level, condition).mean)


def test_autoguidance_by_the_null_branch_reduces_to_classifier_free():
    for scale in (0.0, 1.0, 2.5):
        got = AutoGuidance(ORACLE, Unconditional(ORACLE), scale)(X, LOG_SNR, CONDITION).mean
        assert torch.equal(got, ClassifierFree(ORACLE, scale)(X, LOG_SNR, CONDITION).mean)


def test_autoguidance_of_scale_1_is_one_call_of_the_good_one_and_else_both_are_asked_the_same():
    good, bad = Counted(), Counted()
    guided = AutoGuidance(good, bad, 1.0)(X, LOG_SNR, CONDITION)
    assert (good.labels, bad.labels) == ([[0, 1, 1]], [])
    assert torch.equal(guided.mean, ORACLE(X, LOG_SNR, CONDITION).mean)
    assert guided.covariance is not None
    guided = AutoGuidance(good, bad, 2.0)(X, LOG_SNR, CONDITION)
    assert (good.labels[1:], bad.labels) == ([[0, 1, 1]], [[0, 1, 1]])
    assert guided.covariance is None
    assert guided.variance_fraction[:, 0].tolist() == [0, 1, 1]
    assert not torch.equal(AutoGuidance(good, BAD, 2.0)(X, LOG_SNR, Condition()).mean, NULL(X, LOG_SNR, CONDITION).mean)


def test_wrappers_nest():
    """Classifier-free guidance of an autoguided denoiser, inside an interval."""
    nested = Interval(ClassifierFree(AutoGuidance(ORACLE, BAD, 1.5), 3.0), ORACLE, lo=-1.0, hi=0.7)
    got = nested(X, LOG_SNR, CONDITION).mean
    conditional, null, bad = (d(X, LOG_SNR, CONDITION).mean for d in (ORACLE, NULL, BAD))
    auto, auto_null = bad + 1.5 * (conditional - bad), bad + 1.5 * (null - bad)
    want = torch.stack([conditional[0], (auto_null + 3.0 * (auto - auto_null))[1], conditional[2]])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_an_interval_of_the_whole_line_reduces_to_what_is_guided():
    guided = ClassifierFree(ORACLE, 3.0)
    got = Interval(guided, ORACLE, lo=-math.inf, hi=math.inf)(X, LOG_SNR, CONDITION)
    assert torch.equal(got.mean, guided(X, LOG_SNR, CONDITION).mean)


def test_an_interval_of_sigma_is_one_of_log_snr():
    """σ_lo < σ ≤ σ_hi is −2 ln σ_hi ≤ λ < −2 ln σ_lo; the default is the one of EDM2-S, σ from 0.28 to 2.9."""
    default = interval(ORACLE, BAD)
    assert math.exp(-default.lo / 2) == pytest.approx(2.9, rel=1e-2)
    assert math.exp(-default.hi / 2) == pytest.approx(0.28, rel=1e-2)
    assert (default.guided, default.plain) == (BAD, ORACLE)


def test_at_a_level_of_a_float32_grid_the_ends_are_rounded_alike():
    """lo and hi are float64, a float32 picture's level is not: at the same number, lo is inside and hi is outside."""
    ends, x = (-2.0 * math.log(2.9), -2.0 * math.log(0.28)), X.float()
    for level, inside in zip(ends, (True, False), strict=True):
        counted = Counted()
        Interval(ClassifierFree(counted, 3.0), counted, *ends)(x, torch.full((3,), level), CONDITION)
        assert len(counted.labels) == 1 + inside


def test_scale_1_is_one_conditional_call():
    counted = Counted()
    guided = ClassifierFree(counted, 1.0)(X, LOG_SNR, CONDITION)
    assert counted.labels == [[0, 1, 1]]
    assert torch.equal(guided.mean, ORACLE(X, LOG_SNR, CONDITION).mean)
    assert guided.covariance is not None


def test_another_scale_is_two_calls_and_scale_0_is_the_null_mean():
    counted = Counted()
    guided = ClassifierFree(counted, 0.0)(X, LOG_SNR, CONDITION)
    assert sorted(counted.labels) == [[-1, -1, -1], [0, 1, 1]]
    assert torch.equal(guided.mean, ORACLE(X, LOG_SNR, CONDITION.null()).mean)


def test_without_a_label_there_is_nothing_to_guide_by():
    counted = Counted()
    guided = ClassifierFree(counted, 5.0)(X, LOG_SNR, Condition())
    assert counted.labels == [None]
    assert torch.equal(guided.mean, ORACLE(X, LOG_SNR, Condition()).mean)


def test_the_rest_of_the_posterior_is_the_conditional_branchs_without_covariance():
    guided = ClassifierFree(Counted(), 3.0)(X, LOG_SNR, CONDITION)
    assert guided.covariance is None
    assert guided.variance_fraction[:, 0].tolist() == [0, 1, 1]
    assert guided.log_uncertainty.tolist() == [0, 1, 1]


def test_the_low_res_picture_is_given_to_both_branches():
    seen = []

    def denoiser(x_t, log_snr, condition):
        seen.append((condition.low_res, condition.aug_log_snr))
        return Posterior(x_t)

    condition = replace(CONDITION, low_res=torch.ones(3, 3, 1, 1), aug_log_snr=torch.zeros(3))
    ClassifierFree(denoiser, 2.0)(X, LOG_SNR, condition)
    assert len(seen) == 2
    assert all(low is condition.low_res and level is condition.aug_log_snr for low, level in seen)


@pytest.mark.parametrize(("level", "calls"), [(-2.1, 1), (-2.0, 2), (0.0, 2), (2.9, 2), (3.0, 1), (9.0, 1)])
def test_outside_the_interval_one_call(level, calls):
    counted = Counted()
    got = Interval(ClassifierFree(counted, 3.0), counted, lo=-2.0, hi=3.0)(
        X, torch.full((3,), level).to(F64), CONDITION
    )
    assert len(counted.labels) == calls
    alone = ClassifierFree(ORACLE, 3.0) if calls == 2 else Unguided(ORACLE)
    assert torch.equal(got.mean, alone(X, torch.full((3,), level).to(F64), CONDITION).mean)


def test_at_mixed_levels_each_image_has_its_own():
    one, other = ClassifierFree(Counted(), 3.0), Counted()
    got = Interval(one, other, lo=-1.0, hi=0.7)(X, LOG_SNR, CONDITION)
    guided, plain = one(X, LOG_SNR, CONDITION), other(X, LOG_SNR, CONDITION)
    assert torch.equal(got.mean, torch.stack([plain.mean[0], guided.mean[1], plain.mean[2]]))
    assert got.covariance is None
    assert torch.equal(got.variance_fraction, plain.variance_fraction)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ClassifierFree(ORACLE, math.nan), "guidance scale"),
        (lambda: ClassifierFree(ORACLE, math.inf), "guidance scale"),
        (lambda: AutoGuidance(ORACLE, BAD, math.nan), "guidance scale"),
        (lambda: Interval(ORACLE, ORACLE, 1.0, 1.0), "interval"),
        (lambda: Interval(ORACLE, ORACLE, math.nan, 1.0), "interval"),
    ],
)
def test_wrong_parameters_are_refused(make, says):
    with pytest.raises(CascadeError, match=says):
        make()
