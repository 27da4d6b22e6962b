"""Every figure of two sets of features against torch-fidelity's of the same sets."""

import pytest
import torch

from cascade.evaluation.figures import distances
from cascade.evaluation.kernel import kernel_distance
from cascade.evaluation.tiny import tiny_features
from cascade.rng import randn

RELATIVE = 1e-6


@pytest.fixture(scope="module")
def sets():
    """Features of 32 dimensions, correlated as a network's are."""
    mix = randn("mix", shape=(32, 32)) / 4 + torch.eye(32)
    return randn("fake", shape=(180, 32)) @ mix * 1.1 + 0.15, randn("real", shape=(220, 32)) @ mix


@pytest.fixture(scope="module")
def ours(sets):
    return {figure.name: figure.value for figure in distances(*sets, tiny_features(), seed=0)[0]}


def test_the_frechet_distance(sets, ours):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    statistics = [fid_features_to_statistics(features) for features in sets]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert ours["FD-tiny"] == pytest.approx(theirs, rel=RELATIVE)


def test_the_kernel_distance_of_all_pictures(sets, ours):
    from torch_fidelity.metric_kid import kernel_poly, mmd2

    fake, real = (features[:180].double().numpy() for features in sets)  # theirs takes sets of one size
    settings = {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    kernels = [kernel_poly(a, b, **settings) for a, b in ((fake, fake), (fake, real), (real, real))]
    same_size = distances(sets[0], sets[1][:180], tiny_features(), seed=0)[0][1].value
    assert same_size == pytest.approx(mmd2(*kernels), rel=RELATIVE)
    paired = kernel_distance(*(features[:180] for features in sets), seed=0, paired=True)
    assert paired.value == pytest.approx(mmd2(*kernels, mmd_est="u-statistic"), rel=RELATIVE)
    assert ours["KID-tiny"] > 0


def test_precision_and_recall(sets, ours):
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    precision, recall = calculate_precision_recall_full(*(features.double() for features in sets), neighborhood=3)
    assert (ours["precision"], ours["recall"]) == pytest.approx((precision, recall), rel=RELATIVE)
    assert 0 < recall < 1
