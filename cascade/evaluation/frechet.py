"""The Fréchet distance between two Gaussians (the FID, when the features are Inception's)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.errors import CascadeError


@dataclass(frozen=True)
class Frechet:
    """A Fréchet distance and its parts: `distance` = `mean_term` + `covariance_term`.

    `negative_mass` is the largest share of a trace that lay in negative eigenvalues and was set to zero: about 1e-16
    for honest covariances; more means that one of them is none.

    >>> Frechet(distance=3.0, mean_term=1.0, covariance_term=2.0, negative_mass=0.0).distance
    3.0
    """

    distance: float
    mean_term: float
    covariance_term: float
    negative_mass: float


def frechet_distance(mu1: Tensor, cov1: Tensor, mu2: Tensor, cov2: Tensor) -> float:
    """d² = |μ₁−μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr(√Σ₁·Σ₂·√Σ₁)^½, in float64.

    Means are (d,), covariances (d, d). Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", Eq. 6;
    Dowson & Landau 1982. Raises CascadeError for wrong shapes, NaN or an asymmetric covariance.

    >>> one, two = torch.eye(2), 4 * torch.eye(2)
    >>> frechet_distance(torch.zeros(2), one, torch.ones(2), two)    # |Δμ|² = 2, and (2 − 1)² for each dimension
    4.0
    """
    return frechet_parts(mu1, cov1, mu2, cov2).distance


def frechet_parts(mu1: Tensor, cov1: Tensor, mu2: Tensor, cov2: Tensor) -> Frechet:
    """As `frechet_distance`, with the parts of the sum and the negative mass.

    The square roots of the eigenvalues of √Σ₁·Σ₂·√Σ₁ are the singular values of √Σ₂·√Σ₁, and are taken from there. A
    zero eigenvalue that rounding made 1e-16 has the root 1e-8; singular values stay at 1e-16, and eigenvalues of a
    covariance below d·ε·λmax count as zero. So the distance is right also with fewer pictures than dimensions.
    """
    mu1, mu2 = (mean.detach().to("cpu", torch.float64) for mean in (mu1, mu2))
    cov1, cov2 = (cov.detach().to("cpu", torch.float64) for cov in (cov1, cov2))
    _check(mu1, cov1)
    _check(mu2, cov2)
    if mu1.shape != mu2.shape:
        raise CascadeError(f"features of {len(mu1)} and of {len(mu2)} dimensions cannot be compared")
    root1, negative1 = _root(cov1)
    root2, negative2 = _root(cov2)
    mean_term = (mu1 - mu2).square().sum().item()
    overlap = torch.linalg.svdvals(root2 @ root1).sum()
    covariance_term = (cov1.trace() + cov2.trace() - 2 * overlap).item()
    return Frechet(mean_term + covariance_term, mean_term, covariance_term, max(negative1, negative2))


def _root(covariance: Tensor) -> tuple[Tensor, float]:
    """Return the symmetric square root, and the share of the trace that was negative."""
    values, vectors = torch.linalg.eigh((covariance + covariance.mT) / 2)
    precision = torch.finfo(values.dtype)
    share = (values.clamp(max=0).sum().abs() / values.abs().sum().clamp(min=precision.tiny)).item()
    values = torch.where(values > len(values) * precision.eps * values.max(), values, 0.0)
    return (vectors * values.sqrt()) @ vectors.mT, share


def _check(mean: Tensor, covariance: Tensor) -> None:
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise CascadeError(
            f"expected a mean (d,) and a covariance (d, d), not {tuple(mean.shape)} and {tuple(covariance.shape)}"
        )
    if not (torch.isfinite(mean).all() and torch.isfinite(covariance).all()):
        raise CascadeError("a mean or covariance holds NaN or infinity")
    if not torch.allclose(covariance, covariance.mT, rtol=1e-6, atol=1e-8 * covariance.abs().max().item()):
        raise CascadeError("a covariance is not symmetric")
