"""Figures that can be repeated: a number together with its features, its pictures and its resize rule."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from cascade.errors import CascadeError
from cascade.evaluation.features import Features
from cascade.evaluation.frechet import frechet_parts
from cascade.evaluation.kernel import kernel_distance
from cascade.evaluation.precision_recall import precision_recall
from cascade.evaluation.statistics import Statistics, statistics_of
from cascade.plain_json import without_infinity


@dataclass(frozen=True)
class Figure:
    """A number, and what it takes to get it again.

    `features` is None for what is measured on pixels; `resize` says how pictures were brought to the size they were
    measured at. `num_reference` is None where nothing is compared with reference pictures. `patches` of each picture
    were looked at; None: the whole of it. Over several ranges of seeds `value` is the mean of `values`, and `spread`
    their standard deviation.

    >>> Figure("PSNR", float("inf"), num_images=3, resize="none").to_json()["value"]
    'inf'
    """

    name: str
    value: float
    num_images: int
    resize: str
    standard_error: float | None = None
    unit: str = ""
    features: str | None = None
    sha256: str | None = None
    num_reference: int | None = None
    details: Mapping[str, float] = field(default_factory=dict)
    spread: float | None = None
    values: Sequence[float] = ()
    patches: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values; infinities, which JSON does not know, become "inf" and "-inf"."""
        return without_infinity(asdict(self))


def over_ranges(ranges: Sequence[Sequence[Figure]]) -> list[Figure]:
    """The mean of each figure over ranges of seeds, with their spread (standard deviation, N − 1).

    The standard error is that of one range, the root of the mean square. One range is returned as it is.

    >>> figure = over_ranges([[Figure("FID", value, num_images=9, resize="none")] for value in (2.0, 4.0)])[0]
    >>> figure.value, round(figure.spread, 3), figure.values
    (3.0, 1.414, (2.0, 4.0))
    """
    if len(ranges) == 1:
        return list(ranges[0])
    found = []
    for of_ranges in zip(*ranges, strict=True):
        values = tuple(figure.value for figure in of_ranges)
        errors = [figure.standard_error for figure in of_ranges if figure.standard_error is not None]
        error = math.sqrt(sum(error**2 for error in errors) / len(errors)) if errors else None
        mean, spread = statistics.fmean(values), statistics.stdev(values) if all(map(math.isfinite, values)) else None
        found.append(replace(of_ranges[0], value=mean, standard_error=error, spread=spread, values=values, details={}))
    return found


def names_of(features: Features) -> tuple[str, str]:
    """Return the names of the Fréchet and of the kernel distance: FID and KID mean Inception, and nothing else.

    >>> from cascade.evaluation.tiny import tiny_features
    >>> names_of(tiny_features())
    ('FD-tiny', 'KID-tiny')
    """
    if features.name == "inception":
        return "FID", "KID"
    return f"FD-{features.name}", f"KID-{features.name}"


def distances(
    generated: Tensor,
    reference: Tensor,
    features: Features,
    *,
    seed: int,
    allow_few_images: bool = False,
    neighbours: int = 3,
) -> tuple[list[Figure], list[str]]:
    """Compare two feature matrices (N, d) and (M, d): Fréchet distance, kernel distance, precision and recall.

    Returns the figures, and a line for each one left out. The Fréchet distance is that of float64 statistics in
    symmetric form (`frechet_parts`); `details` holds its negative mass and torchmetrics' number. With fewer pictures
    than twice the dimensions on either side it is biased: it is left out, or with `allow_few_images` named so; the
    unbiased kernel distance stands in its place. Raises CascadeError with fewer than 3 pictures on a side.

    >>> from cascade.evaluation.tiny import tiny_features
    >>> figures, left_out = distances(torch.eye(32), torch.eye(32), tiny_features(), seed=0)
    >>> [figure.name for figure in figures], left_out[0][:38]
    (['KID-tiny', 'precision', 'recall'], 'no FD-tiny: 32 pictures are fewer than')
    """
    fewest = min(len(generated), len(reference))
    if fewest < 3:
        raise CascadeError(f"{fewest} pictures are too few to compare; 3 on each side are the least")
    common = common_to(features, len(generated), len(reference))
    figure, line = frechet_figure(
        statistics_of(generated), statistics_of(reference), features, allow_few_images=allow_few_images
    )
    figures, left_out = [], [] if line is None else [line]
    if figure is not None:
        details = {**figure.details, "torchmetrics": torchmetrics_frechet(generated, reference)}
        figures.append(replace(figure, details=details))
    kernel = kernel_distance(generated, reference, seed)
    figures.append(Figure(names_of(features)[1], kernel.value, standard_error=kernel.standard_error, **common))
    if fewest > neighbours:
        share = precision_recall(reference, generated, neighbours)
        figures += [Figure(name, getattr(share, name), **common) for name in ("precision", "recall")]
    else:
        left_out.append(f"no precision and recall: {fewest} pictures have no {neighbours} neighbours each")
    return figures, left_out


def frechet_figure(
    ours: Statistics,
    theirs: Statistics,
    features: Features,
    *,
    allow_few_images: bool = False,
    each: int = 1,
) -> tuple[Figure | None, str | None]:
    """The Fréchet distance of two statistics, or None and the line that says why it is left out.

    `each` rows are patches of one picture. They are like one another, so that no more than the pictures are sure to
    count as independent: pictures decide whether there are enough.

    >>> from cascade.evaluation.tiny import tiny_features
    >>> of_64 = statistics_of(torch.eye(32).repeat(2, 1))
    >>> frechet_figure(of_64, of_64, tiny_features())[0].name, frechet_figure(of_64, of_64, tiny_features(), each=2)[0]
    ('FD-tiny', None)
    """
    (name, unbiased), (n, m) = names_of(features), (ours.count // each, theirs.count // each)
    fewest = min(n, m)
    bias = _bias(fewest, features.dim)
    if bias and not allow_few_images:
        dimensions = f"{'' if bias == 'N<d' else 'twice '}the {features.dim} feature dimensions"
        patches = "" if each == 1 else f" (of {each} patches each, which are not independent)"
        return None, (
            f"no {name}: {fewest} pictures{patches} are fewer than {dimensions}, which biases it; "
            f"{unbiased} is unbiased (allow_few_images=true prints it nevertheless)"
        )
    parts = frechet_parts(ours.mean, ours.covariance, theirs.mean, theirs.covariance)
    details = {"mean_term": parts.mean_term, "negative_mass": parts.negative_mass}
    common = common_to(features, n, m)
    return Figure(f"{name} (biased, {bias})" if bias else name, parts.distance, details=details, **common), None


def _bias(fewest: int, dim: int) -> str | None:
    """Why a Fréchet distance of so few rows is biased: below d the covariance has no full rank, below 2d it is poor."""
    return "N<d" if fewest < dim else "N<2d" if fewest < 2 * dim else None


def common_to(features: Features, num_images: int, num_reference: int) -> dict[str, Any]:
    """What all figures of these features carry.

    >>> from cascade.evaluation.tiny import tiny_features
    >>> common_to(tiny_features(), 5, 7)["num_reference"]
    7
    """
    return {
        "num_images": num_images,
        "num_reference": num_reference,
        "resize": features.resize,
        "features": features.name,
        "sha256": features.sha256,
    }


def torchmetrics_frechet(generated: Tensor, reference: Tensor) -> float:
    """Return torchmetrics' FrechetInceptionDistance of two feature matrices.

    It is fed with features, so none of its own preprocessing takes part, and with float64 ones, because it casts its
    result to their type.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Given(generated.shape[1])).set_dtype(torch.float64)
    metric.update(reference.double(), real=True)
    metric.update(generated.double(), real=False)
    return metric.compute().item()


class _Given(nn.Module):
    """Features that are there already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features
