"""Mean and covariance of features that arrive in pieces, in float64."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.errors import CascadeError

_BLOCK = 256  # rows that are reduced at once, whatever the pieces they came in


@dataclass(frozen=True)
class Statistics:
    """Mean (d,), unbiased covariance (d, d), both float64, of `count` features.

    >>> Statistics(torch.zeros(2), torch.eye(2), count=10).covariance.shape
    torch.Size([2, 2])
    """

    mean: Tensor
    covariance: Tensor
    count: int


class Moments:
    """Streaming mean and covariance: μ = Σx/N, Σ = Σ(x−μ)(x−μ)ᵀ/(N−1).

    Rows are collected into blocks of 256 and each block is centred on its own mean before the blocks are merged
    (Chan, Golub & LeVeque 1979, Eq. 2.1), so no large numbers cancel, and the bits do not depend on the pieces.

    >>> moments = Moments(2)
    >>> moments.update(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
    >>> moments.update(torch.tensor([[4.0, 8.0]]))
    >>> statistics = moments.statistics()
    >>> statistics.mean.tolist(), statistics.covariance.tolist()
    ([2.0, 4.0], [[4.0, 8.0], [8.0, 16.0]])
    """

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._count = 0
        self._mean = torch.zeros(dim, dtype=torch.float64)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64)
        self._waiting: list[Tensor] = []

    def update(self, features: Tensor) -> None:
        """Add features (B, d) of any floating type."""
        if features.ndim != 2 or features.shape[1] != self._dim:
            raise CascadeError(f"expected features of shape (B, {self._dim}), not {tuple(features.shape)}")
        if not torch.isfinite(features).all():
            raise CascadeError("the features hold NaN or infinity; no statistics can be taken of them")
        rows = torch.cat([*self._waiting, features.detach().to("cpu", torch.float64)])
        whole = len(rows) - len(rows) % _BLOCK
        for start in range(0, whole, _BLOCK):
            self._count, self._mean, self._scatter = self._merged(rows[start : start + _BLOCK])
        self._waiting = [rows[whole:].clone()]

    def statistics(self) -> Statistics:
        """Return the statistics so far; more may be added afterwards. Raises CascadeError below two rows."""
        rows = torch.cat(self._waiting) if self._waiting else self._mean.new_zeros(0, self._dim)
        count, mean, scatter = self._merged(rows) if len(rows) else (self._count, self._mean, self._scatter)
        if count < 2:
            raise CascadeError(f"a covariance needs at least 2 pictures, not {count}")
        return Statistics(mean.clone(), scatter / (count - 1), count)

    def _merged(self, rows: Tensor) -> tuple[int, Tensor, Tensor]:
        count = self._count + len(rows)
        mean = rows.mean(0)
        centred = rows - mean
        shift = mean - self._mean
        scatter = self._scatter + centred.mT @ centred
        scatter = scatter + torch.outer(shift, shift) * (self._count * len(rows) / count)
        return count, self._mean + shift * (len(rows) / count), scatter


def statistics_of(features: Tensor) -> Statistics:
    """Return the statistics of a whole feature matrix (N, d).

    >>> statistics_of(torch.tensor([[1.0], [3.0]])).covariance.item()
    2.0
    """
    moments = Moments(features.shape[1])
    for part in features.split(16 * _BLOCK):  # so that no second copy of them all is made, in float64
        moments.update(part)
    return moments.statistics()
