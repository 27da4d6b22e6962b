"""The one loss: every training objective of the papers is a weighting, a noise distribution and a preconditioning."""

from torch import Tensor

from cascade.diffusion.condition import Condition
from cascade.diffusion.denoiser import Denoiser
from cascade.diffusion.log_snr import diffuse, per_image
from cascade.diffusion.weighting import Weighting


def diffusion_loss(  # noqa: PLR0917
    denoiser: Denoiser, x: Tensor, log_snr: Tensor, eps: Tensor, condition: Condition, weighting: Weighting
) -> Tensor:
    """Return for each image the mean over C·H·W of ratio(λ)·(ε − ε̂)², (B,), at least float32.

    It is computed as ratio·e^λ·(x − x̂)², which is the same number (Kingma & Gao 2023, eq. 9) with one rounding less.
    There is no ½: nats = ½·C·H·W times it. With EDM2's u in the posterior, e^{−u}·loss + u (Karras et al. 2024,
    eq. 14).

    >>> import torch
    >>> from cascade.diffusion import GaussianDenoiser, UnitWeighting
    >>> oracle = GaussianDenoiser(torch.zeros(1), torch.eye(1))
    >>> x, eps = torch.tensor([[1.0]]), torch.tensor([[1.0]])
    >>> diffusion_loss(oracle, x, torch.zeros(1), eps, Condition(), UnitWeighting())
    tensor([0.])
    """
    level = per_image(log_snr, x)
    posterior = denoiser(diffuse(x, eps, level), level, condition)
    error = (posterior.mean - x).square().flatten(1).mean(1)
    loss = (weighting.log_ratio(level) + level).exp() * error
    if posterior.log_uncertainty is None:
        return loss
    return (-posterior.log_uncertainty).exp() * loss + posterior.log_uncertainty
