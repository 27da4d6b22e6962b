"""Guidance: against the exact score, linear in the scale, one network call where one is enough."""

import math
from dataclasses import replace

import pytest
import torch

from cascade.diffusion import Condition, Posterior, eps_from_mean, score_from_mean, v_from_mean
from cascade.diffusion.oracle import MixtureDenoiser
from cascade.errors import CascadeError
from cascade.rng import randn
from cascade.sampling import ClassifierFree, Interval, Unguided

F64 = torch.float64
ORACLE = MixtureDenoiser(
    torch.tensor([0.4, 0.6], dtype=F64),
    torch.tensor([[-0.8, 0.5], [0.9, -0.2]], dtype=F64),
    torch.stack([torch.eye(2, dtype=F64) * 0.5, torch.eye(2, dtype=F64) * 0.1]),
)
X = randn("x", shape=(3, 2)).to(F64)
LOG_SNR = torch.tensor([-2.0, 0.5, 1.0], dtype=F64)
CONDITION = Condition(label=torch.tensor([0, 1, 1]))


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
def test_guidance_is_linear_and_the_same_in_every_currency(currency, scale):
    conditional, null = (ORACLE(X, LOG_SNR, c).mean for c in (CONDITION, CONDITION.null()))
    first, second = (currency(X, mean, LOG_SNR) for mean in (null, conditional))
    got = currency(X, ClassifierFree(ORACLE, scale)(X, LOG_SNR, CONDITION).mean, LOG_SNR)
    torch.testing.assert_close(got, first + scale * (second - first), rtol=1e-12, atol=1e-12)


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
        (lambda: Interval(ORACLE, ORACLE, 1.0, 1.0), "interval"),
        (lambda: Interval(ORACLE, ORACLE, math.nan, 1.0), "interval"),
    ],
)
def test_wrong_parameters_are_refused(make, says):
    with pytest.raises(CascadeError, match=says):
        make()
