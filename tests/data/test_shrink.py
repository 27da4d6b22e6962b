"""The one shrinking function: Pillow's filter, on 8-bit levels, the same for a picture, a batch and a crop."""

import numpy as np
import pytest
import torch
from PIL import Image

from cascade import rng
from cascade.data.degradation import from_uint8, shrink, shrink_crop, to_uint8
from cascade.errors import CascadeError


def picture(side: int, seed: int = 0, width: int | None = None) -> torch.Tensor:
    """Coarse and fine noise, saturated in places, so that the filter overshoots."""
    width = width or side
    fine = rng.randn("shrink", seed, shape=(3, side, width))
    coarse = rng.randn("shrink coarse", seed, shape=(3, side // 8, width // 8))
    coarse = coarse.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    return to_uint8((coarse + 0.3 * fine).clamp(-1, 1))


@pytest.mark.parametrize(("side", "size"), [(64, 16), (256, 64), (128, 16), (96, 40), (64, 64)])
def test_shrink_agrees_with_pillow_to_one_level(side, size):
    # Pillow clips between its two directions, so pictures whose overshoot is clipped there may differ by more.
    source = to_uint8(from_uint8(picture(side)) * 0.6)
    pillow = Image.fromarray(source.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(pillow)).permute(2, 0, 1).int()
    difference = (to_uint8(shrink(from_uint8(source), size)).int() - expected).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.2  # Pillow rounds after each direction


def test_shrink_matches_the_bicubic_kernel_in_closed_form():
    """One bright line at factor 4 spreads by the kernel with a = −1/2, stretched by 4 and normalised."""
    side, factor, line = 64, 4, 29

    def kernel(x):
        x = x.abs()
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))

    centres = (torch.arange(side // factor, dtype=torch.float64) + 0.5) * factor
    weights = kernel((torch.arange(side) + 0.5 - centres[:, None]) / factor)
    weights /= weights.sum(1, keepdim=True)
    image = torch.full((3, side, side), -0.5)
    image[:, :, line] = 1.0
    expected = -0.5 + 1.5 * weights[:, line]
    actual = shrink(image, side // factor)[0, 5]
    assert torch.equal(to_uint8(actual), to_uint8(expected))


def test_shrink_gives_8_bit_levels_inside_the_range():
    small = shrink(from_uint8(picture(64)), 16)
    assert small.min() >= -1
    assert small.max() <= 1
    assert torch.equal(from_uint8(to_uint8(small)), small)


def test_shrink_of_a_batch_is_the_shrink_of_each():
    batch = torch.stack([from_uint8(picture(64, seed)) for seed in range(4)])
    together = shrink(batch, 16)
    assert all(torch.equal(together[i], shrink(batch[i], 16)) for i in range(4))
    assert torch.equal(shrink(batch.to(memory_format=torch.channels_last), 16), together)
    assert torch.equal(shrink(batch[None], 16)[0], together)


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_shrink_crop_is_a_crop_of_the_shrunk_whole_bit_for_bit(factor):
    side, size = 24 * factor, 9
    for seed in range(3):
        source = picture(side, seed)
        whole = shrink(from_uint8(source), 24)
        for top, left in ((0, 0), (15, 15), (0, 7), (4, 5), (5, 4), (11, 3)):
            part = shrink_crop(source, factor, top, left, size)
            assert torch.equal(part, whole[:, top : top + size, left : left + size])


def test_eight_bits_go_round():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(from_uint8(levels)), levels)
    between = (levels[:-1].double() + 0.501) / 127.5 - 1
    assert torch.equal(to_uint8(between), levels[1:])
    assert torch.equal(to_uint8(between - 0.002 / 127.5), levels[:-1])
    assert to_uint8(torch.tensor([-3.0, 0.0, 3.0, float("inf")])).tolist() == [0, 128, 255, 255]  # 127.5 is even at 128
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(torch.tensor([float("nan")]))


def test_growing_is_refused():
    with pytest.raises(CascadeError, match="16×16 px cannot be shrunk to 32×32"):
        shrink(torch.zeros(3, 16, 16), 32)
