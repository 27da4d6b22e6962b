"""Patches, positions and attention among tokens, against their formulas written with other functions."""

import math

import pytest
import torch
import torch.nn.functional as F

from cascade.networks.tokens import (
    RMSNorm,
    TokenAttention,
    attend,
    patches,
    picture,
    rotary_angles,
    rotate,
    sincos_positions,
)
from cascade.rng import randn

X = randn("x", shape=(2, 7, 24)).double()


def trained(module):
    for name, parameter in module.named_parameters():
        parameter.data = 0.3 * randn(name, shape=parameter.shape).double()
    return module


def test_patches_are_cut_row_by_row_and_put_back():
    x = randn("picture", shape=(2, 3, 8, 12))
    cut = patches(x, 4)
    assert cut.shape == (2, 6, 48)
    for number in range(6):
        row, column = divmod(number, 3)
        assert torch.equal(cut[:, number], x[..., 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten(1))
    assert torch.equal(picture(cut, 8, 4), x)


def test_positions_are_the_published_sines():
    made = sincos_positions(3, 5, 8)
    for row in range(3):
        for column in range(5):
            want = [
                wave(place / 10000 ** (i / 2))
                for place in (column, row)
                for wave in (math.sin, math.cos)
                for i in (0, 1)
            ]
            assert made[5 * row + column].tolist() == pytest.approx(want, abs=1e-12)
    assert torch.equal(sincos_positions(9, 5, 8)[:15], made), "a larger picture begins as the small one does"


def test_turned_queries_and_keys_see_how_far_apart_they_are_and_nothing_else():
    angles = rotary_angles(4, 5, 12)
    q, k = randn("q", shape=(12,)).double(), randn("k", shape=(12,)).double()
    turned_q, turned_k = rotate(q.expand(20, 12), angles), rotate(k.expand(20, 12), angles)
    logits = (turned_q @ turned_k.T).reshape(4, 5, 4, 5)
    for down in range(3):
        for right in range(4):
            # Every pair that lies (down, right) apart has the same product, ...
            same = [logits[r, c, r + down, c + right] for r in range(4 - down) for c in range(5 - right)]
            assert torch.stack(same).std(correction=0) < 1e-12
    # ... and other pairs have others: to the left is not to the right, and below is not beside.
    assert len({round(float(v), 9) for v in logits[1, 2].flatten()}) == 20
    assert torch.allclose(turned_q.norm(dim=1), q.norm().expand(20))
    for pair, place in ((0, 3), (3, 4)):  # half of the pairs for the row, half for the column
        assert float(angles[3 * 5 + 4, pair]) == place
        assert float(angles[3 * 5 + 4, pair + 1]) == pytest.approx(place / 10000 ** (1 / 3))


@pytest.mark.parametrize("device_kernel", [False, True])
def test_attention_is_scaled_dot_product_attention(device_kernel, monkeypatch):
    q, k, v = randn("qkv", shape=(3, 2, 4, 5, 6)).double()
    weights = (torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(6)).exp()
    want = torch.einsum("bhqk,bhkd->bhqd", weights / weights.sum(-1, keepdim=True), v)
    if device_kernel:
        repeats = 300  # more tokens than are written out; a token that stands there 300 times weighs as once
        q, k, v = (t.repeat(1, 1, repeats, 1) for t in (q, k, v))
    torch.testing.assert_close(attend(q, k, v)[:, :, :5], want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_layer_of_attention_is_its_formula(qk_norm):
    layer = trained(TokenAttention(24, 3, qk_norm=qk_norm))
    angles = rotary_angles(1, 7, 8)
    q, k, v = F.linear(X, layer.qkv.weight, layer.qkv.bias).chunk(3, dim=-1)
    q, k, v = (t.reshape(2, 7, 3, 8).transpose(1, 2) for t in (q, k, v))
    if qk_norm:
        q, k = (
            t / (t.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w.weight
            for t, w in ((q, layer.q_norm), (k, layer.k_norm))
        )
    # Pairs as complex numbers, turned by multiplication.
    spin = torch.polar(torch.ones_like(angles), angles)
    q, k = (torch.view_as_real(torch.view_as_complex(t.reshape(2, 3, 7, 4, 2)) * spin).flatten(3) for t in (q, k))
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 7, 24)
    want = F.linear(mixed, layer.out.weight, layer.out.bias)
    torch.testing.assert_close(layer(X, angles), want, rtol=1e-12, atol=1e-12)


def test_attention_without_places_permutes_with_its_tokens():
    layer = trained(TokenAttention(24, 3, qk_norm=True))
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    torch.testing.assert_close(layer(X[:, order]), layer(X)[:, order], rtol=1e-12, atol=1e-12)
    angles = rotary_angles(1, 7, 8)
    assert not torch.allclose(layer(X[:, order], angles), layer(X, angles)[:, order])


def test_rms_norm_keeps_the_dtype():
    norm = trained(RMSNorm(24))
    want = X / X.square().mean(-1, keepdim=True).sqrt() * norm.weight
    torch.testing.assert_close(norm(X), want, rtol=1e-6, atol=1e-6)
    assert norm(X.bfloat16()).dtype == torch.bfloat16


def test_widths_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="4 divides, not 6"):
        sincos_positions(2, 2, 6)
    with pytest.raises(ValueError, match="4 divides, not 6"):
        rotary_angles(2, 2, 6)
    with pytest.raises(ValueError, match="5 heads do not divide a width of 24"):
        TokenAttention(24, 5)
