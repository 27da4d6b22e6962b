"""How good pictures are: distances between sets of features, detail, colour, and the figures that carry their context.

>>> import torch
>>> points = torch.arange(12.0).reshape(6, 2)
>>> precision_recall(points, points, k=1)
PrecisionRecall(precision=1.0, recall=1.0)
"""

from cascade.evaluation.frechet import Frechet, frechet_distance, frechet_parts
from cascade.evaluation.kernel import KernelDistance, kernel_distance
from cascade.evaluation.patches import PatchFeatures, cut_patches, patch_distances
from cascade.evaluation.precision_recall import PrecisionRecall, precision_recall
from cascade.evaluation.statistics import Moments, Statistics, statistics_of

__all__ = [
    "Frechet",
    "KernelDistance",
    "Moments",
    "PatchFeatures",
    "PrecisionRecall",
    "Statistics",
    "cut_patches",
    "frechet_distance",
    "frechet_parts",
    "kernel_distance",
    "patch_distances",
    "precision_recall",
    "statistics_of",
]
