"""The kernel distance: its definition, its exact expectation and variance over all draws from a small population."""

import itertools

import pytest
import torch

from cascade.errors import CascadeError
from cascade.evaluation import kernel
from cascade.evaluation.kernel import kernel_distance
from cascade.rng import permutation, randn


def naive(x, y):
    """The unbiased statistic by its definition, pair by pair."""

    def k(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(k(a, b) for a in x for b in y) / (n * m)
    return xx + yy - 2 * xy


def draws(population, size):
    return [population[list(index)] for index in itertools.product(range(len(population)), repeat=size)]


def test_equals_its_definition():
    x, y = randn("kernel", "x", shape=(9, 4)).double(), randn("kernel", "y", shape=(13, 4)).double() + 0.3
    assert kernel_distance(x, y, seed=0).value == pytest.approx(naive(x, y), rel=1e-12)


def test_the_error_is_the_jackknifes_picture_by_picture():
    x, y = randn("kernel", "x", shape=(6, 3)).double(), randn("kernel", "y", shape=(8, 3)).double() + 0.5
    without_x = torch.tensor([naive(torch.cat([x[:i], x[i + 1 :]]), y) for i in range(6)])
    without_y = torch.tensor([naive(x, torch.cat([y[:j], y[j + 1 :]])) for j in range(8)])
    variance = sum((len(w) - 1) / len(w) * (w - w.mean()).square().sum() for w in (without_x, without_y))
    assert kernel_distance(x, y, seed=0).standard_error == pytest.approx(variance.sqrt().item(), rel=1e-5)


def test_subsets_are_disjoint_seeded_and_averaged():
    x, y = randn("kernel", "x", shape=(21, 4)).double(), randn("kernel", "y", shape=(34, 4)).double() + 1
    first, second, again = (kernel_distance(x, y, seed=seed, subset_size=5) for seed in (0, 1, 0))
    assert first == again
    assert first != second
    orders = (permutation("kernel distance", 0, name, size=len(z)) for name, z in (("x", x), ("y", y)))
    pairs = zip(*(z[order].tensor_split(4) for z, order in zip((x, y), orders, strict=True)), strict=True)
    alone = [kernel_distance(a, b, seed=7) for a, b in pairs]
    assert first.value == pytest.approx(sum(result.value for result in alone) / 4, rel=1e-12)
    # Independent parts: the variance of their mean is the sum of their variances over 4².
    assert first.standard_error == pytest.approx(sum(r.standard_error**2 for r in alone) ** 0.5 / 4, rel=1e-12)


def test_expectation_over_all_draws_is_the_population_distance_and_zero_for_equal_ones():
    p, q = randn("population", "p", shape=(3, 2)).double(), randn("population", "q", shape=(2, 2)).double()

    def k(a, b):
        return ((a @ b.mT) / 2 + 1) ** 3

    for other in (q, p):
        expected = (k(p, p).mean() + k(other, other).mean() - 2 * k(p, other).mean()).item()
        values = [kernel_distance(x, y, seed=0).value for x in draws(p, 3) for y in draws(other, 3)]
        assert sum(values) / len(values) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("same", [True, False])
def test_squared_error_is_the_variance_on_average_or_at_most_twice(same):
    p = randn("population", "p", shape=(3, 2)).double()
    q = p if same else randn("population", "q", shape=(2, 2)).double() + 1
    results = [kernel_distance(x, y, seed=0) for x in draws(p, 4) for y in draws(q, 4)]
    values = torch.tensor([result.value for result in results])
    claimed = torch.tensor([result.standard_error for result in results]).square().mean()
    # Efron & Stein: never less on average. The jackknife speaks of n − 1 = 3 pictures, not 4, whose variance is at
    # most (4·3)/(3·2) times as large, and counts the part that is quadratic in the pictures twice.
    assert 1 <= claimed / values.var(correction=0) <= 2 * (4 * 3) / (3 * 2)


def test_the_order_of_the_pictures_does_not_matter():
    x, y = randn("kernel", "x", shape=(40, 6)).double(), randn("kernel", "y", shape=(30, 6)).double()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    there, permuted = kernel_distance(x, y, seed=3), kernel_distance(x[order], y, seed=3)
    assert permuted.value == pytest.approx(there.value, rel=1e-12, abs=1e-13)
    assert permuted.standard_error == pytest.approx(there.standard_error, rel=1e-12)
    swapped = kernel_distance(y, x, seed=3)
    assert swapped.value == pytest.approx(there.value, rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("entries", [1, 50])
def test_neither_value_nor_error_depends_on_what_is_in_memory_at_once(entries, paired, monkeypatch):
    x, y = randn("kernel", "x", shape=(14, 4)).double(), randn("kernel", "y", shape=(14, 4)).double() + 0.3
    together = kernel_distance(x, y, seed=0, group=2, paired=paired)
    sizes = []
    whole = kernel._kernel
    monkeypatch.setattr(kernel, "_ENTRIES", entries)
    monkeypatch.setattr(kernel, "_kernel", lambda a, b: (sizes.append(len(a)), whole(a, b))[1])
    assert kernel_distance(x, y, seed=0, group=2, paired=paired) == pytest.approx(together, rel=1e-12)
    assert max(sizes) == max(1, entries // 28)


def test_too_few_pictures_and_odd_shapes_are_refused():
    x = torch.zeros(5, 2)
    with pytest.raises(CascadeError, match="at least 3 pictures on each side, not 2"):
        kernel_distance(x, x[:2], seed=0)
    with pytest.raises(CascadeError, match=r"\(N, d\)"):
        kernel_distance(x, torch.zeros(5, 3), seed=0)
    with pytest.raises(CascadeError, match="NaN"):
        kernel_distance(x, x * torch.nan, seed=0)
