"""A tiled denoiser is the denoiser on the whole picture once its overlap exceeds the receptive radius."""

import pytest
import torch
import torch.nn.functional as F

from cascade.artifact import build_denoiser
from cascade.diffusion import Condition, Posterior
from cascade.errors import CascadeError
from cascade.networks import BaseNetwork, EfficientUNet
from cascade.rng import randn
from cascade.sampling import DynamicThreshold, Tiled
from cascade.sampling.tiling import _ramp
from tests.conftest import small_stage

RADIUS = 3


def blur(x_t, log_snr, condition):
    """A denoiser whose reach is exactly 3 pixels to each side, and no shorter."""
    kernel = randn("kernel", shape=(1, 1, 7, 7)).double()
    mean = (
        F.conv2d(x_t.flatten(0, 1)[:, None], kernel, padding=RADIUS).reshape(x_t.shape) * log_snr[:, None, None, None]
    )
    return Posterior(mean, variance_fraction=2 * mean)


def picture(*shape):
    return randn("picture", shape=shape).double()


@pytest.mark.parametrize("shape", [(2, 3, 24, 24), (1, 3, 16, 29), (1, 3, 8, 17)])
@pytest.mark.parametrize("tile", [5, 8, 40])
def test_it_is_exact_as_soon_as_the_overlap_exceeds_the_reach(shape, tile):
    x, level = picture(*shape), torch.linspace(1, 2, shape[0])
    whole = blur(x, level, Condition())
    tiled = Tiled(blur, tile, RADIUS + 1)(x, level, Condition())
    torch.testing.assert_close(tiled.mean, whole.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(tiled.variance_fraction, whole.variance_fraction, rtol=0, atol=1e-12)


def test_a_shorter_overlap_is_seen():
    x, level = picture(1, 3, 24, 24), torch.ones(1)
    for overlap in range(1, RADIUS + 1):
        difference = Tiled(blur, 8, overlap)(x, level, Condition()).mean - blur(x, level, Condition()).mean
        assert difference.abs().max() > 1e-3, overlap


@pytest.mark.parametrize(("overlap", "blend"), [(4, 0), (4, 1), (4, 2), (4, 4), (0, 1)])
def test_the_weights_add_to_one(overlap, blend):
    one = lambda x, log_snr, condition: Posterior(torch.ones_like(x))  # noqa: E731
    tiled = Tiled(one, 8, overlap, blend)(picture(1, 3, 29, 24), torch.zeros(1), Condition())
    torch.testing.assert_close(tiled.mean, torch.ones_like(tiled.mean), rtol=0, atol=1e-12)


def test_the_weights_are_smooth_and_a_half_at_the_seam():
    d = torch.linspace(-6, 6, 121, dtype=torch.float64)
    w = _ramp(d, 4)
    assert w[60].item() == pytest.approx(0.5, abs=1e-12)
    assert w[0] == 0
    assert w[-1] == 1
    torch.testing.assert_close(w + w.flip(0), torch.ones_like(w))
    assert (w.diff() >= 0).all()
    assert w.diff().diff().abs().max() < 0.002, "no kink: the slope changes by π²/32 a pixel at most"


def test_a_wide_blend_hides_what_no_overlap_makes_exact():
    """Of tiles that each have their own offset, the seam is a slope of at most π/4/blend a pixel, and no step."""
    offset = lambda x, log_snr, condition: Posterior(x[..., :1, :1].expand_as(x))  # noqa: E731
    x = torch.zeros(1, 1, 8, 64, dtype=torch.float64)
    x[..., 32 - 8 :] = 1
    step, slope = (
        Tiled(offset, 32, 8, blend)(x, torch.zeros(1), Condition()).mean[0, 0, 0].diff().max() for blend in (0, 8)
    )
    assert step == 1
    assert slope < 0.1


@pytest.mark.parametrize("name", ["base", "super-resolution"])
def test_a_local_network_is_the_same_by_tiles(name):
    config = small_stage("local", 128, None if name == "base" else 32)
    config.network.update(norm="pixel", attention=[False, False])
    denoiser = build_denoiser(config).eval()
    for key, parameter in denoiser.named_parameters():
        parameter.data = 0.1 * randn("weights", key, shape=parameter.shape)
    low = None if name == "base" else randn("low", shape=(2, 3, 32, 32))
    condition = Condition(torch.tensor([0, 1]), low, None if low is None else torch.full((2,), 3.0))
    network, factor = denoiser.network, 1 if low is None else 4
    radius = network.receptive_radius if low is None else network.receptive_radius_for(factor)
    overlap = 4 * int(radius // 4 + 1)
    x, level = randn("x", shape=(2, 3, 128, 128)), torch.tensor([-1.0, 2.0])
    with torch.no_grad():
        whole = denoiser(x, level, condition).mean
        tiled = Tiled(denoiser, 32, overlap)(x, level, condition).mean
        short = Tiled(denoiser, 32, 4)(x, level, condition).mean
    assert overlap < 64, "so that no tile sees the whole picture"
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)
    assert (short - whole).abs().max() > 1e-3


def test_dynamic_thresholding_sees_the_whole_picture_outside():
    x, level = 3 * picture(1, 3, 24, 24), torch.ones(1)
    outside = DynamicThreshold(Tiled(blur, 8, 4), 0.9)(x, level, Condition()).mean
    torch.testing.assert_close(outside, DynamicThreshold(blur, 0.9)(x, level, Condition()).mean)
    inside = Tiled(DynamicThreshold(blur, 0.9), 8, 4)(x, level, Condition()).mean
    assert (inside - outside).abs().max() > 1e-3


def test_a_picture_no_larger_than_a_tile_is_one_call_of_itself():
    seen = []
    spy = lambda x, *rest: (seen.append(x.shape), blur(x, *rest))[1]  # noqa: E731
    Tiled(spy, 16, 8)(picture(1, 3, 16, 16), torch.ones(1), Condition())
    assert seen == [(1, 3, 16, 16)]


def test_no_call_is_larger_than_a_tile_and_its_overlap():
    seen = []
    spy = lambda x, *rest: (seen.append(max(x.shape[-2:])), blur(x, *rest))[1]  # noqa: E731
    Tiled(spy, 8, 4)(picture(1, 3, 64, 40), torch.ones(1), Condition())
    assert max(seen) == 16
    assert len(seen) == 8 * 5


def test_sizes_that_are_none_are_refused():
    for tile, overlap, blend in ((0, 1, 1), (8, -1, 0), (8, 4, 5), (8, 4, -1)):
        with pytest.raises(CascadeError):
            Tiled(blur, tile, overlap, blend)
    condition = Condition(low_res=picture(1, 3, 4, 4), aug_log_snr=torch.zeros(1))
    for tile, overlap in ((6, 4), (8, 2)):
        with pytest.raises(CascadeError, match="multiple of the low-res factor 4"):
            Tiled(BaseNetwork(EfficientUNet()), tile, overlap)(picture(1, 3, 16, 16), torch.zeros(1), condition)
