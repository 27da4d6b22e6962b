"""The likelihood of the probability flow against closed forms, quadrature and the flow's own samples."""

import math

import pytest
import torch
from torch.testing import assert_close

from cascade.diffusion import (
    Condition,
    GaussianDenoiser,
    MixtureDenoiser,
    Posterior,
    VPreconditioning,
    alpha_sigma,
)
from cascade.diffusion.flow import flow_slope, runge_kutta_step
from cascade.diffusion.likelihood import log_likelihood
from cascade.errors import CascadeError

F64 = torch.float64
NOTHING = Condition()


@pytest.fixture
def gaussian(normal):
    root = 0.6 * normal(3, 3, name="root")
    return normal(3, name="mean"), root @ root.T + 0.01 * torch.eye(3, dtype=F64)


@pytest.fixture
def mixture():
    return MixtureDenoiser(
        torch.tensor([0.3, 0.7], dtype=F64),
        torch.tensor([[-1.0, 0.4], [0.8, 0.1]], dtype=F64),
        torch.stack([torch.eye(2, dtype=F64) * 0.05, torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=F64)]),
    )


@pytest.mark.parametrize("level", [20.0, 3.0, -1.0])
def test_the_exact_trace_gives_the_gaussian_of_data_and_noise_at_the_last_level(gaussian, level, normal):
    """ln N(x; αm, α²Σ + σ²I) at λ_max, in x_t."""
    mean, covariance = gaussian
    alpha, sigma = alpha_sigma(level)
    want = torch.distributions.MultivariateNormal(
        alpha * mean, alpha**2 * covariance + sigma**2 * torch.eye(3, dtype=F64)
    )
    x = normal(4, 3)
    steps = 128 if level == 20 else 64
    got = log_likelihood(GaussianDenoiser(mean, covariance), x, NOTHING, log_snr_max=level, steps=steps)
    assert_close(got, want.log_prob(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("labels", [None, [0, 1, -1, 1]])
def test_the_exact_trace_gives_the_density_of_a_mixture(mixture, labels, normal):
    condition = NOTHING if labels is None else Condition(label=torch.tensor(labels))
    x = normal(4, 2)
    got = log_likelihood(mixture, x, condition)
    assert_close(got, mixture.log_prob(x, torch.full((4,), 20.0, dtype=F64), condition), rtol=0, atol=2e-5)


def test_more_steps_err_less(mixture, normal):
    x = normal(4, 2)
    want = mixture.log_prob(x, torch.full((4,), 3.0, dtype=F64))
    errors = [(log_likelihood(mixture, x, NOTHING, log_snr_max=3.0, steps=n) - want).norm().item() for n in (16, 32)]
    assert errors[1] < errors[0] / 2**4


def test_what_is_left_out_at_the_noisy_end_falls_as_alpha_squared(gaussian, normal):
    """The data's mean there is the denoiser's x̂: without it the error would fall as α."""
    mean, covariance = gaussian
    oracle = GaussianDenoiser(mean, covariance)
    x = normal(4, 3)
    want = oracle.log_prob(x, torch.zeros(4, dtype=F64))
    errors = [
        (log_likelihood(oracle, x, NOTHING, log_snr_min=low, log_snr_max=0.0, steps=32) - want).norm().item()
        for low in (-6.0, -10.0)
    ]
    assert math.log(errors[0] / errors[1]) / 4 == pytest.approx(1, abs=0.1)


def bent(x_t, log_snr, condition):
    """Not the exact denoiser of any data, its Jacobian not symmetric; like one it loses sight of x_t as α → 0."""
    seen = x_t * log_snr.sigmoid().sqrt()[:, None]
    return Posterior(torch.tanh(2 * seen) + 0.3 * torch.sin(log_snr)[:, None] * seen.cumsum(1) - 0.2)


def test_it_is_a_density_for_any_denoiser(integrate):
    """Its integral is 1 up to the noisy end's O(α²), in one dimension."""

    def density(x):
        return log_likelihood(bent, x[:, None], NOTHING, log_snr_min=-14.0, log_snr_max=2.0, steps=32).exp()

    assert integrate(density, -8, 8, panels=60) == pytest.approx(1, abs=1e-5)


def test_it_is_the_density_of_the_flows_samples(normal):
    """ln p(T(x)) + ln |det ∂T/∂x| = ln N(x; αx̂, σ²) for the flow's map T, with its Jacobian through all steps."""
    low, high, steps = -9.0, 2.0, 16
    starts = normal(3, 2)

    def flow(x):
        x = x[None]
        for i in range(steps):
            t, s = (low + (high - low) * j / steps for j in (i, i + 1))
            x = runge_kutta_step(lambda x, level: flow_slope(bent, x, level, NOTHING), x, t, s, 5)
        return x[0]

    alpha, sigma = alpha_sigma(low)
    mean = bent(starts, torch.full((3,), low, dtype=F64), NOTHING).mean
    prior = torch.distributions.Normal(alpha * mean, sigma).log_prob(starts).sum(1)
    ends = torch.stack([flow(x) for x in starts])
    volume = torch.stack([torch.func.jacrev(flow)(x).det().log() for x in starts])
    got = log_likelihood(bent, ends, NOTHING, log_snr_min=low, log_snr_max=high, steps=steps)
    assert_close(got + volume, prior, rtol=0, atol=1e-5)


# Hutchinson's estimate


def test_rademacher_probes_are_exact_for_a_diagonal_jacobian(normal):
    oracle = GaussianDenoiser(normal(4, name="mean"), normal(4, name="values").exp().diag())
    x = normal(3, 4)
    exact = log_likelihood(oracle, x, NOTHING, steps=24)
    for probes in (1, 3):
        assert_close(log_likelihood(oracle, x, NOTHING, probes, steps=24), exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("probes", [1, 4])
def test_rademacher_probes_lie_within_4_standard_errors_of_the_exact_trace(gaussian, mixture, probes, normal):
    for oracle, dim in ((GaussianDenoiser(*gaussian), 3), (mixture, 2)):
        x = normal(1, dim)
        exact = log_likelihood(oracle, x, NOTHING, steps=12)
        count = 400 // probes
        got = log_likelihood(oracle, x.expand(count, dim), NOTHING, probes, seeds=range(count), steps=12)
        error = got.std() / math.sqrt(count)
        assert error > 1e-3, "the Jacobian is not diagonal, so the probes differ"
        assert abs(got.mean() - exact).item() < 4 * error.item()


def test_in_two_dimensions_the_probes_take_the_two_values_of_their_signs():
    """v^T(∂f/∂x)v = ∇·f ± 2·∂f_0/∂x_1; along the flow ∂f/∂x integrates to ½ ln of the covariance at λ_max, from 1."""
    covariance = torch.tensor([[0.5, 0.2], [0.2, 0.4]], dtype=F64)
    oracle, x = GaussianDenoiser(torch.zeros(2, dtype=F64), covariance), torch.ones(1, 2, dtype=F64)
    exact = log_likelihood(oracle, x, NOTHING, steps=48)
    got = log_likelihood(oracle, x.expand(16, 2), NOTHING, 1, seeds=range(16), steps=48)
    values, vectors = torch.linalg.eigh(covariance)
    away = 2 * (vectors @ values.log().diag() @ vectors.T / 2)[0, 1].abs()
    assert_close((got - exact).abs(), away.expand(16), rtol=0, atol=1e-5)
    assert 3 <= int((got > exact).sum()) <= 13


# What an answer depends on


@pytest.mark.parametrize("probes", [None, 2])
def test_an_image_has_the_same_likelihood_alone_and_among_others(mixture, probes, normal):
    x, labels = normal(4, 2), torch.tensor([0, 1, -1, 1])

    def run(index, seeds):
        given = {} if seeds is None else {"seeds": [seeds[i] for i in index]}
        condition = Condition(label=labels[index])
        return log_likelihood(mixture, x[index], condition, probes, steps=4, **given)

    for seeds in (None,) if probes is None else ([5, 6, 7, 8],):
        whole = run([0, 1, 2, 3], seeds)
        assert_close(run([2], seeds), whole[2:3], rtol=1e-12, atol=1e-12)
        assert_close(run([3, 1], seeds), whole[[3, 1]], rtol=1e-12, atol=1e-12)


def test_no_two_images_share_their_probes_unless_their_seeds_are_the_same():
    """Without seeds the seed is the place in the batch: one point sixteen times gives both of its two values."""
    covariance = torch.tensor([[0.5, 0.2], [0.2, 0.4]], dtype=F64)
    oracle, x = GaussianDenoiser(torch.zeros(2, dtype=F64), covariance), torch.ones(16, 2, dtype=F64)
    without = log_likelihood(oracle, x, NOTHING, 1, steps=4)
    assert_close(log_likelihood(oracle, x, NOTHING, 1, seeds=range(16), steps=4), without)
    assert 3 <= int((without > without.mean()).sum()) <= 13
    assert log_likelihood(oracle, x, NOTHING, 1, seeds=["same"] * 16, steps=4).std() < 1e-9


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_networks_and_pictures_in_any_mode(mode, normal):
    """A float32 network on pictures: flattened or not, under no_grad or not, and no gradient is left anywhere."""
    convolution = torch.nn.Conv2d(3, 3, 3, padding=1)
    with torch.no_grad():
        for parameter in convolution.parameters():
            parameter.copy_(0.2 * normal(*parameter.shape, name="weights"))

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = convolution

        def forward(self, x, log_snr, low_res=None, **condition):
            return self.convolution(x * low_res).tanh()

    denoiser = VPreconditioning(Network())
    x = 0.5 * normal(2, 3, 4, 4).float()
    with mode():
        told = Condition(low_res=torch.ones(2, 3, 1, 1))
        got = log_likelihood(denoiser, x, told, log_snr_min=-8.0, log_snr_max=2.0, steps=3)
        probed = log_likelihood(denoiser, x, told, probes=100, log_snr_min=-8.0, log_snr_max=2.0, steps=3)
    assert got.dtype == torch.float32
    assert not got.requires_grad
    assert all(parameter.grad is None for parameter in denoiser.parameters())
    flat = lambda x_t, log_snr, condition: Posterior(  # noqa: E731
        denoiser(x_t.reshape(-1, 3, 4, 4), log_snr, condition).mean.flatten(1)
    )
    again = log_likelihood(flat, x.flatten(1), told.clone(), log_snr_min=-8.0, log_snr_max=2.0, steps=3)
    assert_close(again, got, rtol=1e-5, atol=1e-4)
    assert_close(probed, got, rtol=0, atol=2.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_single_precision_is_near_double(mixture, dtype, normal):
    x = normal(4, 2).to(dtype)
    got, want = (log_likelihood(mixture, x.to(d), NOTHING, steps=24) for d in (dtype, F64))
    assert got.dtype == torch.float32
    assert_close(got.double(), want, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"probes": 0}, "probes=0"),
        ({"steps": 0}, "steps=0"),
        ({"log_snr_min": 3.0, "log_snr_max": 2.0}, "must be below"),
        ({"log_snr_max": math.inf}, "finite"),
        ({"probes": 1, "seeds": [1]}, "1 seeds for 2 images"),
    ],
)
def test_what_cannot_be_is_refused(mixture, given, says):
    with pytest.raises(CascadeError, match=says):
        log_likelihood(mixture, torch.zeros(2, 2), NOTHING, **given)
