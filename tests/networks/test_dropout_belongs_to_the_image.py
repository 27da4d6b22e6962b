"""The mask of an image depends on its generator and on nothing else."""

import pytest
import torch

from cascade.networks import Dropout, EfficientUNet, seeded_dropout
from cascade.rng import generator


def masks(layer, names, x):
    with seeded_dropout([generator("dropout", name) for name in names]):
        return [layer(x) for _ in range(2)]


def test_mask_is_the_same_alone_in_any_place_and_batch():
    layer, x = Dropout(0.4), torch.ones(1, 8, 4, 4)
    together = masks(layer, [0, 1, 2], x.expand(3, -1, -1, -1))
    turned = masks(layer, [2, 0, 1], x.expand(3, -1, -1, -1))
    for name in range(3):
        alone = masks(layer, [name], x)
        for draw in range(2):
            assert torch.equal(alone[draw][0], together[draw][name])
            assert torch.equal(turned[draw][(name + 1) % 3], together[draw][name])
    assert not torch.equal(together[0], together[1]), "each call draws anew"
    assert not torch.equal(together[0][0], together[0][1]), "each image draws its own"


def test_it_keeps_the_mean_and_drops_the_share():
    (y, _) = masks(Dropout(0.3), ["a"], torch.ones(1, 100_000))
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.7], rel=1e-4)
    assert abs((y == 0).float().mean() - 0.3) < 0.01
    assert abs(y.mean() - 1.0) < 0.01


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.95])
def test_every_place_is_dropped_equally_often(p):
    layer, x = Dropout(p), torch.ones(1, 3, 5, 7)
    with seeded_dropout([generator("place")]):
        dropped = sum((layer(x) == 0).double() for _ in range(4000)) / 4000
    assert (dropped - p).abs().max() < 5 * (p * (1 - p) / 4000) ** 0.5


def test_the_layout_of_the_picture_does_not_matter():
    x = torch.ones(2, 8, 4, 4)
    names = ["a", "b"]
    rows = masks(Dropout(0.5), names, x)[0]
    assert torch.equal(masks(Dropout(0.5), names, x.to(memory_format=torch.channels_last))[0], rows)


def test_gradient_flows_through_the_kept_elements():
    x = torch.ones(1, 64, requires_grad=True)
    with seeded_dropout([generator("a")]):
        y = Dropout(0.5)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_evaluation_and_probability_zero_are_the_identity():
    x = torch.randn(2, 3, 4, 4, generator=generator("x"))
    assert Dropout(0.9).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_training_without_generators_is_an_error():
    with pytest.raises(RuntimeError, match="seeded_dropout"):
        Dropout(0.1)(torch.ones(1, 1))
    with seeded_dropout([generator("a")]), pytest.raises(RuntimeError, match="batch of 2"):
        Dropout(0.1)(torch.ones(2, 1))
    with pytest.raises(RuntimeError, match="seeded_dropout"):  # the context ends with its block
        Dropout(0.1)(torch.ones(1, 1))


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_it_is_a_probability(p):
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        Dropout(p)


def test_it_ignores_and_leaves_the_global_generator():
    x = torch.ones(1, 32)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = masks(Dropout(0.5), ["a"], x)[0]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(masks(Dropout(0.5), ["a"], x)[0], first)


def test_a_micro_batch_trains_as_its_part_of_the_batch():
    network = EfficientUNet(channels=(16,), blocks=(2,), attention=(False,), dropout=0.5, embedding_dim=8)
    for parameter in network.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator(*parameter.shape))
    x, clock = torch.randn(4, 3, 8, 8, generator=generator("x")), torch.zeros(4)
    with torch.no_grad():
        with seeded_dropout([generator("step", i) for i in range(4)]):
            whole = network(x, clock)
        with seeded_dropout([generator("step", i) for i in (2, 3)]):
            part = network(x[2:], clock[2:])
    torch.testing.assert_close(part, whole[2:], rtol=0, atol=1e-4)
