"""The kernel distance (the KID, when the features are Inception's): unbiased at any number of pictures."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cascade.errors import CascadeError
from cascade.evaluation.jackknife import Estimate
from cascade.rng import permutation

_ENTRIES = 2**24  # of the matrix of the kernels of rows that are in memory at once: 0.1 GB


class KernelDistance(NamedTuple):
    """A squared maximum mean discrepancy and its standard error.

    >>> KernelDistance(value=0.01, standard_error=0.002).value
    0.01
    """

    value: float
    standard_error: float


def kernel_distance(
    x: Tensor, y: Tensor, seed: int, subset_size: int = 1000, *, group: int = 1, paired: bool = False
) -> KernelDistance:
    """Unbiased MMD² between features (N, d) and (M, d) under the kernel k(a, b) = (a·b/d + 1)³, in float64.

    Bińkowski et al. 2018, "Demystifying MMD GANs", Eq. 4 and Section 4. Both sets are cut, in an order drawn from
    `seed`, into the same number of disjoint subsets (each picture used once), those of the smaller set of about
    `subset_size`; the value is the mean of the subsets' U-statistics. With at most `subset_size` pictures on one side
    it is the U-statistic of them all. Memory grows with N and M, not with their product.

    Each `group` rows that follow one another are the patches of one picture. They are not independent, so the kernel of
    two pictures is the mean over pairs of their patches, and the statistic is that of the pictures. `paired`: picture i
    of x was made from picture i of y; they are not independent either, and no pair has the same number on both sides
    (Gretton et al. 2012, "A Kernel Two-Sample Test", Lemma 6).

    The standard error is the jackknife's over pictures, the subsets being independent. By Efron & Stein (1981) its
    square is not below the variance on average; for two equal distributions it is up to √2 too large.
    Raises CascadeError with fewer than 3 pictures on a side, unequal feature dimensions, or broken groups or pairs.

    >>> square = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    >>> value, standard_error = kernel_distance(square, square + 3, seed=0)
    >>> f"{value:.0f} ± {standard_error:.0f}"
    '1027 ± 533'
    """
    estimate = kernel_estimate(x, y, group=group, paired=paired, subsets=(seed, subset_size))
    return KernelDistance(estimate.value, estimate.standard_error)


def kernel_estimate(
    x: Tensor,
    y: Tensor,
    names: tuple[str, str] = ("x", "y"),
    *,
    group: int = 1,
    paired: bool = False,
    subsets: tuple[int, int] | None = None,
) -> Estimate:
    """The same MMD² as an estimate that goes along with others of the same pictures.

    `names` are those of the two sets; pairs have that of the first. `subsets` are the seed and the size of those of
    `kernel_distance`; None: it is the U-statistic of all pictures at once. Raises CascadeError as `kernel_distance`
    does.

    >>> square = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    >>> near, far = (kernel_estimate(square + shift, square, ("a", "b")) for shift in (3, 4))
    >>> near.value == kernel_distance(square + 3, square, seed=0).value, (far - near).value > 0
    (True, True)
    """
    x, y = _pictures(x, y, group, paired)
    if subsets is None:
        return _u_statistic(x, y, names, paired)
    seed, size = subsets
    if size < 3:
        raise CascadeError(f"a subset must hold at least 3 pictures, not {size}")
    count = max(1, min(len(x), len(y)) // max(3, size // group))
    parts = zip(
        x[permutation("kernel distance", seed, "x", size=len(x))].tensor_split(count),
        y[permutation("kernel distance", seed, "x" if paired else "y", size=len(y))].tensor_split(count),
        strict=True,
    )
    whole = Estimate(0.0)
    for number, (a, b) in enumerate(parts):
        whole += _u_statistic(a, b, tuple(f"{name}, {number} of {count}" for name in names), paired)
    return whole * (1 / count)


def kernel_spread(x: Tensor, name: str = "x", *, group: int = 1) -> Estimate:
    """E k(x, x) − E k(x, x′), x and x′ of two pictures: the variance of features (N, d) in the kernel's own space.

    Divided by it, MMD² has no unit: N pictures of the distribution itself lie at 1/N of it (the biased MMD², of rows
    that are independent), and at 1 or more lies a distribution that is one picture. `name` is that of the set.

    >>> kernel_spread(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])).value  # (3/2)³ − ((3/2)³ + 2·(1/2)³)/3
    2.1666...
    """
    pictures, _ = _pictures(x, x, group, paired=False)
    rows = ((pictures.square().sum(-1) / pictures.shape[-1] + 1) ** 3).mean(1)
    n = len(pictures)
    within, _ = _sums(pictures, pictures, apart=True)
    value = rows.mean() - within.sum() / (n * (n - 1))
    without = (rows.sum() - rows) / (n - 1) - (within.sum() - 2 * within) / ((n - 1) * (n - 2))
    return Estimate(value.item(), {name: without - value})


def _pictures(x: Tensor, y: Tensor, group: int, paired: bool) -> tuple[Tensor, Tensor]:
    """Check the features of both sides, and return them picture by picture, (n, group, d), in float64."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise CascadeError(f"expected features (N, d) and (M, d), not {tuple(x.shape)} and {tuple(y.shape)}")
    if group < 1 or len(x) % group or len(y) % group:
        raise CascadeError(f"{len(x)} and {len(y)} rows are no whole pictures of {group} patches each")
    if paired and len(x) != len(y):
        raise CascadeError(f"{len(x)} and {len(y)} rows are no pairs")
    fewest = min(len(x), len(y)) // group
    if fewest < 3:
        raise CascadeError(f"a kernel distance and its error need at least 3 pictures on each side, not {fewest}")
    x, y = (z.detach().to("cpu", torch.float64).unflatten(0, (-1, group)) for z in (x, y))
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise CascadeError("the features hold NaN or infinity")
    return x, y


def _sums(a: Tensor, b: Tensor, *, apart: bool) -> tuple[Tensor, Tensor]:
    """The kernel of pictures (n, g, d) and (m, g, d), summed over the m, (n,), and over the n, (m,), block by block.

    `apart`: pairs of the same number on both sides are left out.
    """
    at_once = max(1, _ENTRIES // (b.shape[0] * b.shape[1] * a.shape[1]))
    of_a, of_b = [], b.new_zeros(len(b))
    for start in range(0, len(a), at_once):
        block = _kernel(a[start : start + at_once], b)
        if apart:
            block.diagonal(start).zero_()
        of_a.append(block.sum(1))
        of_b += block.sum(0)
    return torch.cat(of_a), of_b


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """The kernel of pictures (n, g, d) and (m, g, d), (n, m): the mean over pairs of their rows."""
    g, dim = a.shape[1:]
    pairs = (a.flatten(0, 1) @ b.flatten(0, 1).mT / dim + 1) ** 3
    return pairs if g == 1 else pairs.reshape(len(a), g, len(b), g).mean((1, 3))


def _u_statistic(x: Tensor, y: Tensor, names: Sequence[str], paired: bool) -> Estimate:
    """The unbiased MMD² of two sets of pictures, and by how much each of x and of y (or each pair) moves it."""
    n, m = len(x), len(y)
    within_x, _ = _sums(x, x, apart=True)
    within_y, _ = _sums(y, y, apart=True)
    of_x, of_y = _sums(x, y, apart=paired)
    total_x, total_y, total = within_x.sum(), within_y.sum(), of_x.sum()
    mean_x, mean_y = total_x / (n * (n - 1)), total_y / (m * (m - 1))
    value = mean_x + mean_y - 2 * total / (n * (m - paired))
    # The statistic without picture i, for every i at once.
    less_x = (total_x - 2 * within_x) / ((n - 1) * (n - 2))
    less_y = (total_y - 2 * within_y) / ((m - 1) * (m - 2))
    if paired:
        without = [less_x + less_y - 2 * (total - of_x - of_y) / ((n - 1) * (n - 2))]
    else:
        without = [
            less_x + mean_y - 2 * (total - of_x) / ((n - 1) * m),
            mean_x + less_y - 2 * (total - of_y) / (n * (m - 1)),
        ]
    return Estimate(value.item(), {name: less - value for name, less in zip(names, without, strict=False)})
