"""The power spectrum against waves and noise of known power; consistency against the shrinking itself."""

import math

import pytest
import torch

from cascade.data.degradation import from_uint8, shrink, to_uint8
from cascade.errors import CascadeError
from cascade.evaluation.colour import low_res_consistency, pooled_rms
from cascade.evaluation.spectrum import RadialSpectrum, high_band_ratio, radial_power_spectrum
from cascade.rng import generator


def noise(name, count, side):
    return torch.randint(0, 256, (count, 3, side, side), generator=generator("spectrum", name), dtype=torch.uint8)


def wave(cycles, side, amplitude):
    x = torch.arange(side) * (2 * math.pi * cycles / side)
    row = (128 + amplitude * x.cos()).round().to(torch.uint8)
    return row.expand(1, 3, side, side).contiguous()


def test_power_over_all_frequencies_is_the_windowed_variance():
    images = noise("parseval", 5, 16)
    spectrum = radial_power_spectrum([images])
    grey = images.double().mean(1)
    grey = grey - grey.mean((1, 2), keepdim=True)
    window = torch.hann_window(16, dtype=torch.float64)
    windowed = grey * window[:, None] * window
    constant = windowed.sum((1, 2)).square().mean() / (window[:, None] * window).square().sum()
    expected = 16**2 * windowed.square().sum((1, 2)).mean() / (window[:, None] * window).square().sum() - constant
    assert (spectrum.power * spectrum.cells).sum().item() == pytest.approx(expected.item(), rel=1e-12)
    assert int(spectrum.cells.sum()) == 16**2 - 1


def test_a_wave_has_its_power_in_its_own_ring():
    side, cycles = 64, 20
    spectrum = radial_power_spectrum([wave(cycles, side, 100)])
    mass = spectrum.power * spectrum.cells
    near = (spectrum.frequency * side - cycles).abs() < 2.5
    assert mass[near].sum() / mass.sum() > 0.999
    # Its mean square is amplitude²/2, spread by Parseval over side² cells.
    assert mass.sum().item() == pytest.approx(side**2 * 100**2 / 2, rel=1e-2)


def test_rings_are_one_cycle_wide_around_whole_numbers():
    side = 16
    spectrum = radial_power_spectrum(noise("rings", 1, side))
    cycles = torch.arange(side).sub(side // 2)
    radius = torch.hypot(cycles[:, None].double(), cycles[None].double()).flatten()
    for number, (frequency, cells) in enumerate(zip(spectrum.frequency, spectrum.cells, strict=True), start=1):
        ring = radius[(radius - number).abs() < 0.5]
        assert cells == len(ring)
        assert frequency.item() == pytest.approx(ring.mean().item() / side, rel=1e-12)


def test_a_band_is_the_mean_over_its_cells_and_not_over_its_rings():
    frequency, power, cells = (torch.tensor(x) for x in ([0.1, 0.3, 0.4], [9.0, 2.0, 4.0], [4.0, 30.0, 10.0]))
    assert RadialSpectrum(frequency, power, cells, 1).band(0.5) == pytest.approx((2 * 30 + 4 * 10) / 40)


@pytest.mark.parametrize(("above", "inside"), [(0.25, True), (0.45, True), (0.75, False), (0.9, False)])
def test_a_band_is_a_share_of_nyquist(above, inside):
    spectrum = radial_power_spectrum([wave(20, 64, 100)])  # 20 of 32 cycles: 0.625 of Nyquist
    assert (spectrum.band(above) > 100) == inside


def test_white_noise_is_flat():
    spectrum = radial_power_spectrum(noise("flat", 256, 32).split(64))
    expected = (256**2 - 1) / 12 / 3  # of the mean of three uniform colours
    wide = spectrum.cells > 40
    assert (spectrum.power[wide] / expected - 1).abs().max() < 0.05


def test_the_batches_do_not_change_a_bit():
    images = noise("batches", 7, 16)
    alone, together = radial_power_spectrum(images.split(1)), radial_power_spectrum(images.split(5))
    assert torch.equal(alone.power, together.power)
    assert alone.count == together.count == 7


def test_a_blown_up_picture_lacks_the_high_band_and_grain_has_too_much():
    sharp = to_uint8(shrink(from_uint8(noise("sharp", 8, 128)), 64))
    small = shrink(from_uint8(sharp), 16)
    soft = to_uint8(torch.nn.functional.interpolate(small, size=64, mode="bicubic"))
    grainy = (sharp.int() + noise("grain", 8, 64).int() - 128).clamp(0, 255).to(torch.uint8)
    real, blurred, grain = (radial_power_spectrum([x]) for x in (sharp, soft, grainy))
    assert high_band_ratio(real, real) == 1
    assert high_band_ratio(blurred, real) < 0.05
    assert high_band_ratio(grain, real) > 2
    assert high_band_ratio(real, blurred) == pytest.approx(1 / high_band_ratio(blurred, real))


def test_odd_pictures_have_no_spectrum():
    with pytest.raises(CascadeError, match="square pictures of at least 8 px, not 16×8"):
        radial_power_spectrum([torch.zeros(1, 3, 8, 16, dtype=torch.uint8)])
    with pytest.raises(CascadeError, match="uint8"):
        radial_power_spectrum([torch.zeros(1, 3, 8, 8)])
    with pytest.raises(CascadeError, match="no pictures"):
        radial_power_spectrum([])
    with pytest.raises(CascadeError, match="16 and 8 px"):
        radial_power_spectrum([noise("a", 1, 8), noise("b", 1, 16)])


def test_a_picture_agrees_exactly_with_its_own_low_res_version():
    images = noise("own", 3, 32)
    low = to_uint8(shrink(from_uint8(images), 8))
    result = low_res_consistency(images, low)
    assert result.rms.tolist() == [0, 0, 0]
    assert result.psnr.tolist() == [math.inf] * 3


def test_a_tinted_low_res_picture_is_off_by_the_tint():
    flat = torch.full((2, 3, 16, 16), 100, dtype=torch.uint8)
    low = flat[..., :4, :4] + torch.tensor([3, 0, 4], dtype=torch.uint8)[:, None, None]
    result = low_res_consistency(flat, low)
    assert result.shift.tolist() == [[-3, 0, -4]] * 2
    assert result.rms.tolist() == pytest.approx([math.sqrt(25 / 3)] * 2)
    assert pooled_rms(result.rms) == pytest.approx(math.sqrt(25 / 3))
    assert result.psnr[0].item() == pytest.approx(10 * math.log10(255**2 / (25 / 3)))


def test_pairs_must_match():
    flat = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(CascadeError, match="2 pictures cannot be compared with 1"):
        low_res_consistency(flat, flat[:1])
    with pytest.raises(CascadeError, match="cannot be shrunk"):
        low_res_consistency(flat[..., :4, :4], flat)
