"""Laws of every shipped network: zero before training, finite gradients, exact round trips, order does not matter."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load, save
from torch import nn

import conf
from cascade.artifact import build_denoiser, load_stage, save_stage
from cascade.diffusion import Condition
from cascade.errors import CascadeError
from cascade.networks import BaseNetwork, LowResConditioned, seeded_dropout
from cascade.registry import build
from cascade.rng import generator, randn

FOLDER = Path(conf.__path__[0]) / "network"
VARIANTS = sorted(path.stem for path in FOLDER.glob("*.yaml"))


# What makes each network small; an efficient one gets a fourth of its own widths, one that is not named here stays.
NARROW = {
    "tiny": {},
    "adm": {"channels": 32, "channel_mult": [1, 2], "blocks": 1, "attention": [2], "head_channels": 16},
    "edm2": {"channels": 16, "channel_mult": [1, 2], "blocks": 1, "attention": [2], "head_channels": 16},
    "imagen_unet": {"channels": [16, 32], "blocks": [1, 2], "attention": [False, True], "head_channels": 16},
    "uvit": {"channels": [8, 16], "blocks": [1, 1], "dim": 32, "depth": 2, "heads": 2},
    "dit": {"dim": 32, "depth": 2, "heads": 2},
    "jit": {"dim": 32, "depth": 4, "heads": 2, "bottleneck": 16, "class_tokens": 3, "class_start": 2},
}


def narrow(variant):
    """The shipped config, much narrower."""
    config = yaml.safe_load((FOLDER / f"{variant}.yaml").read_text())
    small = NARROW.get(variant, {})
    if config["name"] == "efficient" and variant not in NARROW:
        widths = [max(8, width // 4) for width in config["channels"]]
        small = {"channels": widths, "embedding_dim": 16, "head_channels": 8}
    return {**config, **small, **({"embedding_dim": 16} if "embedding_dim" in config else {})}


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


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_double_network_computes_in_double(variant):
    network = make(variant, trained=True).eval().double()
    (x, clock), kwargs = inputs(variant)
    kwargs = {key: value.double() if value.is_floating_point() else value for key, value in kwargs.items()}
    y = network(x.double(), clock.double(), **kwargs)
    assert y.dtype == torch.float64
    single = make(variant, trained=True).eval()(*inputs(variant)[0], **inputs(variant)[1])
    assert 0 < (y - single).abs().max() < 1e-3 * y.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_any_multiple_is_a_size_and_nothing_else_is(variant):
    network = make(variant, trained=True).eval()
    (x, clock), kwargs = inputs(variant, batch=1)
    multiple = math.lcm(network.network.multiple, 4)
    height, width = 2 * multiple, 3 * multiple
    if "low_res" in kwargs:
        kwargs["low_res"] = randn("low", shape=(1, 3, height // 4, width // 4))
    x = randn("x", shape=(1, 3, height, width))
    assert network(x, clock, **kwargs).shape == x.shape
    odd = randn("x", shape=(1, network.network.in_channels, height, width + network.network.multiple // 2))
    with pytest.raises(CascadeError, match=f"multiples of {network.network.multiple}"):
        network.network(odd, clock)


@torch.no_grad()
@pytest.mark.parametrize("low", [None, 8])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stage_of_it_is_the_same_after_saving_and_loading(variant, low, small_configs, tmp_path):
    config = replace(small_configs[low is not None], resolution=32, low_resolution=low, network=narrow(variant))
    denoiser = build_denoiser(config).eval()
    for name, parameter in denoiser.named_parameters():
        parameter.data = 0.2 * randn(name, shape=parameter.shape)
    save_stage(tmp_path / "stage", config, denoiser.state_dict())
    condition = Condition(
        label=torch.tensor([0, 2]),
        low_res=low and randn("low", shape=(2, 3, low, low)),
        aug_log_snr=low and torch.tensor([3.0, 1.0]),
    )
    x, clock = randn("x", shape=(2, 3, 32, 32)), torch.tensor([-1.0, 2.0])
    loaded = load_stage(tmp_path / "stage").denoiser
    assert torch.equal(loaded(x, clock, condition).mean, denoiser(x, clock, condition).mean)


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_dropout_mask_belongs_to_its_image(variant):
    network = build("network", {**narrow(variant), "dropout": 0.5})
    for name, parameter in network.named_parameters():
        parameter.data = 0.2 * randn(name, shape=parameter.shape)
    x, clock = randn("x", shape=(3, 3, 32, 32)), torch.zeros(3)
    with seeded_dropout([generator("step", i) for i in range(3)]):
        whole = network(x, clock)
    with seeded_dropout([generator("step", i) for i in (2, 0)]):
        part = network(x[[2, 0]], clock[:2])
    torch.testing.assert_close(part, whole[[2, 0]], rtol=0, atol=1e-4 * float(whole.abs().max()))
    assert (network.eval()(x, clock) - whole).abs().max() > 1e-2 * whole.abs().max()


def unplaced(monkeypatch):
    """No token and no pixel knows where it stands."""
    for module in ("dit", "jit", "uvit"):
        nowhere = lambda height, width, dim: torch.zeros(height * width, dim)  # noqa: E731
        monkeypatch.setattr(f"cascade.networks.{module}.sincos_positions", nowhere)
    unturned = lambda height, width, dim: torch.zeros(height * width, dim // 2)  # noqa: E731
    monkeypatch.setattr("cascade.networks.jit.rotary_angles", unturned)
    unwaved = lambda x, count: x.new_zeros(1, count, *x.shape[-2:])  # noqa: E731
    monkeypatch.setattr("cascade.networks.efficient.places", unwaved)


@torch.no_grad()
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "edm2"])  # whose convolutions have no other padding
def test_without_borders_and_places_a_rolled_picture_gives_the_rolled_output(variant, monkeypatch):
    network = build("network", narrow(variant)).double().eval()
    for name, parameter in network.named_parameters():
        parameter.data = 0.2 * randn(name, shape=parameter.shape).double()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"
    step = network.multiple
    x, clock = randn("x", shape=(1, 3, 4 * step, 4 * step)).double(), torch.zeros(1).double()

    def difference():
        y, rolled = network(x, clock), network(x.roll((step, 2 * step), (2, 3)), clock)
        return (rolled.roll((-step, -2 * step), (2, 3)) - y).abs().max() / y.abs().max()

    placed = difference()
    unplaced(monkeypatch)
    assert difference() < 1e-9
    told = variant in ("dit", "jit", "uvit") or getattr(network, "place_features", 0) > 0
    assert (placed > 1e-3) == told


def test_group_norm_of_the_shipped_base_sees_groups_of_sixteen():
    network = build("network", {"name": "efficient", "channels": [64], "blocks": [1], "attention": [False]})
    groups = [m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)]
    assert groups
    assert set(groups) == {4}
