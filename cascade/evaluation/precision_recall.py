"""Fidelity and diversity apart: precision and recall between two manifolds of nearest neighbours."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cascade.errors import CascadeError

_BLOCK = 1024  # rows of the distance matrix that are in memory at once
_ROUNDING = 1e-12  # of |a|² + |b|²: a point lies on its own ball although a·a rounds otherwise than |a|²


class PrecisionRecall(NamedTuple):
    """Both in [0, 1]: precision is fidelity, recall is diversity.

    >>> PrecisionRecall(precision=0.9, recall=0.4).recall
    0.4
    """

    precision: float
    recall: float


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Share of fake features inside the real manifold (precision), and of real ones inside the fake one (recall).

    A manifold is the union of the balls around each of its features (N, d) that reach to the k-th nearest other one.
    Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models", Eq. 1 and 2.
    In float64, block by block: memory grows with N, not with N². Raises CascadeError unless 1 ≤ k < N on both sides.

    >>> line = torch.arange(8.0)[:, None]
    >>> precision_recall(line, line[:3], k=1)    # of the real ones only 0, 1, 2 and 3 are in reach of the fake ones
    PrecisionRecall(precision=1.0, recall=0.5)
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise CascadeError(f"expected features (N, d) and (M, d), not {tuple(real.shape)} and {tuple(fake.shape)}")
    if not 1 <= k < min(len(real), len(fake)):
        raise CascadeError(f"k = {k} neighbours need more than {k} pictures on each side, and k ≥ 1")
    real, fake = real.detach().to("cpu", torch.float64), fake.detach().to("cpu", torch.float64)
    if not (torch.isfinite(real).all() and torch.isfinite(fake).all()):
        raise CascadeError("the features hold NaN or infinity")
    # Distances do not see a shift; a smaller norm rounds less.
    centre = real.mean(0)
    real, fake = real - centre, fake - centre
    return PrecisionRecall(_covered(fake, real, _radii(real, k)), _covered(real, fake, _radii(fake, k)))


def squared_distances(a: Tensor, b: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield (first row, squared distances of a block of `a` to all of `b`, their rounding)."""
    norm_b = b.square().sum(1)
    for start in range(0, len(a), _BLOCK):
        block = a[start : start + _BLOCK]
        norms = block.square().sum(1)[:, None] + norm_b
        yield start, (norms - 2 * block @ b.mT).clamp(min=0), _ROUNDING * norms


def _radii(points: Tensor, k: int) -> Tensor:
    """Return the squared distance of each point to its k-th nearest other one."""
    radii = []
    for start, squared, _ in squared_distances(points, points):
        rows = torch.arange(len(squared))
        squared[rows, start + rows] = torch.inf
        radii.append(squared.kthvalue(k, dim=1).values)
    return torch.cat(radii)


def _covered(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    """Return the share of `points` that lie in at least one ball."""
    inside = 0
    for _, squared, rounding in squared_distances(points, centres):
        inside += int((squared <= radii + rounding).any(1).sum())
    return inside / len(points)
