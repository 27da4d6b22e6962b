"""U-ViT and Imagen's Efficient U-Net: published sizes, where they work, and their output against a plain walk."""

import pytest
import torch
import torch.nn.functional as F

from cascade.networks.adm import ADMUNet
from cascade.networks.dropout import Dropout
from cascade.networks.imagen_unet import ImagenUNet, ResNetBlock
from cascade.networks.tokens import sincos_positions
from cascade.networks.uvit import UViT, ViTBlock
from cascade.rng import randn

X = randn("x", shape=(2, 3, 16, 24)).double()
CLOCK, LABEL = torch.tensor([-3.0, 1.5]).double(), torch.tensor([2, -1])

UVIT = {"patch": 2, "channels": (16, 32), "blocks": (1, 2), "dim": 24, "depth": 2, "heads": 2, "embedding_dim": 8}
IMAGEN = {"channels": (16, 32), "blocks": (1, 2), "attention": (False, True), "head_channels": 16, "embedding_dim": 8}
PAPER = {"channels": (128, 256, 512, 1024), "blocks": (2, 4, 8, 8), "embedding_dim": 512, "in_channels": 6}


def count(network):
    return sum(p.numel() for p in network.parameters())


def trained(network):
    for name, parameter in network.named_parameters():
        parameter.data = 0.2 * randn(name, shape=parameter.shape).double()
    return network.eval()


def test_uvit_is_as_large_as_published():
    with torch.device("meta"):
        options = {"channels": (128, 256, 512), "blocks": (2, 2, 2), "dim": 2048, "depth": 36, "heads": 16}
        network = UViT(num_classes=1000, embedding_dim=1024, **options)
    assert round(count(network) / 1e9, 1) == 2.0
    assert count(network.transformer) > 0.95 * count(network)


def test_imagens_networks_are_about_as_large_as_published():
    with torch.device("meta"):
        sr1024 = ImagenUNet(**PAPER, attention=(False,) * 4)
        base = ADMUNet(channels=512, blocks=3, num_classes=1000)
    # 400 M and 2 B: theirs have text where ours have classes, and the figures leave the width of the skips open.
    assert count(sr1024) == pytest.approx(400e6, rel=0.07)
    assert count(base) == pytest.approx(2e9, rel=0.07)
    # "Shift the model parameters from the high resolution blocks to the low resolution blocks."
    shares = [count(level) / count(sr1024) for level in sr1024.down]
    assert shares == sorted(shares)
    assert shares[-1] > 60 * shares[0]


def group_norm(h, norm=None):
    groups = h.reshape(len(h), max(1, h.shape[1] // 16), -1)
    groups = (groups - groups.mean(-1, keepdim=True)) / (groups.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    h = groups.reshape(h.shape)
    return h if norm is None else h * norm.weight[:, None, None] + norm.bias[:, None, None]


def silu(h):
    return h * torch.sigmoid(h)


@torch.no_grad()
def test_imagens_output_is_the_plain_walks():
    network = trained(ImagenUNet(num_classes=3, **IMAGEN).double())
    condition = silu(network.embedding(CLOCK, LABEL))

    def level(level, h):
        scale, shift = level.film(condition)[:, :, None, None].chunk(2, 1)
        h = group_norm(h) * (1 + scale) + shift
        for block in level.blocks:
            inner = F.conv2d(silu(group_norm(h, block.norm1)), block.conv1.weight, block.conv1.bias, padding=1)
            inner = F.conv2d(silu(group_norm(inner, block.norm2)), block.conv2.weight, block.conv2.bias, padding=1)
            h = F.conv2d(h, block.skip.weight, block.skip.bias) + inner
        return level.attention(h)

    def down(conv, h):
        assert conv.kernel_size == (3, 3)
        return F.conv2d(F.pad(h, (1, 1, 1, 1)), conv.weight, conv.bias)[..., ::2, ::2]

    def up(conv, h):
        return F.conv2d(h.repeat_interleave(2, 2).repeat_interleave(2, 3), conv.weight, conv.bias, padding=1)

    full = network.input(X)
    half = level(network.down[0], down(network.shrink[0], full))
    fourth = level(network.down[1], down(network.shrink[1], half))
    h = (up(network.grow[1], level(network.up[1], fourth)) + half) / 2**0.5
    h = (up(network.grow[0], level(network.up[0], h)) + full) / 2**0.5
    weight, bias = network.output.weight[:, :, 0, 0], network.output.bias[:, None, None]
    want = torch.einsum("oc,bchw->bohw", weight, silu(group_norm(h, network.norm))) + bias
    assert want.std() > 0.1
    torch.testing.assert_close(network(X, CLOCK, LABEL), want, rtol=1e-9, atol=1e-9)


def test_imagens_blocks_are_the_identity_before_training_and_work_below_full_size():
    x = randn("h", shape=(2, 32, 4, 4))
    assert torch.equal(ResNetBlock(32, 0.0)(x), x)
    network, sides = ImagenUNet(**IMAGEN), []
    for module in network.modules():
        if isinstance(module, ResNetBlock):
            module.register_forward_hook(lambda _, inputs, __: sides.append(inputs[0].shape[-1]))
    network(X.float(), CLOCK.float())
    assert sides == [12, 6, 6, 6, 6, 12]


@torch.no_grad()
def test_uvits_output_is_the_plain_walks():
    network = trained(UViT(num_classes=3, **UVIT).double())
    embedding = silu(network.embedding(CLOCK, LABEL))
    h = network.input(F.pixel_unshuffle(X, 2))
    one = network.down[0][0](h, embedding)
    two = network.down[1][0](network.shrink[0](one), embedding)
    three = network.down[1][1](two, embedding)
    tokens = network.shrink[1](three).flatten(2).transpose(1, 2) + sincos_positions(2, 3, 24)
    for block in network.transformer:
        tokens = tokens + block.attention(F.layer_norm(tokens, (24,), block.norm1.weight, block.norm1.bias))
        scale, shift = block.film(embedding)[:, None].chunk(2, 2)
        z = block.up(F.layer_norm(tokens, (24,)) * (1 + scale) + shift)
        z = 0.5 * z * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (z + 0.044715 * z**3)))
        tokens = tokens + block.down(z)
    h = network.grow[1](tokens.transpose(1, 2).reshape(2, 24, 2, 3))
    h = network.up[1][0](network.fuse[1][0](torch.cat([h, three], 1)), embedding)
    h = network.up[1][1](network.fuse[1][1](torch.cat([h, two], 1)), embedding)
    h = network.up[0][0](network.fuse[0][0](torch.cat([network.grow[0](h), one], 1)), embedding)
    want = network.output(silu(group_norm(h, network.norm)))
    assert want.std() > 0.1
    torch.testing.assert_close(network(X, CLOCK, LABEL), want, rtol=1e-9, atol=1e-9)


def test_uvits_blocks_are_the_identity_before_training():
    block = ViTBlock(24, 2, 96, 0.0, 8).double()
    h, embedding = randn("h", shape=(2, 5, 24)).double(), randn("e", shape=(2, 8)).double()
    assert torch.equal(block(h, embedding), h)


def test_uvits_dropout_acts_where_the_picture_is_small():
    network = UViT(**UVIT, dropout=0.2)
    dropping = {name for name, m in network.named_modules() if isinstance(m, Dropout) and m.p}
    assert dropping == {"transformer.0.dropout", "transformer.1.dropout"}
