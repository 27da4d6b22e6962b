"""DiT and JiT: published sizes, and their output against a plain walk over their weights."""

import pytest
import torch
import torch.nn.functional as F

from cascade.networks.adaln import AdaLNBlock
from cascade.networks.dit import DiT
from cascade.networks.dropout import Dropout
from cascade.networks.jit import JiT
from cascade.networks.tokens import TokenAttention, rotary_angles, rotate, sincos_positions
from cascade.rng import randn

DITS = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
JITS = {"B": (768, 12, 12, 128, 4), "L": (1024, 24, 16, 128, 8), "H": (1280, 32, 16, 256, 10)}

X = randn("x", shape=(2, 3, 8, 12)).double()
CLOCK, LABEL = torch.tensor([-3.0, 1.5]).double(), torch.tensor([2, -1])


def count(network):
    return sum(p.numel() for p in network.parameters())


def trained(network):
    for name, parameter in network.named_parameters():
        parameter.data = 0.3 * randn(name, shape=parameter.shape).double()
    return network.eval()


@pytest.mark.parametrize(("name", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_dits_parameters_are_as_many_as_published(name, millions):
    dim, depth, heads = DITS[name]
    options = {"patch": 2, "dim": dim, "depth": depth, "heads": heads}
    with torch.device("meta"):
        own = count(DiT(in_channels=4, out_channels=8, num_classes=1000, **options))
    # Theirs store 256 positions, and embed 256 features of the step: ours are 128. The paper cuts 130.5 to 130.
    theirs = own + 256 * dim + 128 * dim
    assert theirs == pytest.approx(millions * 1e6, abs=0.52e6)
    if name == "XL":
        assert theirs == 675_129_632


@pytest.mark.parametrize(("name", "millions"), [("B", 131), ("L", 459), ("H", 953)])
def test_jits_parameters_are_as_many_as_published(name, millions):
    dim, depth, heads, bottleneck, start = JITS[name]
    options = {"dim": dim, "depth": depth, "heads": heads, "bottleneck": bottleneck, "class_start": start}
    with torch.device("meta"):
        own = count(JiT(patch=16, class_tokens=32, num_classes=1000, **options))
    assert round((own + 384 * dim) / 1e6) == millions


def layer_norm(h):
    h = h - h.mean(-1, keepdim=True)
    return h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def rms_norm(h, norm):
    return h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight


def cut(x, size):
    batch, channels, height, width = x.shape
    tiles = x.reshape(batch, channels, height // size, size, width // size, size)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * size**2)


def paste(tokens, height, width, size):
    tiles = tokens.reshape(len(tokens), height // size, width // size, -1, size, size)
    return tiles.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), -1, height, width)


def attention(layer, h, angles=None):
    q, k, v = (t.unflatten(2, (layer.heads, -1)).transpose(1, 2) for t in layer.qkv(h).chunk(3, -1))
    if angles is not None:
        q, k = rotate(rms_norm(q, layer.q_norm), angles), rotate(rms_norm(k, layer.k_norm), angles)
    return layer.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def told(layer, condition, parts):
    return F.linear(condition, layer.weight, layer.bias)[:, None].chunk(parts, -1)


@torch.no_grad()
def test_dits_output_is_the_plain_walks():
    network = trained(DiT(patch=2, dim=24, depth=2, heads=2, mlp_ratio=3.0, num_classes=3).double())
    condition = F.silu(network.embedding(CLOCK, LABEL))
    h = F.linear(cut(X, 2), network.input.weight, network.input.bias) + sincos_positions(4, 6, 24)
    for block in network.blocks:
        b1, s1, g1, b2, s2, g2 = told(block.modulation, condition, 6)
        h = h + g1 * attention(block.attention, layer_norm(h) * (1 + s1) + b1)
        wide, _, _, narrow = block.mlp
        assert wide.out_features == 72
        z = wide(layer_norm(h) * (1 + s2) + b2)
        z = 0.5 * z * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (z + 0.044715 * z**3)))
        h = h + g2 * narrow(z)
    b, s = told(network.output.modulation, condition, 2)
    want = paste(network.output.out(layer_norm(h) * (1 + s) + b), 8, 12, 2)
    assert want.std() > 0.1
    torch.testing.assert_close(network(X, CLOCK, LABEL), want, rtol=1e-10, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("num_classes", [0, 3])
def test_jits_output_is_the_plain_walks(num_classes):
    options = {"patch": 2, "dim": 24, "depth": 3, "heads": 2, "bottleneck": 5, "class_tokens": 4, "class_start": 1}
    network = trained(JiT(**options, num_classes=num_classes).double())
    label = LABEL if num_classes else None
    condition = F.silu(network.embedding(CLOCK, label))
    h = network.input(cut(X, 2) @ network.squeeze.weight.T) + sincos_positions(4, 6, 24)
    angles = rotary_angles(4, 6, 12)
    for number, block in enumerate(network.blocks):
        if number == 1 and num_classes:
            rows = network.embedding.label.weight[[2, 3]]  # −1 is the class "none", the last row
            h = torch.cat([rows[:, None] + network.places, h], 1)
            angles = torch.cat([torch.zeros(4, 6), angles])
        b1, s1, g1, b2, s2, g2 = told(block.modulation, condition, 6)
        h = h + g1 * attention(block.attention, rms_norm(h, block.norm1) * (1 + s1) + b1, angles)
        assert block.mlp.down.in_features == 64  # ⅔·4·24
        gate, value = block.mlp.up(rms_norm(h, block.norm2) * (1 + s2) + b2).chunk(2, -1)
        h = h + g2 * block.mlp.down(gate * torch.sigmoid(gate) * value)
    b, s = told(network.output.modulation, condition, 2)
    want = paste(network.output.out(rms_norm(h[:, -24:], network.output.norm) * (1 + s) + b), 8, 12, 2)
    assert want.std() > 0.1
    torch.testing.assert_close(network(X, CLOCK, label), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", [DiT, JiT])
def test_blocks_are_the_identity_before_training(kind):
    network = kind(patch=2, dim=24, depth=4, heads=2, num_classes=3).double()
    h, condition = randn("h", shape=(2, 5, 24)).double(), randn("c", shape=(2, 24)).double()
    angles = rotary_angles(1, 5, 12) if kind is JiT else None
    for block in network.blocks:
        assert torch.equal(block(h, condition, angles), h)
        # Only what stands behind the gates is silent: attention and MLP are not.
        assert block.attention(h, angles).abs().min() > 0
        assert block.mlp(h).std() > 0.1
    assert network.output(h, condition).eq(0).all()


def test_each_gate_opens_its_own_branch():
    block = AdaLNBlock(8, TokenAttention(8, 2), torch.nn.Linear(8, 8), lambda: torch.nn.LayerNorm(8), 4).double()
    h, condition = randn("h", shape=(1, 5, 8)).double(), torch.zeros(1, 4).double()
    block.modulation.bias.data[16:24] = 1.0  # g₁
    assert torch.allclose(block(h, condition), h + block.attention(block.norm1(h)))
    block.modulation.bias.data[16:24], block.modulation.bias.data[40:48] = 0.0, 1.0  # g₂
    assert torch.allclose(block(h, condition), h + block.mlp(block.norm2(h)))


def test_jits_dropout_acts_in_the_middle_half():
    network = JiT(patch=2, dim=24, depth=8, heads=2, dropout=0.3)
    assert [block.mlp.dropout.p for block in network.blocks] == [0, 0, 0.3, 0.3, 0.3, 0.3, 0, 0]
    dit = DiT(patch=2, dim=24, depth=2, heads=2, dropout=0.3)
    assert [m.p for m in dit.modules() if isinstance(m, Dropout)] == [0.3, 0.3]


def test_a_network_without_classes_has_no_class_tokens():
    assert JiT(dim=24, heads=2).places is None
    assert JiT(dim=24, heads=2, num_classes=3, class_tokens=0).places is None


def test_jit_predicts_through_a_bottleneck():
    network = JiT(patch=4, dim=24, depth=1, heads=2, bottleneck=5, class_start=0).double()
    trained(network)
    # Two pictures that the bottleneck cannot tell apart give one output: what it drops, the network does not see.
    unseen = torch.linalg.svd(network.squeeze.weight, full_matrices=True).Vh[7].detach()
    other = X + paste(unseen.expand(2, 6, 48), 8, 12, 4)
    torch.testing.assert_close(network(other, CLOCK), network(X, CLOCK), rtol=1e-9, atol=1e-9)
