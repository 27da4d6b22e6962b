"""Streaming statistics: the same bits however the features arrive."""

import pytest
import torch

from cascade.errors import CascadeError
from cascade.evaluation.statistics import Moments, statistics_of
from cascade.rng import randn


@pytest.mark.parametrize("piece", [1, 7, 64, 255, 256, 257, 1000])
def test_pieces_of_any_size_give_the_same_bits(piece):
    x = randn("pieces", shape=(1000, 9)) + 5
    moments = Moments(9)
    for part in x.split(piece):
        moments.update(part)
    streamed, whole = moments.statistics(), statistics_of(x)
    assert streamed.count == whole.count
    assert torch.equal(streamed.mean, whole.mean)
    assert torch.equal(streamed.covariance, whole.covariance)


def test_looking_at_the_statistics_in_between_changes_nothing():
    x = randn("pieces", shape=(600, 4))
    moments = Moments(4)
    for part in x.split(100):
        moments.update(part)
        moments.statistics()
    assert torch.equal(moments.statistics().covariance, statistics_of(x).covariance)


def test_a_large_mean_does_not_drown_the_covariance():
    x = randn("far away", shape=(512, 3)).double()
    torch.testing.assert_close(statistics_of(x + 1e7).covariance, statistics_of(x).covariance, rtol=1e-7, atol=1e-8)


def test_too_few_and_broken_features_are_refused():
    with pytest.raises(CascadeError, match="at least 2 pictures, not 1"):
        statistics_of(torch.zeros(1, 3))
    with pytest.raises(CascadeError, match="NaN"):
        statistics_of(torch.full((3, 3), torch.nan))
    with pytest.raises(CascadeError, match=r"\(B, 4\)"):
        Moments(4).update(torch.zeros(2, 3))
