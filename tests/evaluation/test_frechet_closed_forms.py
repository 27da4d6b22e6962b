"""The Fréchet distance against Gaussians whose distance is known, against scipy and against torchmetrics."""

import numpy as np
import pytest
import scipy.linalg
import torch

from cascade.errors import CascadeError
from cascade.evaluation.frechet import frechet_distance, frechet_parts
from cascade.evaluation.statistics import statistics_of
from cascade.rng import randn


def covariance(name, dim, rank=None):
    x = randn("frechet test", name, shape=(dim, rank or 2 * dim)).double()
    return x @ x.mT / x.shape[1]


def mean(name, dim):
    return randn("frechet test", name, "mean", shape=(dim,)).double()


def test_commuting_gaussians_have_the_distance_of_their_axes():
    a, b = torch.tensor([0.0, 1.0, 4.0]).double(), torch.tensor([9.0, 2.0, 0.25]).double()
    turn = torch.linalg.qr(randn("turn", shape=(3, 3)).double()).Q
    mu = torch.tensor([1.0, -2.0, 3.0]).double()
    expected = (a.sqrt() - b.sqrt()).square().sum() + mu.square().sum()
    cov_a, cov_b = (turn @ torch.diag(v) @ turn.mT for v in (a, b))
    assert frechet_distance(mu, cov_a, torch.zeros(3), cov_b) == pytest.approx(expected.item(), abs=1e-12)


def test_two_dimensions_have_a_closed_form_without_roots_of_matrices():
    a, b = covariance("a", 2), covariance("b", 2)
    product = a @ b
    overlap = (product.trace() + 2 * torch.linalg.det(product).sqrt()).sqrt()
    expected = a.trace() + b.trace() - 2 * overlap
    assert frechet_distance(torch.zeros(2), a, torch.zeros(2), b) == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("dim", [1, 5, 64])
def test_equals_scipy(dim):
    a, b, mu_a, mu_b = covariance("a", dim), covariance("b", dim), mean("a", dim), mean("b", dim)
    root = scipy.linalg.sqrtm((a @ b).numpy()).real
    expected = ((mu_a - mu_b) ** 2).sum().item() + np.trace(a.numpy() + b.numpy() - 2 * root)
    assert frechet_distance(mu_a, a, mu_b, b) == pytest.approx(expected, rel=1e-9)


def test_equals_the_eigenvalues_of_the_symmetric_form():
    a, b = covariance("a", 40), covariance("b", 40)
    values, vectors = torch.linalg.eigh(a)
    root = vectors @ torch.diag(values.sqrt()) @ vectors.mT
    overlap = torch.linalg.eigvalsh(root @ b @ root).sqrt().sum()
    expected = a.trace() + b.trace() - 2 * overlap
    assert frechet_distance(torch.zeros(40), a, torch.zeros(40), b) == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize("rank", [3, 50, 400])
def test_a_set_is_at_distance_zero_from_itself_at_any_rank(rank):
    a, mu = 100 * covariance("itself", 200, rank), mean("itself", 200)
    assert abs(frechet_distance(mu, a, mu, a)) < 1e-6


def test_is_symmetric_and_does_not_see_rotations_and_scales_as_a_square():
    a, b, mu_a, mu_b = covariance("a", 30), covariance("b", 30), mean("a", 30), mean("b", 30)
    there = frechet_distance(mu_a, a, mu_b, b)
    turn = torch.linalg.qr(randn("turn", shape=(30, 30)).double()).Q
    assert frechet_distance(mu_b, b, mu_a, a) == pytest.approx(there, rel=1e-12)
    turned = frechet_distance(turn @ mu_a, turn @ a @ turn.mT, turn @ mu_b, turn @ b @ turn.mT)
    assert turned == pytest.approx(there, rel=1e-12)
    assert frechet_distance(3 * mu_a, 9 * a, 3 * mu_b, 9 * b) == pytest.approx(9 * there, rel=1e-12)


def test_negative_mass_is_reported_as_a_share():
    broken = torch.diag(torch.tensor([3.0, 1.0, -1.0]))
    parts = frechet_parts(torch.zeros(3), torch.eye(3), torch.zeros(3), broken)
    assert parts.negative_mass == pytest.approx(0.2)
    assert parts.distance == parts.mean_term + parts.covariance_term
    honest = frechet_parts(mean("a", 60), covariance("a", 60, 20), mean("b", 60), covariance("b", 60, 20))
    assert honest.negative_mass < 1e-14


def test_wrong_input_is_refused():
    zero, one = torch.zeros(2), torch.eye(2)
    with pytest.raises(CascadeError, match=r"\(d, d\)"):
        frechet_distance(zero, one, zero, torch.eye(3))
    with pytest.raises(CascadeError, match="2 and of 3 dimensions"):
        frechet_distance(zero, one, torch.zeros(3), torch.eye(3))
    with pytest.raises(CascadeError, match="NaN"):
        frechet_distance(zero * torch.nan, one, zero, one)
    with pytest.raises(CascadeError, match="not symmetric"):
        frechet_distance(zero, one, zero, torch.tensor([[1.0, 0.5], [0.0, 1.0]]))


def test_statistics_are_numpys():
    x = randn("statistics", shape=(700, 12)).double() * 3 + 1000
    statistics = statistics_of(x)
    assert statistics.count == 700
    np.testing.assert_allclose(statistics.mean, x.numpy().mean(0), rtol=1e-14)
    np.testing.assert_allclose(statistics.covariance, np.cov(x.numpy().T), rtol=1e-10, atol=1e-12)
