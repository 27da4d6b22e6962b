"""Laws of every shipped variant: zero before training, finite gradients, exact round trips, order does not matter."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load, save
from torch import nn

import conf
from cascade.networks import BaseNetwork, LowResConditioned, seeded_dropout
from cascade.registry import build
from cascade.rng import generator, randn

FOLDER = Path(conf.__path__[0]) / "network"
VARIANTS = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def narrow(variant):
    """The shipped config with widths a fourth of its own."""
    config = yaml.safe_load((FOLDER / f"{variant}.yaml").read_text())
    if variant != "tiny":
        config["channels"] = [max(8, width // 4) for width in config["channels"]]
        config |= {"embedding_dim": 16, "head_channels": 8}
    return config


def make(variant, trained=False):
    torch.manual_seed(0)
    network = build("network", narrow(variant), in_channels=3 if "base" in variant else 6, num_classes=3, augment_dim=2)
    network = BaseNetwork(network) if "base" in variant else LowResConditioned(network)
    if trained:
        for name, parameter in network.named_parameters():
            parameter.data = 0.2 * randn(name, shape=parameter.shape)
    return network


def inputs(variant, batch=3):
    side = 32
    call = {"label": torch.arange(batch) - 1, "augment": randn("augment", shape=(batch, 2))}
    if "base" not in variant:
        call |= {
            "low_res": randn("low", shape=(batch, 3, side // 4, side // 4)),
            "aug_log_snr": torch.arange(batch) + 1.0,
        }
    return (randn("x", shape=(batch, 3, side, side)), torch.linspace(-5, 5, batch)), call


def pick(call, index):
    args, kwargs = call
    return [a[index] for a in args], {key: value[index] for key, value in kwargs.items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_says_nothing_before_training(variant):
    args, kwargs = inputs(variant)
    assert make(variant).eval()(*args, **kwargs).eq(0).all()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_finite_gradient_and_soon_a_nonzero_one(variant, autocast):
    network = make(variant).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    args, kwargs = inputs(variant)
    moved = {name: False for name, _ in network.named_parameters()}
    for step in range(4):  # zero-initialised layers open one after another
        with (
            seeded_dropout([generator(step, i) for i in range(3)]),
            torch.autocast("cpu", torch.bfloat16, enabled=autocast),
        ):
            loss = (network(*args, **kwargs).float() - args[0]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            moved[name] |= bool(parameter.grad.any())
        optimizer.step()
    assert all(moved.values()), [name for name, value in moved.items() if not value]


@pytest.mark.parametrize("variant", VARIANTS)
def test_state_dict_round_trip_is_exact(variant):
    network, other = make(variant, trained=True).eval(), make(variant).eval()
    args, kwargs = inputs(variant)
    other.load_state_dict(load(save(network.state_dict())))
    assert torch.equal(other(*args, **kwargs), network(*args, **kwargs))


@torch.no_grad()
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_permuted_or_padded_batch_gives_the_same_bits(variant, autocast):
    network = make(variant, trained=True).eval().to(memory_format=torch.channels_last)
    call = inputs(variant, batch=4)
    order = torch.tensor([2, 0, 3, 1])
    padded = torch.tensor([1, 1, 1, 1])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = network(*call[0], **call[1])
        for index in (order, padded):
            args, kwargs = pick(call, index)
            assert torch.equal(network(*args, **kwargs), y[index])


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_layout_and_bf16_change_only_the_last_bits(variant):
    network = make(variant, trained=True).eval()
    args, kwargs = inputs(variant)
    y = network(*args, **kwargs)
    network = network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(*args, **kwargs), y, rtol=1e-4, atol=1e-4 * float(y.abs().max()))
    with torch.autocast("cpu", torch.bfloat16):
        error = (network(*args, **kwargs).float() - y).square().mean().sqrt()
    assert error < 0.05 * y.std()


def test_a_double_network_computes_in_double():
    network = make("tiny", trained=True).double()
    (x, clock), kwargs = inputs("tiny")
    kwargs = {key: value.double() if value.is_floating_point() else value for key, value in kwargs.items()}
    y = network(x.double(), clock.double(), **kwargs)
    assert y.dtype == torch.float64
    single = make("tiny", trained=True)(*inputs("tiny")[0], **inputs("tiny")[1])
    assert 0 < (y - single).abs().max() < 1e-3 * y.abs().max()


def test_group_norm_of_the_shipped_base_sees_groups_of_sixteen():
    network = build("network", {"name": "efficient", "channels": [64], "blocks": [1], "attention": [False]})
    groups = [m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)]
    assert groups
    assert set(groups) == {4}
