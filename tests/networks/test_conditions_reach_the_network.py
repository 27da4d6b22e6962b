"""What a network is told, and what it refuses to be told."""

import math

import pytest
import torch
import torch.nn.functional as F

from cascade.errors import CascadeError
from cascade.networks import BaseNetwork, EfficientUNet, LowResConcatenated, LowResConditioned
from cascade.networks.embedding import NoiseFeatures

SMALL = {
    "patch": 2,
    "channels": (16, 32),
    "blocks": (1, 1),
    "attention": (False, True),
    "head_channels": 16,
    "embedding_dim": 16,
}


def randomise(network):
    g = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=g)
    return network


def network(**config):
    return randomise(EfficientUNet(**{**SMALL, **config}))


def picture(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def conditioned():
    return randomise(LowResConditioned(EfficientUNet(in_channels=6, num_classes=3, **SMALL)))


X, CLOCK = picture(3, 3, 8, 12), torch.tensor([-3.0, 0.0, 5.0])
LOW = picture(3, 3, 2, 3)


def test_none_minus_one_and_num_classes_are_the_null_label():
    labelled = network(num_classes=4)
    null = labelled(X, CLOCK)
    for label in (-1, 4):
        assert torch.equal(labelled(X, CLOCK, torch.full((3,), label)), null)
    for label in range(4):
        assert not torch.allclose(labelled(X, CLOCK, torch.full((3,), label)), null)


@pytest.mark.parametrize("label", [-2, 5, 100])
def test_a_class_out_of_range_is_refused(label):
    with pytest.raises(CascadeError, match=f"no class {label}; classes are 0 to 3"):
        network(num_classes=4)(X, CLOCK, torch.tensor([0, label, 1]))


def test_an_unlabelled_network_takes_no_label():
    with pytest.raises(CascadeError, match="no classes"):
        network()(X, CLOCK, torch.tensor([0, 1, -1]))


def test_zero_augmentation_is_none():
    augmented = network(augment_dim=5)
    assert torch.equal(augmented(X, CLOCK, augment=torch.zeros(3, 5)), augmented(X, CLOCK))
    assert not torch.allclose(augmented(X, CLOCK, augment=torch.ones(3, 5)), augmented(X, CLOCK))
    with pytest.raises(CascadeError, match="takes 5"):
        augmented(X, CLOCK, augment=torch.zeros(3, 4))
    with pytest.raises(CascadeError, match="takes 0"):
        network()(X, CLOCK, augment=torch.zeros(3, 4))


@pytest.mark.parametrize("size", [(8, 10), (6, 8), (7, 8)])
def test_a_size_that_does_not_fit_names_the_multiple(size):
    with pytest.raises(CascadeError, match="multiples of 4"):
        network()(torch.zeros(1, 3, *size), torch.zeros(1))


def test_noise_features_are_finite_and_tell_all_levels_apart():
    clock = torch.cat([torch.tensor([-torch.inf]), torch.linspace(-19.5, 19.5, 79), torch.tensor([torch.inf])])
    features = NoiseFeatures()(clock)
    assert features.isfinite().all()
    # Half a unit of λ is seen everywhere, at the flat ends of the arc tangent too.
    assert (features[1:] - features[:-1]).norm(dim=1).min() > 0.1 * features.norm(dim=1).mean()
    assert NoiseFeatures()(clock.double()).dtype == torch.float64
    assert NoiseFeatures()(clock.bfloat16()).dtype == torch.float32


def test_noise_features_read_the_arc_tangent_and_the_clamped_clock():
    clock = torch.tensor([-torch.inf, -30.0, -3.0, 0.0, 5.0, torch.inf], dtype=torch.float64)
    angle = torch.atan((-clock / 2).exp()) * 2 / math.pi
    line = torch.tensor([-0.5, -0.5, -3 / 40, 0.0, 5 / 40, 0.5], dtype=torch.float64)
    assert angle[[0, 3, 5]].tolist() == pytest.approx([1, 0.5, 0])
    ramp = torch.tensor([0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0], dtype=torch.float64)
    phases = 2 * math.pi * torch.stack([angle, line], 1)[:, :, None] * ramp
    want = torch.cat([phases.cos(), phases.sin()], 2).flatten(1)
    torch.testing.assert_close(NoiseFeatures(7)(clock), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("clean", [torch.inf, None])
def test_no_augmentation_is_a_clean_level(clean):
    sr = conditioned()
    level = None if clean is None else torch.full((3,), clean)
    y = sr(X, CLOCK, low_res=LOW, aug_log_snr=level)
    assert y.isfinite().all()
    assert torch.equal(y, sr(X, CLOCK, low_res=LOW, aug_log_snr=torch.full((3,), torch.inf)))


def test_augmentation_level_acts_through_its_embedding_and_the_gates_only():
    sr = conditioned()
    levels = torch.tensor([0.0, 2.0, torch.inf])
    assert not torch.allclose(sr(X, CLOCK, low_res=LOW, aug_log_snr=levels), sr(X, CLOCK, low_res=LOW))
    for layer in (sr.aug_embedding.layers[-1], sr.gates[-1]):
        layer.weight.data.zero_()
    assert torch.equal(sr(X, CLOCK, low_res=LOW, aug_log_snr=levels), sr(X, CLOCK, low_res=LOW))


def test_gates_add_x_and_the_upsampled_picture():
    sr = LowResConditioned(EfficientUNet(in_channels=6, out_channels=6, **SMALL))
    assert sr(X, CLOCK, low_res=LOW).eq(0).all(), "before training the network says nothing"
    sr.gates[-1].bias.data = torch.tensor([0.5, -2.0])
    up = torch.nn.functional.interpolate(LOW, scale_factor=4, mode="bicubic")
    y = sr(X, CLOCK, low_res=LOW)
    torch.testing.assert_close(y[:, :3], 0.5 * X - 2.0 * up)
    assert y[:, 3:].eq(0).all()


def test_each_adapter_refuses_the_other_stage():
    base = BaseNetwork(network())
    with pytest.raises(CascadeError, match="noise alone"):
        base(X, CLOCK, low_res=LOW)
    with pytest.raises(CascadeError, match="noise alone"):
        base(X, CLOCK, aug_log_snr=CLOCK)
    with pytest.raises(CascadeError, match="low_res must be given"):
        conditioned()(X, CLOCK)
    with pytest.raises(CascadeError, match="whole factor"):
        conditioned()(X, CLOCK, low_res=picture(3, 3, 3, 3))
    with pytest.raises(CascadeError, match="reads 3 channels"):
        LowResConditioned(network())(X, CLOCK, low_res=LOW)
    assert torch.equal(base(X, CLOCK), network()(X, CLOCK))


def test_a_concatenated_picture_is_told_no_level():
    label = torch.tensor([0, 2, -1])
    network = randomise(LowResConcatenated(EfficientUNet(in_channels=6, num_classes=3, **SMALL)))
    clean = network(X, CLOCK, label, low_res=LOW, aug_log_snr=torch.full((3,), torch.inf))
    up = F.interpolate(LOW, X.shape[-2:], mode="bilinear", align_corners=False)
    assert torch.equal(clean, network.network(torch.cat([X, up], 1), CLOCK, label=label))
    assert torch.equal(clean, network(X, CLOCK, label, low_res=LOW))
    with pytest.raises(CascadeError, match="aug_log_snr must be inf"):
        network(X, CLOCK, label, low_res=LOW, aug_log_snr=torch.tensor([torch.inf, 3.0, torch.inf]))
    with pytest.raises(CascadeError, match="low_res must be given"):
        network(X, CLOCK, label)
