"""Residual block and attention against their formulas, written with other functions."""

import torch
import torch.nn.functional as F

from cascade.networks.attention import SelfAttention
from cascade.networks.layers import Grow, PixelHead, PixelNorm, ResidualBlock, Shrink
from cascade.rng import randn


def randomise(module):
    for name, parameter in module.named_parameters():
        parameter.data = 0.3 * randn(name, shape=parameter.shape)
    return module.double()


X, E = randn("x", shape=(2, 32, 6, 4)).double(), randn("e", shape=(2, 5)).double()


def test_blocks_and_attention_are_the_identity_before_training():
    assert torch.equal(ResidualBlock(32, 5, "group", 0.0).double()(X, E), X)
    assert torch.equal(SelfAttention(32, 8, "group").double()(X), X)


def test_film_scales_and_shifts_what_is_normalised():
    block = randomise(ResidualBlock(32, 5, "group", 0.0))
    h = block.conv1(F.silu(F.group_norm(X, 2, block.norm1.weight, block.norm1.bias)))
    groups = h.reshape(2, 2, -1)
    normal = (groups - groups.mean(-1, keepdim=True)) / (groups.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    film = E @ block.film.weight.T + block.film.bias
    modulated = normal.reshape(h.shape) * (1 + film[:, :32, None, None]) + film[:, 32:, None, None]
    torch.testing.assert_close(block(X, E), X + block.conv2(F.silu(modulated)), rtol=1e-12, atol=1e-12)


def test_attention_is_scaled_dot_product_attention():
    layer = randomise(SelfAttention(32, 8, "pixel"))
    tokens = PixelNorm.forward(layer.norm, X).flatten(2).transpose(1, 2)  # (B, N, C)
    q, k, v = F.linear(tokens, layer.qkv.weight.flatten(1), layer.qkv.bias).chunk(3, dim=-1)
    q, k, v = (t.reshape(2, 24, 4, 8).transpose(1, 2) for t in (q, k, v))
    mixed = F.scaled_dot_product_attention(F.layer_norm(q, (8,)), F.layer_norm(k, (8,)), v)
    mixed = mixed.transpose(1, 2).reshape(2, 24, 32)
    out = F.linear(mixed, layer.out.weight.flatten(1), layer.out.bias).transpose(1, 2).reshape(X.shape)
    torch.testing.assert_close(layer(X), X + out, rtol=1e-12, atol=1e-12)


def test_attention_moves_with_its_pixels():
    layer = randomise(SelfAttention(32, 8, "group"))
    torch.testing.assert_close(layer(X.flip(2, 3)), layer(X).flip(2, 3), rtol=1e-12, atol=1e-12)


def test_pixel_norm_has_zero_mean_and_unit_power_at_each_pixel():
    y = PixelNorm(32, affine=False)(X)
    torch.testing.assert_close(y.mean(1), torch.zeros(2, 6, 4).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(y.square().mean(1), torch.ones(2, 6, 4).double(), rtol=0, atol=1e-4)


def test_shrinking_and_growing_keep_aligned_crops():
    shrink, grow = randomise(Shrink(32, 8)), randomise(Grow(32, 8))
    torch.testing.assert_close(shrink(X[..., 2:4, :]), shrink(X)[..., 1:2, :])
    torch.testing.assert_close(grow(X[..., 2:4, :]), grow(X)[..., 4:8, :])
    torch.testing.assert_close(grow(X)[..., ::2, ::2], grow(X)[..., 1::2, 1::2])


def test_a_patch_of_features_paints_three_by_three_patches():
    head = randomise(PixelHead(32, 3, patch=4))
    moved = X.clone()
    moved[..., 2, 1] += 1.0
    change = (head(moved) - head(X)).abs().amax((0, 1)) > 0
    assert change[4:16, 0:12].all()
    assert change.sum() == 12 * 12
