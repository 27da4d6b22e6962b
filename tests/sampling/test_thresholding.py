"""Thresholding: the percentile's meaning, the identity inside [−1, 1], each image on its own, ε̂ derived again."""

import pytest
import torch

from cascade.diffusion import Condition, Posterior
from cascade.errors import CascadeError
from cascade.rng import randn
from cascade.sampling import DDIM, DynamicThreshold, NoThreshold, StaticThreshold

F64 = torch.float64
LEVEL = torch.zeros(2, dtype=F64)
SHAPE = (2, 3, 5, 7)


def gives(mean, **fields):
    return lambda x_t, log_snr, condition: Posterior(mean, **fields)


def mean_of(wrapper):
    return wrapper(torch.zeros(1), LEVEL, Condition()).mean


def test_dynamic_divides_by_the_percentile_of_the_magnitude_over_all_pixels_and_channels():
    """|x̂| = 0, 0.1, ..., 10.4: the fraction p of 105 values lies at rank 104 p."""
    magnitude = torch.arange(105, dtype=F64) / 10
    sign = 1 - 2 * (torch.arange(105, dtype=F64) % 2)
    order = torch.randperm(105, generator=torch.Generator().manual_seed(0))
    picture = (magnitude * sign)[order].reshape(3, 5, 7)
    mean = torch.stack([picture, picture / 2])
    got = mean_of(DynamicThreshold(gives(mean), 0.75))
    s = torch.tensor([7.8, 3.9], dtype=F64).reshape(2, 1, 1, 1)
    torch.testing.assert_close(got, torch.maximum(torch.minimum(mean, s), -s) / s, rtol=1e-14, atol=1e-14)
    assert got.abs().amax() == 1


def test_dynamic_interpolates_between_order_statistics():
    mean = torch.tensor([[2.0, -4.0, 6.0]], dtype=F64)
    torch.testing.assert_close(
        mean_of(DynamicThreshold(gives(mean), 0.75)), torch.tensor([[0.4, -0.8, 1.0]], dtype=F64), rtol=0, atol=1e-15
    )


def test_dynamic_takes_pictures_of_more_than_2_to_the_24_numbers():
    """Which torch.quantile refused before 2.14."""
    mean = torch.ones(1, 2**24 + 3)
    mean[0, 2**23 :] = 4.0
    assert mean_of(DynamicThreshold(gives(mean), 0.6)).unique().tolist() == [0.25, 1.0]


def test_dynamic_at_percentile_1_only_scales():
    mean = 3 * randn("mean", shape=SHAPE).to(F64)
    want = mean / mean.abs().amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(mean_of(DynamicThreshold(gives(mean), 1.0)), want, rtol=1e-14, atol=1e-14)


def test_the_papers_percentile_is_the_default():
    mean = 3 * randn("mean", shape=SHAPE).to(F64)
    assert torch.equal(mean_of(DynamicThreshold(gives(mean))), mean_of(DynamicThreshold(gives(mean), 0.995)))


def test_static_clamps():
    mean = torch.tensor([[-3.0, -1.0, -0.2, 0.9, 1.0, 1.7]], dtype=F64)
    assert mean_of(StaticThreshold(gives(mean))).tolist() == [[-1.0, -1.0, -0.2, 0.9, 1.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("wrap", [NoThreshold, StaticThreshold, DynamicThreshold])
def test_nothing_changes_inside_the_range(wrap, dtype):
    mean = randn("mean", shape=SHAPE).to(dtype).clamp(-1, 1)
    assert torch.equal(mean_of(wrap(gives(mean))), mean)


def test_dynamic_reduces_to_static_where_few_pixels_are_outside():
    """s = 1 as long as the percentile is inside: Imagen's max(1, ·)."""
    mean = torch.linspace(-0.9, 0.9, 1000, dtype=F64).reshape(1, 10, 100).clone()
    mean[0, 0, :4] = torch.tensor([5.0, -5.0, 2.0, 1.5], dtype=F64)
    assert torch.equal(mean_of(DynamicThreshold(gives(mean))), mean_of(StaticThreshold(gives(mean))))


def test_each_image_has_its_own_threshold():
    mean = randn("mean", shape=SHAPE).to(F64)
    louder = torch.stack([mean[0], 9 * mean[1]])
    got, other = mean_of(DynamicThreshold(gives(mean), 0.9)), mean_of(DynamicThreshold(gives(louder), 0.9))
    assert torch.equal(got[0], other[0])
    assert not torch.equal(got[1], other[1])
    assert torch.equal(got[:1], mean_of(DynamicThreshold(gives(mean[:1]), 0.9)))


@pytest.mark.parametrize("wrap", [NoThreshold, StaticThreshold, DynamicThreshold])
def test_only_the_mean_is_replaced(wrap):
    fields = {
        "covariance": torch.ones(2, 1, 1),
        "variance_fraction": torch.ones(2, 1),
        "log_uncertainty": torch.ones(2),
    }
    posterior = wrap(gives(torch.full((2, 1), 4.0), **fields))(torch.zeros(2, 1), LEVEL, Condition())
    assert all(getattr(posterior, name) is value for name, value in fields.items())


def test_eps_is_derived_again_from_the_thresholded_mean():
    """DDIM's step with x̂ = 1 in the place of 5 and ε̂ = (x − α)/σ, at λ = 0 → 0.5."""
    grid = torch.tensor([0.0, 0.5], dtype=F64)
    denoiser = StaticThreshold(gives(torch.tensor([[5.0]], dtype=F64)))
    x = torch.tensor([[0.3]], dtype=F64)
    alpha_s, sigma_s = torch.sigmoid(grid[1]).sqrt(), torch.sigmoid(-grid[1]).sqrt()
    for sampler in (DDIM(0.0), DDIM(0.6)):
        kept = 1 - sampler.eta**2 * (1 - torch.exp(-grid[1]))
        got = sampler(denoiser, x, grid, Condition(), lambda step, draw=0: torch.zeros(1, 1, dtype=F64))
        want = alpha_s + sigma_s * kept.sqrt() * (0.3 - 0.5**0.5) / 0.5**0.5
        torch.testing.assert_close(got, want.reshape(1, 1), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("percentile", [0.0, -0.5, 1.5, 99.5, float("nan")])
def test_a_percentile_is_a_fraction(percentile):
    with pytest.raises(CascadeError, match="fraction"):
        DynamicThreshold(gives(torch.zeros(1)), percentile)
