"""The one loss: every training objective of the papers is a weighting, a noise distribution and a preconditioning.

What an objective adds to that (errors at several scales, a learned weight) is a `Loss` around it, chosen by `loss=`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from cascade.diffusion.condition import Condition
from cascade.diffusion.denoiser import Denoiser
from cascade.diffusion.log_snr import diffuse, per_image
from cascade.diffusion.weighting import Weighting


class Loss(Protocol):
    """What a stage is trained by: the loss of each image, (B,). A loss that learns too is a torch module."""

    def __call__(  # noqa: PLR0917
        self, denoiser: Denoiser, x: Tensor, log_snr: Tensor, eps: Tensor, condition: Condition, weighting: Weighting
    ) -> Tensor: ...


def mean_square(error: Tensor) -> Tensor:
    """Return for each image the mean over C·H·W of error², (B,).

    >>> import torch
    >>> mean_square(torch.tensor([[1.0, 3.0]]))
    tensor([5.])
    """
    return error.square().flatten(1).mean(1)


def diffusion_loss(  # noqa: PLR0917
    denoiser: Denoiser,
    x: Tensor,
    log_snr: Tensor,
    eps: Tensor,
    condition: Condition,
    weighting: Weighting,
    square: Callable[[Tensor], Tensor] = mean_square,
) -> Tensor:
    """Return for each image the mean over C·H·W of ratio(λ)·(ε − ε̂)², (B,), at least float32.

    It is computed as ratio·e^λ·(x − x̂)², which is the same number (Kingma & Gao 2023, eq. 9) with one rounding less.
    There is no ½: nats = ½·C·H·W times it. `square` is the quadratic form of the error, (B, ...) → (B,). With EDM2's u
    in the posterior, e^{−u}·loss + u (Karras et al. 2024, eq. 21).

    >>> import torch
    >>> from cascade.diffusion import GaussianDenoiser, UnitWeighting
    >>> oracle = GaussianDenoiser(torch.zeros(1), torch.eye(1))
    >>> x, eps = torch.tensor([[1.0]]), torch.tensor([[1.0]])
    >>> diffusion_loss(oracle, x, torch.zeros(1), eps, Condition(), UnitWeighting())
    tensor([0.])
    """
    level = per_image(log_snr, x)
    posterior = denoiser(diffuse(x, eps, level), level, condition)
    loss = (weighting.log_ratio(level) + level).exp() * square(posterior.mean - x)
    if posterior.log_uncertainty is None:
        return loss
    return (-posterior.log_uncertainty).exp() * loss + posterior.log_uncertainty


@dataclass(frozen=True)
class PlainLoss:
    """`diffusion_loss` itself, with nothing around it.

    >>> import torch
    >>> from cascade.diffusion import GaussianDenoiser, UnitWeighting
    >>> oracle, x = GaussianDenoiser(torch.zeros(1), torch.eye(1)), torch.tensor([[1.0]])
    >>> PlainLoss()(oracle, x, torch.zeros(1), -x, Condition(), UnitWeighting())
    tensor([1.])
    """

    def __call__(  # noqa: PLR0917
        self, denoiser: Denoiser, x: Tensor, log_snr: Tensor, eps: Tensor, condition: Condition, weighting: Weighting
    ) -> Tensor:
        """Return the weighted loss of each image, (B,)."""
        return diffusion_loss(denoiser, x, log_snr, eps, condition, weighting)
