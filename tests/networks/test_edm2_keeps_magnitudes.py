"""EDM2's network: published sizes, unit magnitudes, weights that stay normalised, and its layers' formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from cascade.errors import CascadeError
from cascade.networks.edm2 import EDM2Block, EDM2UNet
from cascade.networks.magnitude import MPConv, MPFourier, mp_cat, mp_silu, mp_sum, normalize

SMALL = {"channels": 32, "channel_mult": (1, 2), "blocks": 1, "attention": (2,), "head_channels": 16, "num_classes": 3}


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize(("channels", "millions"), [(128, 125), (192, 280), (256, 498), (320, 777), (384, 1119)])
def test_parameters_are_as_many_as_published(channels, millions):
    # Table 2: XS to XL. Theirs have 1,000 classes and none of them is "none".
    with torch.device("meta"):
        network = EDM2UNet(channels=channels, num_classes=1000, null_label=False)
    assert network.emb_label.weight.shape == (4 * channels, 1000)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions


def test_weights_stay_normalised_through_training_and_their_length_does_not_matter():
    network = EDM2UNet(**SMALL).train()
    network.out_gain.data.fill_(1.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    x, clock = torch.randn(4, 3, 8, 8), torch.zeros(4)
    for _ in range(3):
        loss = (network(x, clock, torch.tensor([0, 1, 2, -1])) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad.isfinite().all(), name
        for module in network.modules():
            if isinstance(module, MPConv):
                assert module.weight.detach().square().flatten(1).mean(1).sub(1).abs().max() < 1e-3
                # An update along the weight would only be taken back: the gradient is orthogonal to it.
                along = (module.weight.detach() * module.weight.grad).flatten(1).sum(1).abs()
                assert (
                    along <= 1e-3 * module.weight.grad.flatten(1).norm(dim=1) * module.weight[0].numel() ** 0.5
                ).all()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        before = network(x, clock)
        for module in network.modules():
            if isinstance(module, MPConv):
                module.weight.mul_(3.0)
        assert (network(x, clock) - before).abs().max() < 2e-3 * before.abs().max()


def test_there_is_no_bias_but_a_channel_of_ones():
    network = EDM2UNet(**SMALL)
    assert [name for name, _ in network.named_parameters() if "bias" in name] == []
    assert network.enc["64x64_conv"].weight.shape[1] == 4


def test_the_names_are_the_published_ones():
    keys = EDM2UNet(channels=32, channel_mult=(1, 2), blocks=1, attention=(2,), head_channels=16).state_dict().keys()
    for name in (
        "emb_fourier.freqs", "emb_noise.weight", "enc.64x64_conv.weight", "enc.32x32_down.emb_gain", "out_gain",
        "enc.32x32_block0.attn_qkv.weight", "dec.32x32_in0.attn_proj.weight", "dec.32x32_in1.conv_res1.weight",
        "dec.64x64_up.conv_res0.weight", "dec.64x64_block1.conv_skip.weight", "out_conv.weight",
    ):  # fmt: skip
        assert name in keys


def test_the_formulas_of_the_layers():
    a, b = torch.randn(2, 6, 4, 4, dtype=torch.float64), torch.randn(2, 2, 4, 4, dtype=torch.float64)
    unit = normalize(a, dim=1)
    assert (unit.square().mean(1).sqrt() - 1).abs().max() < 1e-3
    assert torch.allclose(unit, a / (1e-4 + a.square().mean(1, keepdim=True).sqrt()))
    other = torch.randn_like(a)
    assert torch.allclose(mp_sum(a, other, 0.3), (0.7 * a + 0.3 * other) / math.sqrt(0.7**2 + 0.3**2))
    assert torch.allclose(mp_silu(a), a / (1 + (-a).exp()) / 0.596)
    z = torch.randn(200_000)
    assert abs(mp_silu(z).square().mean().sqrt() - 1) < 5e-3
    # mp_cat: of the sum of squares that a convolution sees, b has t² in (1 − t)² + t², and the mean square is 1.
    ones = mp_cat(torch.ones_like(a), torch.ones_like(b), 0.25)
    assert ones.square().mean().item() == pytest.approx(1)
    share = ones[:, 6:].square().sum() / ones.square().sum()
    assert share.item() == pytest.approx(0.25**2 / (0.25**2 + 0.75**2))
    layer = MPConv(6, 5, 3).double().eval()
    weight = layer.weight / layer.weight.square().mean((1, 2, 3), keepdim=True).sqrt() / math.sqrt(54)
    assert torch.allclose(layer(a, gain=2.0), 2 * F.conv2d(a, weight, padding=1), rtol=1e-3, atol=1e-3)
    features = MPFourier(4).double()
    x = torch.tensor([0.3], dtype=torch.float64)
    assert torch.allclose(features(x), math.sqrt(2) * torch.cos(x[:, None] * features.freqs + features.phases))


def test_frequencies_and_phases_are_drawn_around_the_circle():
    features = MPFourier(20_000)
    assert features.freqs.std().item() == pytest.approx(2 * math.pi, rel=0.02)
    assert features.freqs.mean().item() == pytest.approx(0, abs=0.2)
    assert features.phases.aminmax().min.item() == pytest.approx(0, abs=0.01)
    assert features.phases.aminmax().max.item() == pytest.approx(2 * math.pi, abs=0.01)


def test_without_a_row_for_none_a_class_must_be_named():
    network = EDM2UNet(**SMALL, null_label=False)
    with pytest.raises(CascadeError, match="trained with classes only"):
        network(torch.randn(2, 3, 8, 8), torch.zeros(2), torch.tensor([0, -1]))


def test_a_block_is_figure_22():
    x, embedding = torch.randn(2, 32, 4, 4).double(), torch.randn(2, 8).double()
    block = EDM2Block(32, 32, 8, encodes=True, head_channels=16).double().eval()
    block.emb_gain.data.fill_(0.7)
    start = normalize(x, dim=1)
    scale = block.emb_linear(embedding, gain=0.7) + 1
    y = block.conv_res1(mp_silu(block.conv_res0(mp_silu(start)) * scale[:, :, None, None]))
    h = mp_sum(start, y, 0.3)
    qkv = block.attn_qkv(h).reshape(2, 2, 16, 3, 16)
    q, k, v = normalize(qkv, dim=2).unbind(3)
    weights = torch.einsum("nhcq,nhck->nhqk", q, k / 4).softmax(-1)
    mixed = torch.einsum("nhqk,nhck->nhcq", weights, v).reshape(2, 32, 4, 4)
    assert torch.allclose(block(x, embedding), mp_sum(h, block.attn_proj(mixed), 0.3))
    decoder = EDM2Block(32, 16, 8, encodes=False, resample="up").double().eval()
    up = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    y = decoder.conv_res1(mp_silu(decoder.conv_res0(mp_silu(up))))
    assert torch.allclose(decoder(x, embedding), mp_sum(decoder.conv_skip(up), y, 0.3))
    down = EDM2Block(32, 32, 8, encodes=True, resample="down").double().eval()
    half = normalize(F.avg_pool2d(x, 2), dim=1)
    y = down.conv_res1(mp_silu(down.conv_res0(mp_silu(half))))
    assert torch.allclose(down(x, embedding), mp_sum(half, y, 0.3))


def test_the_noise_level_is_read_as_edm_does():
    network = EDM2UNet(**SMALL).eval()
    clocks = []
    network.emb_fourier.register_forward_hook(lambda _, inputs, __: clocks.append(inputs[0]))
    sigma = torch.tensor([0.5, 2.0])
    network(torch.randn(2, 3, 8, 8), -2 * sigma.log())
    assert torch.allclose(clocks[0], sigma.log() / 4)


def test_every_layer_keeps_unit_magnitude_before_training():
    squares = {}
    for seed in range(6):
        torch.manual_seed(seed)
        network = EDM2UNet(**SMALL)
        network.out_gain.data.fill_(1.0)
        for name, module in network.named_modules():
            if isinstance(module, EDM2Block):
                module.emb_gain.data.fill_(0.3)
            # What a gain of less than 1 is for, and what an average of values by the softmax makes smaller.
            if isinstance(module, EDM2Block | MPConv | MPFourier) and not name.endswith(("emb_linear", "attn_proj")):
                keep = lambda _, __, out, name=name: squares.setdefault(name, []).append(out.square().mean())  # noqa: E731
                module.register_forward_hook(keep)
        with torch.no_grad():
            network.eval()(torch.randn(6, 3, 32, 32), torch.linspace(-8, 8, 6), torch.arange(6) % 3)
    magnitudes = {name: torch.stack(values).mean().sqrt().item() for name, values in squares.items()}
    assert len(magnitudes) > 40
    assert {name: value for name, value in magnitudes.items() if abs(value - 1) > 0.15} == {}
