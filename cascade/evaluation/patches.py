"""Features of patches: of a picture of 1024 px, what a feature network that sees 299 px would shrink away."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from cascade.errors import CascadeError
from cascade.evaluation.features import Features
from cascade.evaluation.figures import Figure, common_to, frechet_figure, names_of
from cascade.evaluation.frechet import frechet_distance
from cascade.evaluation.jackknife import Estimate
from cascade.evaluation.kernel import kernel_estimate
from cascade.evaluation.statistics import statistics_of
from cascade.rng import permutation

SIDE = 128
"""Pixels of a patch's side."""
_KERNEL_ROWS = 4096  # patches of a subset of the kernel distance
_GROUPS = 10  # of pictures that are left out in turn


def cut_patches(images: Tensor, side: int = SIDE) -> Tensor:
    """Cut uint8 pictures (B, 3, H, W) into patches that do not overlap: (B·k, 3, side, side), k = ⌊H/side⌋·⌊W/side⌋.

    Row by row of each picture in turn; what is left over at the borders is half on either side. Raises CascadeError for
    pictures smaller than a patch.

    >>> picture = torch.arange(16).reshape(1, 1, 4, 4).expand(1, 3, 4, 4).to(torch.uint8)
    >>> cut_patches(picture, 2)[:, 0].flatten(1).tolist()
    [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise CascadeError(f"expected uint8 pictures (B, 3, H, W), not {images.dtype} {tuple(images.shape)}")
    height, width = images.shape[-2:]
    rows, columns = patches_along(height, side), patches_along(width, side)
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    inner = images[..., top : top + rows * side, left : left + columns * side]
    parts = inner.unflatten(-2, (rows, side)).unflatten(-1, (columns, side))
    return parts.permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, side, side)


def patches_along(length: int, side: int) -> int:
    """How many patches lie beside each other; raises CascadeError where there is not one.

    >>> patches_along(1024, 128), patches_along(300, 128)
    (8, 2)
    """
    if not 1 <= side <= length:
        raise CascadeError(f"a picture of {length} px has no patches of {side} px")
    return length // side


class PatchFeatures:
    """The features of each patch of a picture: uint8 (B, 3, H, W) to (B·k, d), those of a picture one after another.

    Of pictures with more than `most` patches, those at `most` places chosen by `seed` are looked at, the same places in
    all pictures. It is `Features` in all but the number of rows, so `measure` takes it.

    >>> from cascade.evaluation.tiny import tiny_features
    >>> features = PatchFeatures(tiny_features(), side=8)
    >>> features(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape, features.resize
    (torch.Size([8, 32]), 'patches of 8 px, bilinear_antialias to 32 px')
    """

    def __init__(self, features: Features, side: int = SIDE, most: int | None = None, seed: int = 0) -> None:
        self.name, self.dim, self.sha256 = features.name, features.dim, features.sha256
        self.resize = f"patches of {side} px, {features.resize}"
        self._features, self._side, self._most, self._seed = features, side, most, seed

    @property
    def choice(self) -> Mapping[str, int | None]:
        """Which patches of a picture are looked at, beside the size: what a row depends on that no name says."""
        return {"most": self._most, "seed": self._seed}

    def __call__(self, images: Tensor) -> Tensor:
        """Return the features, those of a picture one after another; the network's calls are full ones."""
        patches = cut_patches(images, self._side)
        each = len(patches) // max(1, len(images))
        if self._most is not None and each > self._most:
            places = permutation("evaluation", "patches", self._seed, size=each)[: self._most].sort().values
            patches = patches.unflatten(0, (len(images), each))[:, places].flatten(0, 1)
        return self._features(patches)


class PatchDistance(NamedTuple):
    """A distance of patches as a figure, and as an estimate, whose quotients and differences know their errors.

    >>> PatchDistance(Figure("patch-KID", 0.1, num_images=3, resize="none"), Estimate(0.1)).figure.value
    0.1
    """

    figure: Figure
    estimate: Estimate


def patch_distances(
    generated: Tensor,
    reference: Tensor,
    features: PatchFeatures,
    *,
    pictures: int,
    seed: int,
    allow_few_images: bool = False,
    paired: bool = False,
) -> tuple[list[PatchDistance], list[str]]:
    """The Fréchet and the kernel distance of patches, and a line for each one left out.

    `generated` (N, d) and `reference` (M, d) are what `features` gave, `pictures` the number of pictures that the N are
    of. The kernel distance is that of pictures, each the set of its patches, and with `paired` of pictures that were
    made from the reference's: both are then unbiased, and the error is right (`kernel_distance`).

    The Fréchet distance takes all patches as one set, and is biased as one of fewer: those of a picture are like one
    another. So there must be as many pictures as else, and with `paired` a jackknife over them (in ten groups at most,
    Shao & Tu 1995, "The Jackknife and Bootstrap", Section 2.3) gives its error and, in `details`, its bias.
    Raises CascadeError for rows that are no whole pictures, and with fewer than 3 pictures on a side.

    >>> from cascade.evaluation.tiny import tiny_features
    >>> rows = torch.eye(32).repeat(2, 1)
    >>> (kernel,), left_out = patch_distances(rows, rows, PatchFeatures(tiny_features()), pictures=16, seed=0)
    >>> kernel.figure.name, kernel.figure.num_images, kernel.figure.patches, left_out[0][:53]
    ('patch-KID-tiny', 16, 4, 'no FD-tiny: 16 pictures (of 4 patches each, which are')
    """
    if pictures < 1 or len(generated) % pictures or len(reference) % (len(generated) // pictures):
        raise CascadeError(f"{len(generated)} and {len(reference)} patches are not those of {pictures} pictures")
    each = len(generated) // pictures
    others = len(reference) // each
    if min(pictures, others) < 3:
        raise CascadeError(
            f"patches of {min(pictures, others)} pictures are too few to compare; 3 on each side are the least"
        )
    found = []
    figure, line = frechet_figure(
        statistics_of(generated), statistics_of(reference), features, allow_few_images=allow_few_images, each=each
    )
    if figure is not None:
        estimate = Estimate(figure.value)
        if paired:
            estimate = _frechet_estimate(figure.value, generated, reference, each, seed)
            figure = replace(figure, details={**figure.details, "bias": estimate.bias})
        found.append(_of_patches(figure, estimate, each))
    kernel = kernel_estimate(generated, reference, group=each, paired=paired, subsets=(seed, _KERNEL_ROWS))
    figure = Figure(names_of(features)[1], kernel.value, **common_to(features, pictures, others))
    found.append(_of_patches(figure, kernel, each))
    return found, [] if line is None else [line]


def _of_patches(figure: Figure, estimate: Estimate, each: int) -> PatchDistance:
    error = estimate.standard_error if estimate.moved else None
    return PatchDistance(replace(figure, name=f"patch-{figure.name}", standard_error=error, patches=each), estimate)


def _frechet_estimate(value: float, generated: Tensor, reference: Tensor, each: int, seed: int) -> Estimate:
    """The Fréchet distance, and what it is without some of the pictures, on both sides the same."""
    x, y = (rows.unflatten(0, (-1, each)) for rows in (generated, reference))
    without = []
    for left_out in permutation("evaluation", "patch groups", seed, size=len(x)).tensor_split(min(len(x), _GROUPS)):
        kept = torch.ones(len(x), dtype=torch.bool)
        kept[left_out] = False
        ours, theirs = (statistics_of(pictures[kept].flatten(0, 1)) for pictures in (x, y))
        without.append(frechet_distance(ours.mean, ours.covariance, theirs.mean, theirs.covariance))
    return Estimate(value, {"groups of pictures": torch.tensor(without, dtype=torch.float64) - value})
