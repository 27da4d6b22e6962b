"""ADM's networks: their published sizes, their key names, and their output against a plain walk over a state dict."""

import math
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from cascade.commands.command_line import main
from cascade.errors import CascadeError
from cascade.networks.adm import ADMUNet
from cascade.networks.adm_classifier import ADMClassifier
from cascade.networks.adm_layers import attend
from cascade.networks.flops import cost
from cascade.networks.low_res import BaseNetwork

REFERENCE = Path(os.environ.get("CASCADE_REFERENCE", Path(__file__).parents[3] / "shared/reference")) / "adm"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="CASCADE_REFERENCE names no reference tensors")

RELEASED = {"out_channels": 6, "num_classes": 1000, "null_label": False}
WIDE = (1, 1, 2, 2, 4, 4)


@pytest.mark.parametrize(
    ("millions", "options"),
    [  # table 11 and appendix I of the paper
        (296, {"channels": 192, "blocks": 3}),
        (422, {"channels": 256, "channel_mult": (1, 1, 2, 3, 4), "attention": (4, 8, 16), "head_channels": None}),
        (554, {"channels": 256, "channel_mult": WIDE, "attention": (8, 16, 32)}),
        (559, {"channels": 256, "channel_mult": (0.5, *WIDE), "attention": (16, 32, 64)}),
        (312, {"in_channels": 6, "channels": 192, "channel_mult": WIDE, "attention": (8, 16, 32)}),
    ],
)
def test_parameters_are_as_many_as_published(millions, options):
    with torch.device("meta"):
        network = ADMUNet(**RELEASED, **options)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions


def test_the_classifier_is_as_large_as_published():
    with torch.device("meta"):
        assert round(sum(p.numel() for p in ADMClassifier(num_classes=1000).parameters()) / 1e6) == 65


def moved(network):
    """The state of a network in float64, away from the zeros that it begins with."""
    torch.manual_seed(0)
    network.double()
    state = {key: value + torch.randn_like(value) * 0.1 for key, value in network.state_dict().items()}
    network.load_state_dict(state)
    return state


def pooled(pool):
    """A small classifier and its state."""
    sizes = {"size": 8, "channels": 32, "channel_mult": (1, 2), "blocks": 1, "attention": (), "head_channels": 32}
    network = ADMClassifier(num_classes=3, pool=pool, **sizes)
    return network, moved(network)


@pytest.mark.parametrize("pool", ["attention", "average"])
def test_poolings_of_the_deepest_map_are_their_formulas(pool):
    network, state = pooled(pool)
    x, step = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([7.0, 803.0]).double()
    deepest = walk(state, x, step, None, mult=(1, 2), blocks=1, attention=(), head_channels=32, heads_first=True)
    h = F.silu(F.group_norm(deepest, 32, state["out.0.weight"], state["out.0.bias"])).flatten(2)
    if pool == "average":
        expected = h.mean(-1) @ state["out.3.weight"][:, :, 0, 0].T + state["out.3.bias"]
    else:
        # A token for the mean before those of the pixels, each with its place; it alone asks, in heads of 32 channels.
        tokens = torch.cat([h.mean(-1, keepdim=True), h], -1) + state["out.2.positional_embedding"]
        qkv = torch.einsum("oc,bct->bot", state["out.2.qkv_proj.weight"][..., 0], tokens)
        q, k, v = (qkv + state["out.2.qkv_proj.bias"][:, None]).reshape(2, 3, 2, 32, 17).unbind(1)
        looks = (torch.einsum("bhc,bhct->bht", q[..., 0], k) / 32**0.5).softmax(-1)
        mixed = torch.einsum("bht,bhct->bhc", looks, v).reshape(2, 64)
        expected = mixed @ state["out.2.c_proj.weight"][..., 0].T + state["out.2.c_proj.bias"]
    assert expected.std() > 0.1
    torch.testing.assert_close(network(x, step), expected)


@pytest.mark.parametrize("pool", ["features", "features_norm"])
def test_poolings_by_features_read_the_mean_of_every_map(pool):
    network, state = pooled(pool)
    maps = []
    for block in (*network.input_blocks, network.middle_block):
        block.register_forward_hook(lambda module, given, made: maps.append(made))
    logits = network(torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([7.0, 803.0]).double())
    hidden = F.linear(torch.cat([m.mean((2, 3)) for m in maps], 1), state["out.0.weight"], state["out.0.bias"])
    if pool == "features":
        hidden, last = hidden.clamp(min=0), 2
    else:
        groups = hidden.reshape(2, 32, 64)
        groups = groups - groups.mean(-1, keepdim=True)
        groups = groups / (groups.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        hidden = groups.reshape(2, 2048) * state["out.1.weight"] + state["out.1.bias"]
        hidden, last = hidden * hidden.sigmoid(), 3
    expected = F.linear(hidden, state[f"out.{last}.weight"], state[f"out.{last}.bias"])
    assert logits.std() > 0.1
    torch.testing.assert_close(logits, expected)


def walk(
    state, x, step, label, *, mult, blocks, attention, heads_first, heads=4, head_channels=None, scale_shift=True,
    residual_resample=True, conv_resample=True,
):  # fmt: skip
    """ADM's forward pass with nothing but the state dict, written once more and plainly; a classifier's deepest map."""

    def at(name):
        return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}

    def norm(x, p):
        groups = x.reshape(len(x), 32, -1)
        groups = (groups - groups.mean(-1, keepdim=True)) / (groups.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        return groups.reshape(x.shape) * p["weight"][:, None, None] + p["bias"][:, None, None]

    def conv(x, p):
        return F.conv2d(x, p["weight"], p["bias"], padding=p["weight"].shape[-1] // 2)

    def residual(name, x, resample=lambda x: x):
        h = conv(resample(F.silu(norm(x, at(f"{name}.in_layers.0")))), at(f"{name}.in_layers.2"))
        told = F.linear(F.silu(embedding), *at(f"{name}.emb_layers.1").values())[:, :, None, None]
        if scale_shift:
            a, b = told.chunk(2, 1)
            h = norm(h, at(f"{name}.out_layers.0")) * (1 + a) + b
        else:
            h = norm(h + told, at(f"{name}.out_layers.0"))
        skip = at(f"{name}.skip_connection")
        x = resample(x)
        return (conv(x, skip) if skip else x) + conv(F.silu(h), at(f"{name}.out_layers.3"))

    def look(name, x):
        qkv = F.conv1d(norm(x, at(f"{name}.norm")).flatten(2), *at(f"{name}.qkv").values())
        mixed, wide = [], head_channels or x.shape[1] // heads
        for head in range(x.shape[1] // wide):
            if heads_first:
                q, k, v = qkv[:, 3 * head * wide : 3 * (head + 1) * wide].split(wide, 1)
            else:
                q, k, v = (part[:, head * wide : (head + 1) * wide] for part in qkv.chunk(3, 1))
            weights = torch.einsum("bct,bcs->bts", q, k).div(wide**0.5).softmax(-1)
            mixed.append(torch.einsum("bts,bcs->bct", weights, v))
        out = F.conv1d(torch.cat(mixed, 1), *at(f"{name}.proj_out").values())
        return x + out.reshape(x.shape)

    def halve(name, x):
        if residual_resample:
            return residual(name, x, lambda x: F.avg_pool2d(x, 2))
        p = at(f"{name}.op")
        return F.conv2d(x, p["weight"], p["bias"], stride=2, padding=1) if conv_resample else F.avg_pool2d(x, 2)

    def double(name, x):
        enlarge = lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3)  # noqa: E731
        if residual_resample:
            return residual(name, x, enlarge)
        return conv(enlarge(x), at(f"{name}.conv")) if conv_resample else enlarge(x)

    dim = state["time_embed.0.weight"].shape[1]
    angles = step[:, None] * 10000 ** (-torch.arange(dim // 2, dtype=x.dtype) / (dim // 2))
    embedding = F.silu(F.linear(torch.cat([angles.cos(), angles.sin()], 1), *at("time_embed.0").values()))
    embedding = F.linear(embedding, *at("time_embed.2").values())
    if label is not None:
        embedding = embedding + state["label_emb.weight"][label]
    h, mirror, number = conv(x, at("input_blocks.0.0")), [], 0
    mirror.append(h)
    for level in range(len(mult)):
        for _ in range(blocks):
            number += 1
            h = residual(f"input_blocks.{number}.0", h)
            h = look(f"input_blocks.{number}.1", h) if 2**level in attention else h
            mirror.append(h)
        if level < len(mult) - 1:
            number += 1
            h = halve(f"input_blocks.{number}.0", h)
            mirror.append(h)
    h = residual("middle_block.2", look("middle_block.1", residual("middle_block.0", h)))
    if "output_blocks.0.0.in_layers.0.weight" not in state:
        return h
    number = 0
    for level in reversed(range(len(mult))):
        for i in range(blocks + 1):
            h = residual(f"output_blocks.{number}.0", torch.cat([h, mirror.pop()], 1))
            h = look(f"output_blocks.{number}.1", h) if 2**level in attention else h
            if level and i == blocks:
                last = 2 if 2**level in attention else 1
                h = double(f"output_blocks.{number}.{last}", h)
            number += 1
    return conv(F.silu(norm(h, at("out.0"))), at("out.2"))


@pytest.mark.parametrize(
    ("mult", "qkv_order", "options", "others"),
    [
        ((1, 2), "qkv_first", {"blocks": 2, "attention": (2,), "head_channels": 16}, {}),
        ((1, 1, 2), "heads_first", {"blocks": 1, "attention": (2,), "head_channels": 16, "scale_shift": False}, {}),
        # Plain resampling, with and without a convolution, and heads by their number, with and without classes.
        (
            (1, 2),
            "qkv_first",
            {"blocks": 1, "attention": (1, 2), "heads": 2, "head_channels": None, "residual_resample": False},
            {"num_classes": 0},
        ),
        (
            (2, 1),
            "heads_first",
            {
                "blocks": 1,
                "attention": (),
                "heads": 8,
                "head_channels": None,
                "residual_resample": False,
                "conv_resample": False,
            },
            {},
        ),
    ],
)
def test_the_output_is_the_plain_walks(mult, qkv_order, options, others):
    network = ADMUNet(
        channels=32,
        out_channels=6,
        channel_mult=mult,
        qkv_order=qkv_order,
        **{"num_classes": 3, **options, **others},
    )
    state = moved(network)
    x, step = torch.randn(2, 3, 16, 16, dtype=torch.float64), torch.tensor([7.0, 803.5]).double()
    label = [2, 0] if network.num_classes else None
    ours = network(x, step, None if label is None else torch.tensor(label))
    theirs = walk(state, x, step, label, mult=mult, heads_first=qkv_order == "heads_first", **options)
    assert ours.std() > 0.1
    # The module's embedding of the step is made in the step's dtype, float64 here.
    assert (ours - theirs).abs().max() < 1e-10


def test_the_two_orders_of_qkv_are_one_permutation_apart():
    torch.manual_seed(0)
    heads, width, length = 2, 4, 5
    qkv = torch.randn(3, length, 3, heads, width)
    one = attend(qkv.flatten(2), heads, heads_first=False)
    other = attend(qkv.transpose(2, 3).flatten(2), heads, heads_first=True)
    assert torch.equal(one, other)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) / math.sqrt(width)).softmax(-1)
    assert torch.allclose(one, (weights @ v).transpose(1, 2).flatten(2), atol=1e-6)


def test_a_network_without_a_class_none_says_so():
    options = {"channel_mult": (1,), "blocks": 0, "attention": (), "head_channels": 16}
    network = ADMUNet(channels=32, num_classes=3, null_label=False, **options)
    assert network.label_emb.weight.shape == (3, 128)
    x, step = torch.randn(1, 3, 4, 4), torch.zeros(1)
    for none in (None, torch.tensor([-1]), torch.tensor([3])):
        with pytest.raises(CascadeError, match="trained with classes only"):
            network(x, step, none)
    with pytest.raises(CascadeError, match="no class 4; classes are 0 to 2"):
        network(x, step, torch.tensor([4]))


def test_a_network_without_a_class_none_is_not_trained_with_dropped_labels(tmp_path, capsys):
    assert main(["train", "stage=base64", "network=adm", "network.null_label=false", f"runs={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "say stage.label_dropout=0 guidance=none" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_network_without_a_class_none_costs_what_it_does_with_one():
    options = {"channel_mult": (1,), "blocks": 0, "attention": (), "head_channels": 16}
    some, none = (BaseNetwork(ADMUNet(channels=32, num_classes=3, null_label=n, **options)) for n in (True, False))
    assert cost(none, 8).flop == cost(some, 8).flop > 0
    assert cost(none, 8).parameters == cost(some, 8).parameters - 128
    plain = BaseNetwork(ADMUNet(channels=32, null_label=False, **options))  # as without classes, whatever it says
    assert cost(plain, 8).parameters == cost(some, 8).parameters - 4 * 128


def test_before_training_the_output_is_zero():
    network = ADMUNet(channels=32, channel_mult=(1, 2), blocks=1, attention=(2,), head_channels=16)
    assert network(torch.randn(1, 3, 8, 8), torch.zeros(1)).abs().max() == 0


def reference(name, **options):
    state = {key: value.float() for key, value in torch.load(REFERENCE / f"{name}.pt", weights_only=True).items()}
    network = ADMClassifier(**options) if name == "classifier" else ADMUNet(**RELEASED, **options)
    network.load_state_dict(state)
    return network.eval(), load_file(REFERENCE / f"{name}.tensors.safetensors")


@needs_reference
def test_the_base_gives_the_published_codes_output():
    network, tensors = reference("base64", channels=32, blocks=1, head_channels=16)
    with torch.no_grad():
        made = network(tensors["x_t"], tensors["timestep"], tensors["label"])
    assert (made - tensors["output"]).abs().max() < 1e-4


@needs_reference
def test_the_upsampler_gives_the_published_codes_output():
    network, tensors = reference(
        "upsampler",
        in_channels=6,
        channels=32,
        channel_mult=WIDE,
        blocks=1,
        attention=(8, 16, 32),
        head_channels=None,
        qkv_order="heads_first",
    )
    low_res = F.interpolate(tensors["low_res"], (256, 256), mode="bilinear")
    with torch.no_grad():
        made = network(torch.cat([tensors["x_t"], low_res], 1), tensors["timestep"], tensors["label"])
    assert (made - tensors["output"]).abs().max() < 1e-4


@needs_reference
def test_the_classifier_gives_the_published_codes_logits_and_gradient():
    network, tensors = reference("classifier", num_classes=1000, channels=64, blocks=1)
    x_t = tensors["x_t"].requires_grad_()
    logits = network(x_t, tensors["timestep"])
    chosen = logits.log_softmax(-1).gather(1, tensors["label"][:, None]).sum()
    (gradient,) = torch.autograd.grad(chosen, x_t)
    assert (logits - tensors["logits"]).abs().max() < 1e-4
    assert (gradient - tensors["gradient"]).abs().max() < 1e-4 * tensors["gradient"].abs().max()
