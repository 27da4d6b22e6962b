"""A per-pixel norm and no attention: away from its border a crop is the full frame."""

import math
from pathlib import Path

import pytest
import torch
import yaml

from cascade.networks import EfficientUNet, LowResConditioned
from cascade.networks.low_res import upsample
from cascade.registry import build

CONF = Path(__file__).resolve().parents[2] / "conf"
LOCAL = {
    "one level": {"patch": 2, "channels": (8,), "blocks": (1,), "attention": (False,)},
    "two levels": {"patch": 2, "channels": (8, 8), "blocks": (1, 1), "attention": (False, False)},
    "blocks only below": {"patch": 1, "channels": (8, 8), "blocks": (0, 2), "attention": (False, False)},
    "blocks only above": {"patch": 1, "channels": (8, 8), "blocks": (2, 0), "attention": (False, False)},
    "patches of four": {"patch": 4, "channels": (8, 8), "blocks": (1, 0), "attention": (False, False)},
    "three levels": {"patch": 1, "channels": (8, 8, 8), "blocks": (1, 0, 1), "attention": (False,) * 3},
}


def make(in_channels=3, seed=0, **config):
    """A local network in float64 whose every weight is random, so that nothing is hidden by a zero."""
    network = EfficientUNet(in_channels=in_channels, embedding_dim=8, norm="pixel", **config).double()
    return randomise(network, seed)


def randomise(network, seed=0):
    g = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=g, dtype=parameter.dtype)
    return network


@pytest.mark.parametrize("name", LOCAL)
def test_receptive_radius_is_the_farthest_gradient(name):
    network = make(**LOCAL[name])
    radius, multiple = int(network.receptive_radius), network.multiple
    side = multiple * math.ceil((2 * radius + 3 * multiple) / multiple)
    x = torch.randn(1, 3, side, multiple, dtype=torch.float64, requires_grad=True)
    y = network(x, torch.zeros(1, dtype=torch.float64))
    start = multiple * (side // 2 // multiple)
    farthest = 0
    for row in range(start, start + multiple):
        (gradient,) = torch.autograd.grad(y[0, :, row].sum(), x, retain_graph=True)
        touched = gradient.abs().sum((0, 1, 3)).nonzero().flatten()
        assert len({0, side - 1} & set(touched.tolist())) == 0, "the test's picture must be larger than the reach"
        farthest = max(farthest, row - int(touched.min()), int(touched.max()) - row)
    # The bound holds, and it is attained: not one pixel of overlap is wasted.
    assert farthest == radius, name


@pytest.mark.parametrize("name", ["two levels", "patches of four"])
def test_a_crop_is_the_frame_beyond_the_radius(name):
    network = LowResConditioned(make(in_channels=6, **LOCAL[name]))
    randomise(network.double())
    factor, multiple = 4, max(4, network.network.multiple)
    radius = int(network.receptive_radius_for(factor))
    margin = multiple * math.ceil(radius / multiple)
    width, crop = 2 * margin + 6 * multiple, slice(2 * multiple, 2 * multiple + 2 * margin + 2 * multiple)
    g = torch.Generator().manual_seed(1)
    x = torch.randn(1, 3, 2 * multiple, width, generator=g, dtype=torch.float64)
    low = torch.randn(1, 3, 2 * multiple // factor, width // factor, generator=g, dtype=torch.float64)
    clock = torch.zeros(1, dtype=torch.float64)
    frame = network(x, clock, low_res=low, aug_log_snr=clock)[..., crop]
    low_crop = slice(crop.start // factor, crop.stop // factor)
    alone = network(x[..., crop], clock, low_res=low[..., low_crop], aug_log_snr=clock)
    inside = slice(radius, frame.shape[-1] - radius)
    assert frame[..., inside].numel() > 0
    torch.testing.assert_close(alone[..., inside], frame[..., inside], rtol=0, atol=1e-10)
    assert (alone - frame).abs().max() > 1e-3, "the borders differ, so the test sees a difference where there is one"


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_the_wrapper_adds_what_bicubic_reads(factor):
    network = make(in_channels=6, **LOCAL["one level"])
    added = LowResConditioned(network.float()).receptive_radius_for(factor) - network.receptive_radius
    low = torch.randn(1, 1, 1, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = upsample(low, (factor, 40 * factor))[..., 10 * factor : 30 * factor]
    differs = (whole - upsample(low[..., 10:30], (factor, 20 * factor))).abs().amax((0, 1, 2)) > 1e-12
    assert differs[: 10 * factor].nonzero().max() + 1 == added  # from the crop's left border
    assert differs[10 * factor :].flip(0).nonzero().max() + 1 == added


@pytest.mark.parametrize("stage", ["sr256", "sr1024"])
def test_the_shipped_sr_networks_agree_in_float32(stage):
    config = yaml.safe_load((CONF / f"network/efficient_{stage}.yaml").read_text(encoding="utf-8"))
    config |= {"channels": [8 for _ in config["channels"]], "embedding_dim": 8}  # only the widths are reduced
    network = randomise(build("low_res_input", {"name": "augmented"}, network=build("network", config, in_channels=6)))
    radius, multiple = int(network.receptive_radius_for(4)), network.network.multiple
    side = multiple * math.ceil((2 * radius + 16) / multiple)
    g = torch.Generator().manual_seed(1)
    x, low = (torch.randn(1, 3, s, s, generator=g) for s in (side + 32, side // 4 + 8))
    clocks = {"log_snr": torch.zeros(1), "aug_log_snr": torch.full((1,), 3.0)}
    with torch.no_grad():
        frame = network(x, low_res=low, **clocks)[..., 8 : 8 + side, 24 : 24 + side]
        crop = x[..., 8 : 8 + side, 24 : 24 + side]
        alone = network(crop, low_res=low[..., 2 : 2 + side // 4, 6 : 6 + side // 4], **clocks)
    difference, scale = (alone - frame).abs(), frame.abs().max()
    assert difference[..., radius : side - radius, radius : side - radius].max() < 1e-5 * scale
    assert difference.max() > 1e-3 * scale, "the borders differ, so the test sees a difference where there is one"


@pytest.mark.parametrize("config", [{"norm": "group"}, {"norm": "pixel", "attention": (False, True)}])
def test_global_statistics_reach_everywhere(config):
    config = {"channels": (16, 16), "blocks": (1, 1), "attention": (False, False), "head_channels": 8, **config}
    network = EfficientUNet(embedding_dim=8, patch=1, **config)
    assert network.receptive_radius == math.inf
    x = torch.randn(1, 3, 2, 128, generator=torch.Generator().manual_seed(0), requires_grad=True)
    randomise(network)(x, torch.zeros(1))[..., 0].sum().backward()
    assert x.grad[..., -1].abs().max() > 0
