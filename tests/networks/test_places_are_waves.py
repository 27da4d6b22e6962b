"""What tells a pixel where it is: the lowest waves of the discrete cosine transform (Ahmed et al., 1974)."""

import torch
from torch.testing import assert_close

from cascade.networks.layers import places


def waves(height, width, count):
    return places(torch.zeros(1, 1, height, width, dtype=torch.float64), count)[0].double()


def test_they_are_orthogonal_and_none_is_constant():
    """The mean of two different ones is 0, also with the constant; of one with itself ½ along a border, else ¼."""
    found = waves(12, 16, 20).flatten(1)
    products = found @ found.T / found.shape[1]
    along = [0.5 if 0 in (down, total - down) else 0.25 for total in range(1, 6) for down in range(total + 1)]
    assert_close(products, torch.diag(torch.tensor(along, dtype=torch.float64)), atol=1e-6, rtol=0)
    assert_close(found.mean(1), torch.zeros(20, dtype=torch.float64), atol=1e-6, rtol=0)


def test_the_slowest_come_first():
    """How often one changes its sign, down and across the picture, does not fall along the list."""
    signs = waves(64, 64, 27).sign()
    turns = [(signs.diff(dim=dim).abs() / 2).sum(dim).amax(1) for dim in (1, 2)]
    assert turns[0].tolist() == [down for total in range(1, 7) for down in range(total + 1)]
    assert turns[1].tolist() == [total - down for total in range(1, 7) for down in range(total + 1)]


def test_a_larger_picture_is_told_the_same_places():
    """The centre of a pixel is the centre of the middle one of the 3×3 that it becomes."""
    assert_close(waves(24, 12, 9)[:, 1::3, 1::3], waves(8, 4, 9), atol=1e-6, rtol=0)
