"""The multi-scale loss: the paper's sum over resolutions, what it makes of coarse and fine errors, and its minimum."""

import pytest
import torch
from torch.testing import assert_close

from cascade.diffusion import (
    Condition,
    GaussianDenoiser,
    LogNormalNoise,
    MinSNRWeighting,
    MultiScaleLoss,
    PlainLoss,
    Posterior,
    UnitWeighting,
    diffuse,
    diffusion_loss,
    eps_from_mean,
)
from cascade.errors import CascadeError
from cascade.registry import build

LEVELS = torch.tensor([-3.0, 0.5, 4.0], dtype=torch.float64)


def shrunk(picture, side):
    """The means over blocks, by loops."""
    block = picture.shape[-1] // side
    rows = [
        [
            picture[..., i * block : (i + 1) * block, j * block : (j + 1) * block].flatten(-2).sum(-1) / block**2
            for j in range(side)
        ]
        for i in range(side)
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


@pytest.mark.parametrize(("smallest", "sides"), [(2, (16, 8, 4, 2)), (3, (16, 8, 4)), (8, (16, 8)), (9, (16,))])
def test_it_is_the_papers_sum_over_resolutions_times_the_side(smallest, sides, normal):
    x, eps, mean = normal(3, 3, 16, 16), normal(3, 3, 16, 16, name="eps"), normal(3, 3, 16, 16, name="mean")
    weighting = MinSNRWeighting(LogNormalNoise())
    loss = MultiScaleLoss(smallest)(lambda *_: Posterior(mean), x, LEVELS, eps, Condition(), weighting)
    error = eps - eps_from_mean(diffuse(x, eps, LEVELS), mean, LEVELS)
    terms = [shrunk(error, side).square().sum((1, 2, 3)) / (3 * side**2) / side for side in sides]
    assert_close(loss, 16 * weighting.log_ratio(LEVELS).exp() * sum(terms), rtol=1e-10, atol=0)


def test_a_constant_error_counts_at_every_scale_and_a_fine_one_once():
    coarse = torch.ones(1, 3, 16, 16)
    fine = torch.tensor([1.0, -1.0]).repeat(8) * coarse
    loss = MultiScaleLoss(smallest=4)
    assert loss.square(coarse).tolist() == [1 + 2 + 4]
    assert loss.square(fine).tolist() == [1]
    assert PlainLoss() == build("loss", {"name": "plain"})


def test_the_smallest_side_is_the_papers_and_small_or_odd_pictures_have_the_plain_loss(normal):
    assert MultiScaleLoss().smallest == 32
    for sides in ((32, 32), (63, 63), (65, 65), (64, 65)):
        x, eps, mean = (normal(3, 1, *sides, name=name) for name in ("x", "eps", "mean"))
        arguments = lambda *_, mean=mean: Posterior(mean), x, LEVELS, eps, Condition(), UnitWeighting()
        assert torch.equal(MultiScaleLoss()(*arguments), diffusion_loss(*arguments))
        assert torch.equal(PlainLoss()(*arguments), diffusion_loss(*arguments))


def test_the_exact_denoiser_is_its_minimum_in_every_direction(normal):
    # Data whose expected loss is a finite sum over unit vectors (as for the plain loss): no Monte Carlo.
    size = 16
    root = normal(size, size)
    oracle = GaussianDenoiser(torch.zeros(size, dtype=torch.float64), root @ root.T)
    zero, unit = torch.zeros(size, size, dtype=torch.float64), torch.eye(size, dtype=torch.float64)
    x, eps = (torch.cat(parts).reshape(-1, 1, 4, 4) for parts in ([root.T, zero], [zero, unit]))
    change = torch.zeros(size, size, dtype=torch.float64, requires_grad=True)

    def changed(x_t, log_snr, condition):
        mean = oracle(x_t, log_snr, condition).mean
        return Posterior(mean + (x_t.flatten(1) @ change).reshape(mean.shape))

    level = torch.full((2 * size,), 0.3, dtype=torch.float64)
    loss = MultiScaleLoss(smallest=1)(changed, x, level, eps, Condition(), UnitWeighting()).sum()
    (slope,) = torch.autograd.grad(loss, change)
    assert float(slope.abs().max()) < 1e-12
    assert float(loss.detach()) > 0.1


def test_what_is_no_picture_is_refused():
    with pytest.raises(CascadeError, match="of pictures"):
        MultiScaleLoss().square(torch.zeros(2, 7))
    with pytest.raises(CascadeError, match="at least 1, not 0"):
        build("loss", {"name": "multi_scale", "smallest": 0})
