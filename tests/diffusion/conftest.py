"""What the laws of diffusion share: exact quadrature, and named random numbers in float64."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from cascade import rng


@pytest.fixture
def integrate() -> Callable[..., float]:
    """integrate(f, low, high): composite Gauss-Legendre in float64, f vectorised over a 1-D tensor."""

    def integral(function: Callable[[Tensor], Tensor], low: float, high: float, panels: int = 400) -> float:
        nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(10))
        width = (high - low) / panels
        centres = low + width * (torch.arange(panels, dtype=torch.float64) + 0.5)
        points = (centres[:, None] + width / 2 * nodes).flatten()
        return float((function(points).reshape(panels, -1) * weights).sum() * width / 2)

    return integral


@pytest.fixture
def normal() -> Callable[..., Tensor]:
    """normal(*shape, name=...): standard normal float64 numbers, the same in every run."""

    def draw(*shape: int, name: str = "x") -> Tensor:
        return torch.randn(shape, generator=rng.generator("tests/diffusion", name), dtype=torch.float64)

    return draw


@dataclass(frozen=True)
class Given:
    """Draws of an ELBO that are the same for each of its terms: `eps` like the pictures, and one uniform number."""

    eps: Tensor
    u: float = 0.5

    def normal(self, term: int) -> Tensor:
        return self.eps

    def uniform(self, term: int) -> Tensor:
        return torch.full((len(self.eps),), self.u, dtype=torch.float64)


@pytest.fixture
def given() -> type[Given]:
    """The class of draws that do not change."""
    return Given


@pytest.fixture
def quadratic_points() -> Callable[[int], Tensor]:
    """quadratic_points(d): 2·d points, (2·d, d), over which the mean of a quadratic is that over N(0, 1), exactly."""

    def points(dim: int) -> Tensor:
        scaled = dim**0.5 * torch.eye(dim, dtype=torch.float64)
        return torch.cat([scaled, -scaled])

    return points
