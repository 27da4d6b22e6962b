"""The augmentation pipe moves what it says, says what it moves, and leaves the rest alone bit for bit."""

import math

import pytest
import torch
from torch.testing import assert_close

from cascade.diffusion import AugmentPipe

GATES = {
    name: i
    for i, name in enumerate(("x_flip", "y_flip", "rotate_90", "scale", "rotation", "anisotropic_scale", "translation"))
}
VALUES = {"x_flip": 7, "y_flip": 8, "rotate_90": 9, "rotation": 10, "anisotropic_scale": 11}
SIZE = 48
EVERYTHING = dict.fromkeys(GATES, 1.0)


def only(**multipliers):
    return AugmentPipe(p=1.0, **{**dict.fromkeys(GATES, 0.0), **multipliers})


def draws(count, values=None, normals=None):
    """Uniform numbers with every gate open and the given values; normals as given."""
    u, n = torch.zeros(count, AugmentPipe.UNIFORMS), torch.zeros(count, AugmentPipe.NORMALS)
    for name, value in (values or {}).items():
        u[:, VALUES[name]] = value
    for i, value in (normals or {}).items():
        n[:, i] = value
    return u.double(), n.double()


def coordinates(size=SIZE):
    centred = torch.arange(size, dtype=torch.float64) + 0.5 - size / 2
    y, x = torch.meshgrid(centred, centred, indexing="ij")
    return torch.stack([x, y])


def blob(x, y):
    """A smooth lopsided picture in pixels from the centre; no symmetry would hide a wrong sign."""
    return torch.exp(-((x - 4) ** 2) / 60 - ((y + 3) ** 2) / 25) + 0.5 * torch.exp(-((x + 7) ** 2 + (y - 2) ** 2) / 18)


def picture():
    return blob(*coordinates())[None, None].expand(1, 3, SIZE, SIZE)


def moved_picture(matrix, shift=(0.0, 0.0)):
    """The picture with each point p taken to matrix·p + shift, from the formula of the blob itself."""
    place = coordinates().flatten(1) - torch.tensor(shift, dtype=torch.float64)[:, None]
    source = torch.linalg.inv(matrix) @ place
    return blob(*source).reshape(1, 1, SIZE, SIZE).expand(1, 3, SIZE, SIZE)


def turn(angle):
    # Counter-clockwise on the screen, where y points down.
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)


def close(actual, expected, tolerance=0.03):
    # torch's bicubic kernel (a = −0.75) misplaces a slope by up to 0.05 pixels; a wrong move is ten times that.
    assert float((actual - expected).abs().max()) < tolerance


def test_closed_gates_are_the_identity_bit_for_bit_with_zero_features():
    images = torch.randn(4, 3, 8, 8)
    uniforms, normals = torch.rand(4, AugmentPipe.UNIFORMS), torch.randn(4, AugmentPipe.NORMALS)
    uniforms[:, : len(GATES)] = 0.12
    moved, features = AugmentPipe(p=0.12, y_flip=1.0, rotate_90=1.0)(images, uniforms, normals)
    assert torch.equal(moved, images)
    assert torch.equal(features, torch.zeros(4, 11))


def test_an_image_is_moved_exactly_when_its_features_say_so():
    generator = torch.Generator().manual_seed(1)
    pipe = AugmentPipe(p=0.12, y_flip=1.0, rotate_90=1.0)
    images = torch.randn(400, 1, 6, 6, generator=generator)
    uniforms = torch.rand(400, pipe.UNIFORMS, generator=generator)
    normals = torch.randn(400, pipe.NORMALS, generator=generator)
    moved, features = pipe(images, uniforms, normals)
    changed = (moved != images).flatten(1).any(1)
    assert torch.equal(changed, (features != 0).any(1))
    assert features.shape == (400, pipe.dim)
    # Non-leaky: the share left alone is that of the gates, 0.88⁴·(1 − 0.06)²·(1 − 0.09) ≈ 0.48.
    assert 0.42 < float(changed.logical_not().float().mean()) < 0.55


def test_each_image_is_moved_by_its_own_numbers():
    generator = torch.Generator().manual_seed(2)
    pipe = AugmentPipe(p=0.5, **EVERYTHING)
    images = torch.rand(6, 3, 16, 16, generator=generator, dtype=torch.float64)
    uniforms = torch.rand(6, pipe.UNIFORMS, generator=generator)
    normals = torch.randn(6, pipe.NORMALS, generator=generator)
    together, features = pipe(images, uniforms, normals)
    for i in range(6):
        one = slice(i, i + 1)
        alone, told = pipe(images[one], uniforms[one], normals[one])
        assert_close(alone, together[one], rtol=1e-12, atol=1e-12)
        assert_close(told, features[one])


def test_mirrors_and_turns_permute_pixels_exactly():
    images = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    for value, mirrored in ((0.49, False), (0.5, True)):
        moved, told = only(x_flip=1.0)(images, *draws(1, {"x_flip": value}))
        assert torch.equal(moved, images.flip(3) if mirrored else images)
        assert told.tolist() == [[float(mirrored)]]
        moved, told = only(y_flip=1.0)(images, *draws(1, {"y_flip": value}))
        assert torch.equal(moved, images.flip(2) if mirrored else images)
        assert told.tolist() == [[float(mirrored)]]
    told_of_turn = []
    for quarter in range(4):
        moved, told = only(rotate_90=1.0)(images, *draws(1, {"rotate_90": quarter / 4 + 0.1}))
        assert torch.equal(moved, images.rot90(quarter, (2, 3)))
        told_of_turn.append(tuple(told[0].tolist()))
    assert told_of_turn == [(0, 0), (1, 0), (1, 1), (0, 1)]


@pytest.mark.parametrize("quarter", [-1, 1])
def test_rotation_by_a_right_angle_is_the_exact_turn(quarter):
    images = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    moved, told = only(rotation=1.0)(images, *draws(1, {"rotation": 0.5 + quarter / 4}))
    assert_close(moved, images.rot90(quarter, (2, 3)), rtol=1e-12, atol=1e-12)
    assert_close(told, torch.tensor([[-1.0, quarter]], dtype=torch.float64))


@pytest.mark.parametrize("angle", [-2.0, 0.3, 1.1])
def test_rotation_turns_the_picture_by_its_angle(angle):
    moved, told = only(rotation=1.0)(picture(), *draws(1, {"rotation": (angle / math.pi + 1) / 2}))
    close(moved, moved_picture(turn(angle)))
    assert_close(told, torch.tensor([[math.cos(angle) - 1, math.sin(angle)]]).double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n", [-1.5, 2.0])
def test_scale_enlarges_by_two_to_the_std(n):
    moved, told = only(scale=1.0)(picture(), *draws(1, normals={0: n}))
    close(moved, moved_picture(torch.eye(2).double() * 2 ** (0.2 * n)))
    assert told.tolist() == [[n]]


@pytest.mark.parametrize(("n", "direction"), [(1.5, 0.0), (1.5, 0.9), (-2.0, -2.2)])
def test_anisotropic_scale_stretches_along_its_direction_and_keeps_the_area(n, direction):
    pipe = only(anisotropic_scale=1.0)
    moved, told = pipe(picture(), *draws(1, {"anisotropic_scale": (direction / math.pi + 1) / 2}, {1: n}))
    stretch = torch.diag(torch.tensor([2 ** (0.2 * n), 2 ** (-0.2 * n)], dtype=torch.float64))
    close(moved, moved_picture(turn(direction) @ stretch @ turn(-direction)))
    assert_close(told, n * torch.tensor([[math.cos(direction), math.sin(direction)]]).double(), rtol=1e-6, atol=1e-6)


def test_translation_moves_right_and_down_by_its_share_of_the_size():
    images = torch.randn(1, 3, 8, 16, dtype=torch.float64)
    # 0.125·(1, −2) of 16×8 pixels is 2 to the right and 2 up.
    moved, told = only(translation=1.0)(images, *draws(1, normals={2: 1.0, 3: -2.0}))
    assert told.tolist() == [[1.0, -2.0]]
    assert_close(moved[..., :-2, 2:], images[..., 2:, :-2], rtol=1e-12, atol=1e-12)
    # The border is a mirror: what comes in is the picture reflected in its edge.
    assert_close(moved[..., :-2, :2], images[..., 2:, :2].flip(3), rtol=1e-12, atol=1e-12)


def test_moves_are_applied_in_the_order_scale_rotation_stretch_translation():
    values, normals = {"rotation": 0.6, "anisotropic_scale": 0.7}, {0: 1.0, 1: -1.0, 2: 0.5, 3: -0.4}
    pipe = only(scale=1.0, rotation=1.0, anisotropic_scale=1.0, translation=1.0)
    moved, told = pipe(picture(), *draws(1, values, normals))
    angle, direction = 0.2 * math.pi, 0.4 * math.pi
    stretch = torch.diag(torch.tensor([2**-0.2, 2**0.2], dtype=torch.float64))
    matrix = turn(direction) @ stretch @ turn(-direction) @ turn(angle) * 2**0.2
    close(moved, moved_picture(matrix, (0.125 * 0.5 * SIZE, -0.125 * 0.4 * SIZE)))
    assert told.shape == (1, pipe.dim) == (1, 7)


def test_switching_a_move_off_leaves_the_numbers_of_the_others():
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(8, 3, 8, 8, generator=generator)
    uniforms, normals = torch.rand(8, 12, generator=generator), torch.randn(8, 4, generator=generator)
    _, all_told = AugmentPipe(p=0.5, **EVERYTHING)(images, uniforms, normals)
    _, told = AugmentPipe(p=0.5, **{**EVERYTHING, "rotate_90": 0.0, "scale": 0.0})(images, uniforms, normals)
    assert torch.equal(told, all_told[:, [0, 1, 5, 6, 7, 8, 9, 10]])


def test_edms_pipe_has_nine_features():
    # Mirror, vertical mirror, scale, rotation, anisotropic scale, translation: augment_dim = 9 for CIFAR-10.
    edm = AugmentPipe(p=0.12, x_flip=1e8, y_flip=1.0)
    assert edm.dim == 9
    assert AugmentPipe().dim == 8
    assert AugmentPipe().p == 0.12
    _, told = edm(torch.rand(1, 3, 4, 4), torch.full((1, 12), 0.99), torch.zeros(1, 4))
    assert told[0].tolist() == [1.0] + [0.0] * 8


def test_nothing_switched_on_is_the_identity_without_features():
    images = torch.rand(2, 3, 4, 4)
    moved, told = only()(images, torch.zeros(2, 12), torch.ones(2, 4))
    assert moved is images
    assert told.shape == (2, 0)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\], not 1.5"):
        AugmentPipe(p=1.5)
    with pytest.raises(ValueError, match="rotation must be finite and not negative, not -1"):
        AugmentPipe(rotation=-1)
    with pytest.raises(ValueError, match="need uniforms"):
        AugmentPipe()(torch.rand(2, 3, 4, 4), torch.rand(2, 3), torch.randn(2, 4))
    with pytest.raises(ValueError, match="square"):
        AugmentPipe(rotate_90=1.0)(torch.rand(2, 3, 4, 6), torch.rand(2, 12), torch.randn(2, 4))
