"""The kernel distance (the KID, when the features are Inception's): unbiased at any number of pictures."""

from typing import NamedTuple

import torch
from torch import Tensor

from cascade.errors import CascadeError
from cascade.rng import permutation


class KernelDistance(NamedTuple):
    """A squared maximum mean discrepancy and its standard error.

    >>> KernelDistance(value=0.01, standard_error=0.002).value
    0.01
    """

    value: float
    standard_error: float


def kernel_distance(x: Tensor, y: Tensor, seed: int, subset_size: int = 1000) -> KernelDistance:
    """Unbiased MMD² between features (N, d) and (M, d) under the kernel k(a, b) = (a·b/d + 1)³, in float64.

    Bińkowski et al. 2018, "Demystifying MMD GANs", Eq. 4 and Section 4. Both sets are cut, in an order drawn from
    `seed`, into the same number of disjoint subsets of about `subset_size` (each picture used once); the value is the
    mean of the subsets' U-statistics. With at most `subset_size` pictures it is the U-statistic of them all.

    The standard error is the jackknife's over pictures, the subsets being independent. By Efron & Stein (1981) its
    square is not below the variance on average; for two equal distributions it is up to √2 too large.
    Raises CascadeError with fewer than 3 pictures on a side, or unequal feature dimensions.

    >>> square = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    >>> value, standard_error = kernel_distance(square, square + 3, seed=0)
    >>> f"{value:.0f} ± {standard_error:.0f}"
    '1027 ± 533'
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise CascadeError(f"expected features (N, d) and (M, d), not {tuple(x.shape)} and {tuple(y.shape)}")
    fewest = min(len(x), len(y))
    if fewest < 3:
        raise CascadeError(f"a kernel distance and its error need at least 3 pictures on each side, not {fewest}")
    if subset_size < 3:
        raise CascadeError(f"a subset must hold at least 3 pictures, not {subset_size}")
    x, y = x.detach().to("cpu", torch.float64), y.detach().to("cpu", torch.float64)
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise CascadeError("the features hold NaN or infinity")
    subsets = max(1, fewest // subset_size)
    parts = zip(
        x[permutation("kernel distance", seed, "x", size=len(x))].tensor_split(subsets),
        y[permutation("kernel distance", seed, "y", size=len(y))].tensor_split(subsets),
        strict=True,
    )
    results = [_u_statistic(a, b) for a, b in parts]
    value = sum(result[0] for result in results) / subsets
    variance = sum(result[1] for result in results) / subsets**2
    return KernelDistance(value, variance**0.5)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.mT / a.shape[1] + 1) ** 3


def _u_statistic(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return the unbiased MMD² of two sets and the jackknife estimate of its variance."""
    n, m = len(x), len(y)
    within_x = _kernel(x, x).fill_diagonal_(0).sum(1)
    within_y = _kernel(y, y).fill_diagonal_(0).sum(1)
    between = _kernel(x, y)
    total_x, total_y, total = within_x.sum(), within_y.sum(), between.sum()
    mean_x, mean_y = total_x / (n * (n - 1)), total_y / (m * (m - 1))
    value = mean_x + mean_y - 2 * total / (n * m)
    # The statistic without picture i, for every i at once.
    without_x = (total_x - 2 * within_x) / ((n - 1) * (n - 2)) + mean_y - 2 * (total - between.sum(1)) / ((n - 1) * m)
    without_y = mean_x + (total_y - 2 * within_y) / ((m - 1) * (m - 2)) - 2 * (total - between.sum(0)) / (n * (m - 1))
    variance = sum((len(w) - 1) * w.var(correction=0) for w in (without_x, without_y))
    return value.item(), float(variance)
