"""Named protocols: their resizing against the libraries' own, what they demand, and figures over ranges of seeds."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cascade.errors import CascadeError
from cascade.evaluation.figures import Figure, over_ranges
from cascade.evaluation.random_network import random_features
from cascade.evaluation.resize import RULES, Resize, bicubic
from cascade.evaluation.tiny import tiny_features
from cascade.protocol import adm, balance, clean, own, torchmetrics_default
from cascade.rng import generator


def pictures(count=3, side=40):
    return torch.randint(0, 256, (count, 3, side, side), generator=generator("protocols", side), dtype=torch.uint8)


@pytest.mark.parametrize("size", [17, 40, 299])
def test_clean_is_pillows_bicubic_of_each_channel_in_float32(size):
    images = pictures()
    found = Resize(clean().resize, size)(images)
    for image, mine in zip(images.numpy(), found, strict=True):
        for channel, own_channel in zip(image, mine, strict=True):
            plane = Image.fromarray(channel.astype(np.float32))
            expected = np.asarray(plane.resize((size, size), Image.Resampling.BICUBIC)).clip(0, 255)
            np.testing.assert_array_equal(own_channel.numpy(), expected)
    assert (found.min(), found.max()) == (0, 255) or size == 17
    assert found.dtype == torch.float32


@pytest.mark.parametrize("side", [17, 64, 299, 400])
def test_adm_is_tensorflow_1s_bilinear(side):
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    images = pictures(2, side)
    expected = interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(299, 299), align_corners=False)
    torch.testing.assert_close(Resize(adm().resize, 299)(images), expected, atol=2e-4, rtol=0)


def test_torchmetrics_is_its_own_default():
    from torchmetrics.image.fid import FrechetInceptionDistance

    assert inspect.signature(FrechetInceptionDistance).parameters["antialias"].default is True
    images = pictures(2)
    expected = torch.nn.functional.interpolate(images.float(), (299, 299), mode="bilinear", antialias=True)
    assert torch.equal(Resize(torchmetrics_default().resize, 299)(images), expected)


def test_every_protocol_has_a_rule_of_its_own_and_refuses_another():
    rules = [protocol.resize for protocol in (adm(), torchmetrics_default(), clean())]
    assert len(set(rules)) == 3
    assert set(rules) <= set(RULES)
    for protocol in (adm(), torchmetrics_default(), clean()):
        assert protocol.check_rule(None) == protocol.check_rule(protocol.resize) == protocol.resize
        with pytest.raises(CascadeError, match=f"protocol={protocol.name} resizes by"):
            protocol.check_rule("another")
    assert own().check_rule(None) is None
    assert own().check_rule("bilinear_tf1") == "bilinear_tf1"


def test_adm_wants_every_class_equally_often():
    adm().check_classes(["hat", "dress"] * 3)
    for protocol in (own(), clean(), torchmetrics_default()):
        protocol.check_classes(["hat", None])
    with pytest.raises(CascadeError, match="3 pictures of 'hat' and 2 of 'dress'"):
        adm().check_classes(["hat", "dress", "hat", "dress", "hat"])
    adm().check_classes(["hat", "dress"], ["dress", "hat"])
    with pytest.raises(CascadeError, match=r"2 pictures of 'hat' and 0 of 'dress'; .* a multiple of its 2 classes"):
        adm().check_classes(["hat", "hat"], ["hat", "dress"])
    for unknown in ([], ["hat", None]):
        with pytest.raises(CascadeError, match="have no classes"):
            adm().check_classes(unknown)
    assert balance(["hat", "dress", "hat"]) == {"classes": 2, "fewest": 1, "most": 2, "without": 0}


def test_bicubic_keeps_a_constant_and_undoes_nothing_below_nyquist():
    ramp = torch.linspace(40, 200, 32).expand(1, 3, 32, 32)
    large = bicubic(ramp, 128)
    places = (torch.arange(128) + 0.5) / 4 - 0.5
    inside = slice(12, 116)  # a cubic kernel reproduces a line, but for the borders
    expected = 40 + places * (160 / 31)
    torch.testing.assert_close(large[0, 0, 64, inside], expected[inside], atol=1e-3, rtol=0)


def test_ranges_of_seeds_have_a_mean_a_spread_and_each_value():
    one = Figure("FID", 1.0, num_images=50, resize="none", standard_error=3.0, details={"torchmetrics": 1.0})
    ranges = [
        [replace(one, value=value, standard_error=error)] for value, error in ((1.0, 3.0), (2.0, 4.0), (6.0, 5.0))
    ]
    (figure,) = over_ranges(ranges)
    assert (figure.value, figure.values) == (3.0, (1.0, 2.0, 6.0))
    assert figure.spread == pytest.approx(7**0.5)  # (4 + 1 + 9)/2
    assert figure.standard_error == pytest.approx((50 / 3) ** 0.5)
    assert over_ranges([[one]]) == [one]


def test_a_random_network_is_a_function_of_its_seed_and_sees_detail():
    first, again, other = random_features(), random_features(batch=3), random_features(seed=1)
    images = pictures(5, 128)
    assert torch.equal(first(images), again(images).clone()) or torch.allclose(first(images), again(images), rtol=1e-5)
    assert (first.name, other.name) == ("random-0", "random-1")
    assert first.sha256 == again.sha256 != other.sha256
    # The signal keeps its size through the layers, and each layer tells pictures from their blurred versions.
    blurred = bicubic(bicubic(images.float(), 16), 128).clamp(0, 255).byte()
    layers = (first(images) - first(blurred)).split([32, 32, 64, 64, 64], 1)
    sizes = first(images).split([32, 32, 64, 64, 64], 1)
    assert all(layer.abs().max() > 0.01 for layer in layers)
    assert all(0.05 < size.mean() < 2 for size in sizes)


@pytest.mark.parametrize("make", [tiny_features, random_features])
def test_metrics_stay_in_evaluation_mode_and_float32_outside_any_module_tree(make):
    from cascade.evaluation.precision_recall_metric import PrecisionRecallMetric

    features = make()
    images = pictures(12, 32)
    before = features(images)

    class Parent(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.features = features
            self.metric = PrecisionRecallMetric(features, k=2)

    parent = Parent().train().half()
    assert list(parent.parameters()) == []
    assert dict(parent.state_dict()) == {}
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
        assert torch.equal(features(images), before)
    assert not features(images).requires_grad
    parent.metric.set_dtype(torch.float16)
    for part, real in ((images[:5], True), (images[5:6], False), (images[6:], False)):
        parent.metric.update(part, real=real)
    assert all(row.dtype == torch.float32 for row in [*parent.metric.real, *parent.metric.fake])
    assert torch.equal(torch.cat(parent.metric.fake), before[5:])
