"""Preconditionings: with an exact target the mean is exactly x; EDM is the paper's, and v at σ_d = 1."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cascade.diffusion import (
    Condition,
    EDMPreconditioning,
    EDMResidualPreconditioning,
    EpsPreconditioning,
    ResidualPreconditioning,
    VPreconditioning,
    X0Preconditioning,
    alpha_sigma,
    diffuse,
)
from cascade.errors import CascadeError

KINDS = {
    "eps": EpsPreconditioning,
    "v": VPreconditioning,
    "x0": X0Preconditioning,
    "edm": lambda network: EDMPreconditioning(network, sigma_data=0.5),
    "edm at 1.7": lambda network: EDMPreconditioning(network, sigma_data=1.7),
}
NOTHING = Condition()


class Network(nn.Module):
    """Answers with `function(x, log_snr)`, and remembers what it was asked."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, log_snr, label=None, low_res=None, aug_log_snr=None, augment=None):
        self.asked = {"log_snr": log_snr, "label": label, "low_res": low_res}
        self.asked |= {"aug_log_snr": aug_log_snr, "augment": augment, "x": x}
        return self.function(x, log_snr)


def nonlinear(x, log_snr):
    return torch.tanh(1.3 * x + (log_snr / 8)[:, None]) - 0.4 * x.square()


def per_image(value, count):
    return torch.full((count,), value, dtype=torch.float64)


@pytest.mark.parametrize("level", [-20.0, -6.0, 0.0, 2.4, 11.0, 20.0])
def test_with_the_papers_target_the_mean_is_the_image(level, normal):
    x, eps, log_snr = normal(2, 9), normal(2, 9, name="eps"), per_image(level, 2)
    alpha, sigma = (float(c) for c in alpha_sigma(level))
    noise = sigma / alpha  # EDM's σ
    x_ve = x + noise * eps

    def edm_target(sigma_data):
        # Karras et al., eq. 8: F* = (y − c_skip·(y + n))/c_out.
        c_skip = sigma_data**2 / (noise**2 + sigma_data**2)
        c_out = noise * sigma_data / math.sqrt(noise**2 + sigma_data**2)
        return (x - c_skip * x_ve) / c_out

    targets = {
        "eps": eps,
        "v": alpha * eps - sigma * x,
        "x0": x,
        "edm": edm_target(0.5),
        "edm at 1.7": edm_target(1.7),
    }
    for name, kind in KINDS.items():
        denoiser = kind(Network(lambda *_, name=name: targets[name]))
        mean = denoiser(diffuse(x, eps, log_snr), log_snr, NOTHING).mean
        assert_close(mean, x, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("level", [-11.0, -2.0, 0.7, 9.0])
def test_edm_is_the_papers_denoiser_through_the_variance_exploding_bridge(sigma_data, level, normal):
    x_ve, sigma = normal(3, 5) * 2, math.exp(-level / 2)
    # Karras et al., table 1. Our networks embed λ themselves: c_noise = ln(σ)/4 is −λ/8.
    c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
    c_out = sigma * sigma_data / math.sqrt(sigma_data**2 + sigma**2)
    c_in = 1 / math.sqrt(sigma**2 + sigma_data**2)
    c_noise = math.log(sigma) / 4
    expected = c_skip * x_ve + c_out * nonlinear(c_in * x_ve, per_image(-8 * c_noise, 3))

    alpha, _ = alpha_sigma(level)
    denoiser = EDMPreconditioning(Network(nonlinear), sigma_data)
    assert_close(denoiser(alpha * x_ve, per_image(level, 3), NOTHING).mean, expected, rtol=1e-12, atol=1e-12)


def test_edm_at_unit_sigma_data_reduces_to_v_with_f_negated(normal):
    x_t = normal(9, 6)
    log_snr = torch.linspace(-20, 20, 9, dtype=torch.float64)
    edm = EDMPreconditioning(Network(nonlinear), sigma_data=1.0)
    v = VPreconditioning(Network(lambda x, level: -nonlinear(x, level)))
    assert_close(edm(x_t, log_snr, NOTHING).mean, v(x_t, log_snr, NOTHING).mean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sigma_data", [0.3, 0.5, 1.0, 4.0])
def test_edms_network_sees_and_predicts_unit_variance(sigma_data):
    # Data and noise are independent, so variances are sums of squared coefficients: read them off unit impulses.
    log_snr = torch.linspace(-20, 20, 17, dtype=torch.float64)
    one, zero = torch.ones(17, 1, dtype=torch.float64), torch.zeros(17, 1, dtype=torch.float64)
    silent, constant = Network(lambda x, _: torch.zeros_like(x)), Network(lambda x, _: torch.ones_like(x))
    skip, added = (EDMPreconditioning(network, sigma_data) for network in (silent, constant))
    c_out = added(zero, log_snr, NOTHING).mean
    seen, target = zero.clone(), zero.clone()
    for x, eps, variance in ((one, zero, sigma_data**2), (zero, one, 1.0)):
        c_skip_x = skip(diffuse(x, eps, log_snr), log_snr, NOTHING).mean
        seen += variance * silent.asked["x"].square()
        target += variance * ((x - c_skip_x) / c_out).square()
    assert_close(seen, one, rtol=1e-12, atol=0)
    # At λ = 20 the target is a difference of nearly equal numbers: the test loses digits, not the code.
    assert_close(target, one, rtol=1e-5, atol=0)
    assert_close(target[:12], one[:12], rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", KINDS)
def test_float32_is_stable_at_both_ends(name, normal):
    log_snr = torch.tensor([-20.0, -19.0, 0.0, 19.0, 20.0], dtype=torch.float64)
    x_t, output = normal(5, 8), normal(5, 8, name="output")
    mean = KINDS[name](Network(lambda *_: output))(x_t, log_snr, NOTHING).mean
    single = KINDS[name](Network(lambda *_: output.float()))(x_t.float(), log_snr, NOTHING).mean
    assert single.dtype == torch.float32
    # Relative to the size of the coefficients: eps multiplies by 1/α = 2·10⁴ at the noisy end.
    scale = mean.abs().amax(1, keepdim=True)
    assert float(((single.double() - mean) / scale).abs().max()) < 2e-6


@pytest.mark.parametrize("name", KINDS)
def test_the_network_is_told_the_whole_condition_by_name_and_a_float32_level(name, normal):
    condition = Condition(torch.tensor([1, 2]), torch.rand(2, 3, 2, 2), torch.tensor([3.0, 4.0]), torch.rand(2, 9))
    network = Network(lambda x, _: x)
    KINDS[name](network)(normal(2, 3, 4, 4).float(), torch.tensor([0.5, 1.5], dtype=torch.float64), condition)
    for field in ("label", "low_res", "aug_log_snr", "augment"):
        assert network.asked[field] is getattr(condition, field), field
    assert network.asked["log_snr"].dtype == torch.float32
    assert network.asked["log_snr"].tolist() == [0.5, 1.5]


@pytest.mark.parametrize("name", KINDS)
def test_half_precision_ends_at_the_networks_output(name, normal):
    x_t, log_snr = normal(2, 6).float(), torch.tensor([-3.0, 4.0])
    output = normal(2, 6, name="output").bfloat16()
    from_half = KINDS[name](Network(lambda *_: output))(x_t, log_snr, NOTHING).mean
    from_single = KINDS[name](Network(lambda *_: output.float()))(x_t, log_snr, NOTHING).mean
    assert torch.equal(from_half, from_single)


def test_the_papers_sigma_data_is_the_default():
    assert EDMPreconditioning(Network(lambda *_: None)).sigma_data == 0.5


def test_impossible_numbers_are_refused():
    with pytest.raises(ValueError, match="sigma_data must be positive, not 0"):
        EDMPreconditioning(nn.Identity(), sigma_data=0)


@pytest.mark.parametrize("kind", [*KINDS, "residual", "edm_residual"])
def test_a_learned_variance_is_the_second_half_of_the_channels(kind, normal):
    """The mean is what it is without it, and f = (v + 1)/2."""
    condition = Condition(low_res=normal(2, 3, 2, 2, name="low")) if "residual" in kind else NOTHING
    make = {
        "eps": EpsPreconditioning,
        "v": VPreconditioning,
        "x0": X0Preconditioning,
        "edm": EDMPreconditioning,
        "edm at 1.7": lambda network, **more: EDMPreconditioning(network, 1.7, **more),
        "residual": ResidualPreconditioning,
        "edm_residual": EDMResidualPreconditioning,
    }[kind]
    x_t, log_snr, v = normal(2, 3, 4, 4), per_image(0.7, 2), normal(2, 3, 4, 4, name="v")
    plain = make(Network(lambda x, log_snr: torch.tanh(x)))(x_t, log_snr, condition)
    both = make(Network(lambda x, log_snr: torch.cat([torch.tanh(x), v], 1)), learn_variance=True)
    posterior = both(x_t, log_snr, condition)
    assert plain.variance_fraction is None
    assert torch.equal(posterior.mean, plain.mean)
    assert_close(posterior.variance_fraction, (v + 1) / 2)


def test_a_learned_variance_needs_twice_the_channels(normal):
    denoiser = VPreconditioning(Network(lambda x, log_snr: x), learn_variance=True)
    with pytest.raises(CascadeError, match="6 output channels, not 3"):
        denoiser(normal(1, 3, 2, 2), per_image(0.0, 1), NOTHING)
