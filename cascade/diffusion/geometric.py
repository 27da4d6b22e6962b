"""Non-leaky geometric augmentation of training images: the network is told what was done to each.

Karras et al. (2022), "Elucidating the Design Space", appendix F.2 and table 6. An image is moved with a small
probability, the parameters of the move go into `Condition.augment`, and sampling passes zeros: so the network learns
from moved images without ever generating one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


@dataclass(frozen=True)
class AugmentPipe:
    """Flips, turns, scales, rotations and translations, each with probability p·multiplier (at most 1; 0 = never).

        x_flip, y_flip     mirror, half of the time that it is chosen           feature: 1 if mirrored
        rotate_90          a turn by 0, 90, 180 or 270°, square images only     2 features: turn ∈ {1, 2}, turn ∈ {2, 3}
        scale              by 2^(scale_std·n)                                   n
        rotation           by θ ~ U(−π, π)                                      cos θ − 1, sin θ
        anisotropic_scale  by 2^(±anisotropic_std·n) along and across θ         n·cos θ, n·sin θ
        translation        by translation_std·(n₁, n₂) of width and height      n₁, n₂

    n are standard normal. Mirrors and turns permute pixels exactly; the rest is one bicubic resampling with reflected
    borders. An image that nothing happens to is returned bit for bit, with features exactly zero, and only then are all
    features zero. The defaults are EDM's without its vertical mirror; EDM mirrors always (x_flip=1e8).

    The caller draws `UNIFORMS` numbers in [0, 1) and `NORMALS` standard normals for each image, whatever is on.

    >>> pipe = AugmentPipe(p=0.12)
    >>> images, uniforms, normals = torch.rand(2, 3, 8, 8), torch.rand(2, pipe.UNIFORMS), torch.randn(2, pipe.NORMALS)
    >>> moved, features = pipe(images, uniforms, normals)
    >>> moved.shape, features.shape == (2, pipe.dim)
    (torch.Size([2, 3, 8, 8]), True)
    """

    p: float = 0.12
    x_flip: float = 1.0
    y_flip: float = 0.0
    rotate_90: float = 0.0
    scale: float = 1.0
    rotation: float = 1.0
    anisotropic_scale: float = 1.0
    translation: float = 1.0
    scale_std: float = 0.2
    anisotropic_std: float = 0.2
    translation_std: float = 0.125

    UNIFORMS = 12
    NORMALS = 4

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"p must lie in [0, 1], not {self.p}")
        for name in (*self._moves(), "scale_std", "anisotropic_std", "translation_std"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and not negative, not {getattr(self, name)}")

    @property
    def dim(self) -> int:
        """k, the number of features: those of the moves whose multiplier is not 0."""
        return sum(width for name, width in self._moves().items() if getattr(self, name) > 0)

    @staticmethod
    def _moves() -> dict[str, int]:
        # In the order of their gates in `uniforms` and of their features.
        return {
            "x_flip": 1,
            "y_flip": 1,
            "rotate_90": 2,
            "scale": 1,
            "rotation": 2,
            "anisotropic_scale": 2,
            "translation": 2,
        }

    def __call__(self, images: Tensor, uniforms: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Return the moved images (B, C, H, W) and their features (B, k).

        uniforms (B, UNIFORMS): a gate for each move, then the values of x_flip, y_flip, rotate_90, rotation and
        anisotropic_scale. normals (B, NORMALS): scale, anisotropic_scale, translation in x and y.
        """
        count, _, height, width = images.shape
        if uniforms.shape != (count, self.UNIFORMS) or normals.shape != (count, self.NORMALS):
            raise ValueError(
                f"need uniforms {(count, self.UNIFORMS)} and normals {(count, self.NORMALS)}, not "
                f"{tuple(uniforms.shape)} and {tuple(normals.shape)}"
            )
        if self.rotate_90 > 0 and height != width:
            raise ValueError(f"rotate_90 needs square images, not {height}×{width}")
        uniforms, normals = uniforms.to(images), normals.to(images)
        names = list(self._moves())
        # gate[name] is 1 for the images that the move is chosen for.
        gate = {name: (uniforms[:, i] < self.p * getattr(self, name)).to(images) for i, name in enumerate(names)}
        value = uniforms[:, len(names) :]

        mirror_x, mirror_y = (gate[name] * (value[:, i] >= 0.5) for i, name in enumerate(("x_flip", "y_flip")))
        turn = gate["rotate_90"] * (value[:, 2] * 4).floor().clamp(max=3)
        stretch, lengthen = gate["scale"] * normals[:, 0], gate["anisotropic_scale"] * normals[:, 1]
        angle, direction = (gate["rotation"] * (2 * value[:, 3] - 1) * math.pi, (2 * value[:, 4] - 1) * math.pi)
        away = gate["translation"][:, None] * normals[:, 2:]

        features = {
            "x_flip": [mirror_x],
            "y_flip": [mirror_y],
            "rotate_90": [((turn == 1) | (turn == 2)).to(images), ((turn == 2) | (turn == 3)).to(images)],
            "scale": [stretch],
            "rotation": [angle.cos() - 1, angle.sin()],
            "anisotropic_scale": [lengthen * direction.cos(), lengthen * direction.sin()],
            "translation": [away[:, 0], away[:, 1]],
        }
        told = [feature for name in names if getattr(self, name) > 0 for feature in features[name]]

        images = _where(mirror_x == 1, images, lambda x: x.flip(3))
        images = _where(mirror_y == 1, images, lambda x: x.flip(2))
        for quarter in (1, 2, 3):
            images = _where(turn == quarter, images, lambda x, k=quarter: x.rot90(k, (2, 3)))
        # Output position → input position, both in pixels from the centre: S⁻¹·R⁻¹·A⁻¹ and then the translation.
        factor = torch.exp2(-self.scale_std * stretch)[:, None, None]
        along = torch.exp2(-self.anisotropic_std * lengthen)
        inverse = factor * _turn_back(angle) @ _turn_back(-direction) @ _diagonal(along, 1 / along)
        inverse = inverse @ _turn_back(direction)
        shift = away * self.translation_std * images.new_tensor([width, height])
        moved = (stretch != 0) | (angle != 0) | (lengthen != 0) | (away != 0).any(1)
        images = _where(moved, images, lambda x: _resample(x, inverse, shift))
        return images, torch.stack(told, 1) if told else images.new_zeros(count, 0)


def _where(chosen: Tensor, images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    # Most images are left alone: nothing is computed when all are.
    return torch.where(chosen[:, None, None, None], change(images), images) if bool(chosen.any()) else images


def _turn_back(angle: Tensor) -> Tensor:
    # The inverse of a counter-clockwise turn as seen on the screen, where y points down: (B, 2, 2).
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)


def _diagonal(first: Tensor, second: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([first, second], 1))


def _resample(images: Tensor, inverse: Tensor, shift: Tensor) -> Tensor:
    # affine_grid measures x in half widths and y in half heights, hence the change of units.
    half = images.new_tensor([images.shape[3] / 2, images.shape[2] / 2])
    offset = -(inverse @ shift[:, :, None])
    theta = torch.cat([inverse * half[None, None, :], offset], 2) / half[None, :, None]
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    return grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
