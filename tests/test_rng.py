"""Random numbers are functions of names, and of the whole name."""

import torch

from cascade import rng


def test_names_that_share_the_low_32_bits_of_their_seed_differ() -> None:
    """torch's CPU generator would take seeds 5 and 5 + 7·2³² for the same."""
    assert not torch.equal(rng.randn("sample", 5, shape=(8,)), rng.randn("sample", 5 + (7 << 32), shape=(8,)))


def test_no_two_of_many_streams_begin_alike() -> None:
    first = torch.stack([rng.uniform("sample", i, shape=(2,)) for i in range(20_000)])
    assert len(torch.unique(first, dim=0)) == len(first)


def test_the_kind_and_order_of_names_matter() -> None:
    values = [rng.uniform(*names).item() for names in (("a", 1), ("a", "1"), (1, "a"), ("a1",), ("a", 1, 0))]
    assert len(set(values)) == len(values)


def test_moments_are_those_of_the_distributions() -> None:
    normal, flat = rng.randn("n", shape=(200_000,)).double(), rng.uniform("u", shape=(200_000,)).double()
    assert abs(normal.mean()) < 0.01
    assert abs(normal.var() - 1) < 0.02
    assert abs(flat.mean() - 0.5) < 0.004
    assert abs(flat.var() - 1 / 12) < 0.002
    assert sorted(rng.permutation("p", size=50).tolist()) == list(range(50))


def test_a_picture_draws_the_same_alone_and_among_others() -> None:
    alone, among = (rng.ImageNoise(seeds, "base64", (3, 4, 4))(2, draw=1) for seeds in ([7], [3, 7, 9]))
    assert torch.equal(alone[0], among[1])
