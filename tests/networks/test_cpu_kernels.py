"""The kernels for processors in bf16 are the functions of torch that they stand for, and so are their gradients."""

import pytest
import torch
import torch.nn.functional as F

from cascade.networks import cpu_kernels
from cascade.networks.adm import ADMUNet
from cascade.networks.cpu_kernels import attention, group_norm
from cascade.rng import randn

pytestmark = pytest.mark.usefixtures("one_thread")

BF16 = 2.0**-8
"""The most by which rounding to bf16 changes a number, as a part of it."""


@pytest.fixture(params=[150, 600, 2**20])
def parts(request, monkeypatch):
    """One thing at a time, some, or all of them: a map of these tests has 280 elements, a head 144 scores."""
    for most in ("SCORES", "NORMED"):
        monkeypatch.setattr(cpu_kernels, most, request.param)
    monkeypatch.setattr(cpu_kernels, "_is_faster", lambda: True)
    return request.param


def gap(made: torch.Tensor, exact: torch.Tensor) -> float:
    return float((made.detach().double() - exact.detach()).norm() / exact.detach().norm())


def maps(*names: str, shape=(6, 8, 5, 7)) -> list[torch.Tensor]:
    made = [randn("kernels", name, shape=shape).bfloat16() for name in names]
    return [m.contiguous(memory_format=torch.channels_last).requires_grad_() for m in made]


def test_group_norm_and_its_gradients_are_those_of_the_formula(parts):
    (x,), groups, eps = maps("x"), 4, 0.1
    gamma, beta = (randn("kernels", of, shape=(8,)).requires_grad_() for of in ("gamma", "beta"))
    gradient = randn("kernels", "gradient", shape=x.shape) + 0.5
    with torch.no_grad():
        x += 2.0
    exact = [of.detach().double().requires_grad_() for of in (x, gamma, beta)]
    grouped = exact[0].reshape(6, groups, -1)
    variance, mean = torch.var_mean(grouped, -1, keepdim=True, correction=0)
    formula = ((grouped - mean) / (variance + eps).sqrt()).reshape(x.shape) * exact[1][:, None, None]
    formula = formula + exact[2][:, None, None]
    made = group_norm(x, groups, gamma, beta, eps)
    assert made.grad_fn.name().startswith("_GroupNorm")
    assert gap(made, formula) < BF16
    made.backward(gradient.bfloat16())
    formula.backward(gradient.bfloat16().double())
    assert gap(x.grad, exact[0].grad) < BF16
    assert gap(gamma.grad, exact[1].grad) < 1e-5
    assert gap(beta.grad, exact[2].grad) < 1e-6


def test_attention_and_its_gradients_are_those_of_the_formula(parts):
    shape = (3, 4, 12, 16)
    given = [2 * randn("kernels", name, shape=shape).bfloat16() for name in "qkv"]
    ours = [of.clone().requires_grad_() for of in given]
    exact = [of.double().requires_grad_() for of in given]
    q, k, v = exact
    formula = (q @ k.mT / 4).softmax(-1) @ v
    made = attention(*ours)
    assert "Attention" in str(made.grad_fn.next_functions)
    gradient = randn("kernels", "gradient", shape=shape).bfloat16()
    made.backward(gradient)
    formula.backward(gradient.double())
    assert gap(made, formula) < 4 * BF16  # the scores are rounded too
    for mine, theirs in zip(ours, exact, strict=True):
        assert gap(mine.grad, theirs.grad) < 6 * BF16


def test_parts_are_equally_long_and_all_there_is():
    parts = cpu_kernels._parts(24, 10, 160)
    assert [p.stop - p.start for p in parts] == [12, 12]
    assert [p.stop - p.start for p in cpu_kernels._parts(3, 10, 5)] == [1, 1, 1]


def test_a_place_in_the_batch_changes_no_bit(parts):
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    x, dy = maps("x", "dy")
    q = randn("kernels", "q", shape=(6, 2, 12, 16)).bfloat16()
    assert torch.equal(attention(q, q, q)[order], attention(q[order], q[order], q[order]))
    gradients = []
    for given, of in ((x, dy), (x[order].detach().requires_grad_(), dy[order])):
        made = group_norm(given.contiguous(memory_format=torch.channels_last), 4, torch.ones(8), torch.zeros(8), 1e-5)
        gradients.append(torch.autograd.grad(made, given, of)[0])
    assert torch.equal(gradients[0][order], gradients[1])


def test_elsewhere_they_are_torchs_own_to_the_bit(monkeypatch):
    x, weight, bias = randn("x", shape=(2, 8, 4, 4)).requires_grad_(), torch.ones(8), torch.zeros(8)
    assert torch.equal(group_norm(x, 4, weight, bias, 1e-5), F.group_norm(x, 4, weight, bias, 1e-5))
    q = randn("q", shape=(1, 2, 8, 4))
    monkeypatch.setattr(cpu_kernels, "SCORES", 63)
    for one in (q, q.bfloat16()):  # float32, and a head that is too large
        assert torch.equal(attention(one, one, one), F.scaled_dot_product_attention(one, one, one))
    monkeypatch.setattr(cpu_kernels, "SCORES", 64)
    monkeypatch.setattr(cpu_kernels, "_is_faster", lambda: False)
    q = q.bfloat16()
    assert torch.equal(attention(q, q, q), F.scaled_dot_product_attention(q, q, q))


@pytest.mark.parametrize(
    ("able", "ours"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),  # AMD Zen 4
        ({"avx512_bf16": True, "amx_bf16": True}, False),  # Sapphire Rapids
        ({"avx512_f": True, "avx512_bf16": False}, False),  # no products in bf16
        ({"bf16": True}, False),  # ARM, where nobody has measured
    ],
)
def test_attention_is_ours_where_it_is_faster(able, ours, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert cpu_kernels._is_faster.__wrapped__() is ours


def test_what_the_kernels_do_not_read_is_torchs_too(parts):
    q, k = (randn("kernels", name, shape=(2, 2, 12, 16)).bfloat16() for name in "qk")
    wide = randn("kernels", "v", shape=(2, 2, 12, 24)).bfloat16()
    assert torch.equal(attention(q, k, wide), F.scaled_dot_product_attention(q, k, wide))
    assert attention(q[:0], k[:0], k[:0]).shape == (0, 2, 12, 16)
    (none,) = (of[:0].detach().requires_grad_() for of in maps("x"))
    group_norm(none, 4, torch.ones(8), torch.zeros(8), 1e-5).sum().backward()
    assert none.grad.shape == none.shape


def test_attention_reads_queries_of_another_length_and_maps_of_one_pixel(parts):
    q, k, v = (randn("kernels", name, shape=(2, 2, n, 16)).bfloat16() for name, n in (("q", 5), ("k", 9), ("v", 9)))
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    assert gap(attention(q, k, v), exact) < 4 * BF16
    (x,) = maps("x", shape=(2, 8, 1, 1))
    made = group_norm(x, 2, torch.ones(8), torch.zeros(8), 1e-5)
    made.backward(torch.linspace(0, 1, 16).view(2, 8, 1, 1).bfloat16())
    exact = x.detach().double().requires_grad_()
    F.group_norm(exact, 2).backward(torch.linspace(0, 1, 16).view(2, 8, 1, 1).bfloat16().double())
    assert gap(x.grad, exact.grad) < BF16


def test_a_network_learns_in_bf16_as_well_as_with_torchs_own(monkeypatch):
    monkeypatch.setattr(cpu_kernels, "_is_faster", lambda: True)
    torch.manual_seed(0)
    network = ADMUNet(channels=32, channel_mult=(1, 2), blocks=1, attention=(1, 2), head_channels=16)
    for parameter in network.parameters():
        if parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.05)
    network = network.to(memory_format=torch.channels_last)
    x = randn("x", shape=(2, 3, 16, 16))
    gradients = []
    for bf16, own in ((False, False), (True, True), (True, False)):
        monkeypatch.setattr(cpu_kernels, "_on_cpu_in_bf16", lambda x, own=own: own and x.dtype == torch.bfloat16)
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            made = network(x, torch.tensor([10.0, 700.0]))
        (made.float() - x).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    ours, theirs = (gap(gradient, gradients[0].double()) for gradient in gradients[1:])
    assert ours < 1.2 * theirs < 0.05
