"""EDM2's learned weight of the loss: a small function u(λ) beside the denoiser, for training alone."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cascade.diffusion.condition import Condition
from cascade.diffusion.denoiser import Denoiser, Posterior
from cascade.diffusion.loss import Loss, PlainLoss
from cascade.diffusion.weighting import Weighting


class LogUncertainty(nn.Module):
    """u(λ): Fourier features of c_noise = ln(σ)/4 = −λ/8, and one linear layer without bias (EDM2's logvar head).

        u = Σ_k w_k·√2·cos(2π(f_k·c_noise + φ_k)),  w = 0 at first

    EDM2 draws f_k ~ N(0, 1) and φ_k ~ U(0, 1); here they are the quantiles of these distributions, in an order without
    pattern, so that nothing is drawn. Its w are drawn too, and held at unit length like its other weights (appendix
    B.2); these begin at 0 and are free, under the optimizer's weight decay. Computed in float32 or better, also under
    autocast.

    >>> LogUncertainty(8)(torch.tensor([-3.0, 5.0]))
    tensor([0., 0.], grad_fn=<MvBackward0>)
    """

    def __init__(self, channels: int = 128) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be at least 1, not {channels}")
        self.weight = nn.Parameter(torch.zeros(channels))
        places = torch.arange(channels, dtype=torch.float64)
        quantile = (places + 0.5) / channels
        # The golden ratio's multiples, taken modulo 1, fill the interval evenly however many there are.
        phase = places * ((math.sqrt(5) - 1) / 2) % 1
        self.register_buffer("frequency", torch.special.ndtri(quantile).float(), persistent=False)
        self.register_buffer("phase", phase.float(), persistent=False)

    def forward(self, log_snr: Tensor) -> Tensor:
        """λ (B,) → u (B,)."""
        angle = 2 * math.pi * (-log_snr[:, None] / 8 * self.frequency + self.phase)
        with torch.autocast(log_snr.device.type, enabled=False):
            return (math.sqrt(2) * angle.cos()) @ self.weight.to(angle.dtype)


@dataclass(frozen=True)
class Uncertain:
    """A denoiser whose posterior also tells u(λ): all else in it is the denoiser's own.

    >>> from cascade.diffusion import GaussianDenoiser
    >>> denoiser = Uncertain(GaussianDenoiser(torch.zeros(1), torch.eye(1)), LogUncertainty())
    >>> denoiser(torch.ones(2, 1), torch.zeros(2), Condition()).log_uncertainty.shape
    torch.Size([2])
    """

    denoiser: Denoiser
    log_uncertainty: LogUncertainty

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        """Return the posterior of x_t (B, ...) at λ (B,)."""
        return replace(self.denoiser(x_t, log_snr, condition), log_uncertainty=self.log_uncertainty(log_snr))


class UncertaintyLoss(nn.Module):
    """EDM2's uncertainty weighting, E[e^{−u(λ)}·loss + u(λ)] (Karras et al. 2024, "Analyzing and Improving", eq. 21).

    u learns the logarithm of the mean loss at λ, the minimum, and then every level's gradient counts as if its loss
    were 1. It weighs the loss of any `weighting=`, by levels or by scales (`loss` is the one around which it is put).
    It is trained with the denoiser, is no part of it, and is neither averaged, validated nor exported.

    >>> from cascade.diffusion import GaussianDenoiser, UnitWeighting
    >>> oracle, x = GaussianDenoiser(torch.zeros(1), torch.eye(1)), torch.tensor([[1.0]])
    >>> UncertaintyLoss()(oracle, x, torch.zeros(1), -x, Condition(), UnitWeighting()).detach()
    tensor([1.])
    """

    def __init__(self, loss: Loss | None = None, channels: int = 128) -> None:
        super().__init__()
        self.loss = loss or PlainLoss()
        self.log_uncertainty = LogUncertainty(channels)

    def forward(  # noqa: PLR0917
        self, denoiser: Denoiser, x: Tensor, log_snr: Tensor, eps: Tensor, condition: Condition, weighting: Weighting
    ) -> Tensor:
        """Return e^{−u}·loss + u of each image, (B,)."""
        return self.loss(Uncertain(denoiser, self.log_uncertainty), x, log_snr, eps, condition, weighting)
