"""The brush: areas are exact, and what is too fine for the pixels fades as shrinking would fade it."""

import math

import pytest
import torch
import torch.nn.functional as F

from cascade.data.painting import (
    Canvas,
    Draws,
    footprint,
    inside,
    line,
    lines,
    lit,
    noise,
    oklch,
    over,
    ramp,
    slope,
    stripes,
)


def drawn(size, field):
    """`field`(canvas) on the whole canvas, without the border."""
    canvas = Canvas.rows(size, 0, size)
    return canvas.crop(field(canvas))


def shrunk(picture, size):
    return F.interpolate(picture[None, None], size=(size, size), mode="bicubic", antialias=True)[0, 0]


def test_a_shape_has_its_area():
    radius = 0.613
    for size in (16, 64, 256):
        disc = drawn(size, lambda c: inside(torch.hypot(c.x, c.y) - radius))
        assert float(disc.mean()) * 4 == pytest.approx(math.pi * radius**2, rel=1e-2)


@pytest.mark.parametrize("half", [0.3, 0.05, 0.004, 0.0005])
def test_a_line_keeps_its_mass_however_thin(half):
    slanted = drawn(64, lambda c: line(0.8 * c.x + 0.6 * c.y - 0.013, half))
    # The band of width 2·half crosses the square along a chord of length 2/0.8 (it cuts top and bottom).
    assert float(slanted.mean()) * 4 == pytest.approx(2 * half * 2 / 0.8, rel=0.02)


def test_lines_too_fine_to_see_leave_their_mean():
    assert float(drawn(32, lambda c: lines(c.x * 100 + 0.1, 0.1)).mean()) == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("waves", [2.0, 9.0, 16.0, 22.0, 40.0, 64.0])
def test_stripes_fade_as_shrinking_fades_them(waves):
    def field(c):
        return stripes(waves * (0.8 * c.x + 0.6 * c.y))

    error = drawn(64, field) - shrunk(drawn(1024, field), 64)
    assert error[4:-4, 4:-4].square().mean().sqrt() < 0.06


@pytest.mark.parametrize("waves", [2.0, 8.0, 16.0, 32.0, 64.0])
def test_noise_fades_as_shrinking_fades_it(waves):
    def field(c):
        return noise(waves * c.x, waves * c.y, (0.3, 0.7), 4)

    error = drawn(64, field) - shrunk(drawn(1024, field), 64)
    assert error[4:-4, 4:-4].square().mean().sqrt() < 0.2


def test_noise_has_unit_variance_the_same_in_all_directions_and_one_wave_to_the_unit():
    field = drawn(512, lambda c: noise(25 * c.x, 25 * c.y, (0.1, 0.2), 1))
    assert float(field.mean()) == pytest.approx(0, abs=0.05)
    assert float(field.std()) == pytest.approx(1, abs=0.1)
    power = torch.fft.fft2(field).abs().square()
    waves = torch.fft.fftfreq(512, 1 / 512)
    across, down = (float((power * at.square()).sum() / power.sum()) for at in (waves, waves[:, None]))
    assert across == pytest.approx(down, rel=0.15)
    # 2 units across the canvas hold 50 waves.
    assert math.sqrt(across + down) == pytest.approx(50, rel=0.2)


def test_octaves_add_detail_and_leave_the_form():
    base, rich = (drawn(256, lambda c, k=k: noise(2 * c.x, 2 * c.y, (0.5, 0.5), k)) for k in (1, 5))
    assert torch.corrcoef(torch.stack((base.flatten(), rich.flatten())))[0, 1] > 0.8
    rough = [float(footprint(field).mean()) for field in (base, rich)]
    assert rough[1] > 1.5 * rough[0]


def test_footprint_is_the_change_per_pixel():
    canvas = Canvas.rows(32, 4, 20)
    torch.testing.assert_close(footprint(30 * canvas.x - 40 * canvas.y), torch.full((20, 36), 50 * canvas.pixel))
    # A row of a field that depends on x alone is enough.
    torch.testing.assert_close(footprint(3 * canvas.x[:1]), torch.full((1, 36), 3 * canvas.pixel))


def test_slope_is_the_derivative():
    canvas = Canvas.rows(32, 8, 24)
    field = 3 * canvas.x - 2 * canvas.y
    for towards, value in ((0.0, 3.0), (math.pi / 2, -2.0)):
        torch.testing.assert_close(canvas.crop(slope(field, towards)), torch.full((16, 32), value), atol=1e-3, rtol=0)


def test_strips_are_parts_of_the_whole():
    whole, part = Canvas.rows(32, 0, 32), Canvas.rows(32, 8, 16)
    assert torch.equal(whole.y[8:20], part.y)
    assert torch.equal(whole.x[:12], part.x)


@pytest.mark.parametrize(
    ("place", "rgb"),
    [((0.62796, 0.25768, 29.234), (1, 0, 0)), ((0.86644, 0.29483, 142.495), (0, 1, 0)), ((0.59987, 0, 0), (0.5,) * 3)],
)
def test_oklch_knows_the_primaries(place, rgb):
    torch.testing.assert_close(oklch(*place).flatten(), torch.tensor(rgb, dtype=torch.float32), atol=4e-3, rtol=0)


def test_colours_are_laid_and_lit():
    red, blue = oklch(0.6, 0.2, 30), oklch(0.5, 0.2, 265)
    t = torch.tensor([[0.0, 0.25, 1.0]])
    torch.testing.assert_close(ramp(t, [red, blue]), torch.lerp(red, blue, t.expand(3, 1, 3)))
    torch.testing.assert_close(over(red.expand(3, 1, 3), blue, t), ramp(t, [red, blue]))
    torch.testing.assert_close(lit(red, torch.ones(1, 1)), red)
    dark = lit(red, torch.full((1, 1), 0.5))
    assert dark.mean() == pytest.approx(float(red.mean()) / 2)
    assert (dark.max() - dark.min()) / dark.mean() > (red.max() - red.min()) / red.mean()


def test_draws_are_named_and_spread():
    assert Draws("a", 1).between(0, 1) == Draws("a", 1).between(0, 1) != Draws("a", 2).between(0, 1)
    draws = Draws("a", 3, count=600)
    assert {draws.pick("xyz") for _ in range(60)} == set("xyz")
    values = [draws.between(-1, 3) for _ in range(400)]
    assert -1 <= min(values) < -0.9
    assert 2.9 < max(values) < 3
