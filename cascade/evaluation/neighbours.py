"""Has a model learnt its pictures by heart? Samples are compared with the training pictures that they lie nearest to.

A distance alone says nothing; photographs of the same kind that were not trained on say how near is near. A model that
copies makes samples nearer to training pictures than such photographs are (Meehan et al. 2020, "A non-parametric test
to detect data-copying in generative models", section 3).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.errors import CascadeError
from cascade.evaluation.precision_recall import squared_distances


@dataclass(frozen=True)
class Nearest:
    """Of each point the nearest of some others: its `index` (N,) int64 and its `distance` (N,) float64.

    >>> one, two = Nearest(torch.tensor([0]), torch.tensor([2.0])), Nearest(torch.tensor([3]), torch.tensor([1.0]))
    >>> one.or_nearer(two).index
    tensor([3])
    """

    index: Tensor
    distance: Tensor

    def or_nearer(self, other: "Nearest") -> "Nearest":
        """Of the same points, whichever is nearer."""
        closer = other.distance < self.distance
        return Nearest(torch.where(closer, other.index, self.index), torch.minimum(other.distance, self.distance))


def nearest(points: Tensor, others: Tensor) -> Nearest:
    """The nearest of `others` (M, d) to each of `points` (N, d): the root mean square of their difference over d.

    Block by block: memory grows with N and M, not with their product. Raises CascadeError for other shapes.

    >>> nearest(torch.tensor([[0.0, 0.0], [3.0, 1.0]]), torch.tensor([[2.0, 2.0], [0.0, 0.0]]))
    Nearest(index=tensor([1, 0]), distance=tensor([0., 1.], dtype=torch.float64))
    """
    if points.ndim != 2 or others.ndim != 2 or points.shape[1] != others.shape[1] or len(others) == 0:
        raise CascadeError(f"expected points (N, d) and (M, d), not {tuple(points.shape)} and {tuple(others.shape)}")
    points, others = points.double(), others.double()
    found = [squared.argmin(1) for _, squared, _ in squared_distances(points, others)]
    index = torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)
    # Of the nearest alone, the difference itself: a picture is at distance 0 from itself, without rounding.
    return Nearest(index, (points - others[index]).square().mean(1).sqrt())


def share_nearer(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """Return P(ours < theirs) + ½·P(ours = theirs) of two sets of distances (N,), (M,), and its standard error.

    The rank sum of Mann & Whitney, U/(N·M): ½ where both have one distribution, 1 where all of ours are nearer. The
    error is that under one distribution, √((N + M + 1)/(12·N·M)).

    >>> share_nearer(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 3.0]))[0]
    0.875
    """
    n, m = len(ours), len(theirs)
    if not n or not m:
        raise CascadeError("there are no distances to compare")
    order = theirs.sort().values
    not_farther, nearer = (torch.searchsorted(order, ours, right=right) for right in (False, True))
    above = 2 * m - not_farther - nearer  # twice those beyond, once those at the same distance
    return float(above.double().mean()) / (2 * m), ((n + m + 1) / (12 * n * m)) ** 0.5
