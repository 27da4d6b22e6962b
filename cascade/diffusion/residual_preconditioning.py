"""Preconditionings for super-resolution: around the upsampled low-res picture instead of around black."""

from dataclasses import replace

from torch import Tensor, nn
from torch.nn.functional import interpolate

from cascade.diffusion.condition import Condition
from cascade.diffusion.denoiser import Posterior
from cascade.diffusion.log_snr import alpha_sigma, over, working_dtype
from cascade.diffusion.preconditioning import EDMPreconditioning, _Preconditioning
from cascade.errors import CascadeError


def upsampled_mean(condition: Condition, like: Tensor) -> Tensor:
    """Return α_a·↑y, of `like`'s shape: y = low_res with its augmentation noise, ↑ bicubic.

    α_a·y is the best linear estimate of the low-res picture for data of unit variance. Raises CascadeError without a
    low-res picture.

    >>> import torch
    >>> upsampled_mean(Condition(low_res=torch.full((1, 3, 2, 2), 0.25)), torch.ones(1, 3, 4, 4))[0, 0, 0, 0]
    tensor(0.2500)
    """
    if condition.low_res is None:
        raise CascadeError("residual preconditioning is for super-resolution stages: it needs low_res")
    low_res = condition.low_res.to(like.device, working_dtype(like))
    if condition.aug_log_snr is not None:
        low_res = alpha_sigma(over(condition.aug_log_snr, low_res))[0] * low_res
    return interpolate(low_res[:, : like.shape[1]], like.shape[-2:], mode="bicubic", align_corners=False)


class ResidualPreconditioning(_Preconditioning):
    """The network predicts what the low-res picture lacks: x̂ = α_a·↑y + F, ↑y the bicubic upsampling of y = low_res.

    x0-prediction for super-resolution stages. α_a·y is the best linear estimate of the low-res picture for data of unit
    variance, so an untrained stage returns it, upsampled: its colours are right from the first step, and as the network
    predicts pictures and not noise, what it has not learned yet is blur and not grain (Li & He 2025, "Back to Basics").

    >>> import torch
    >>> zero = lambda x, log_snr, **condition: torch.zeros_like(x)
    >>> x_t, level = torch.ones(1, 3, 4, 4), torch.zeros(1)
    >>> condition = Condition(low_res=torch.full((1, 3, 2, 2), 0.25))
    >>> ResidualPreconditioning(zero)(x_t, level, condition).mean[0, 0, 0, 0]
    tensor(0.2500)
    """

    def forward(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        """Return the posterior of x_t (B, C, H, W) at λ (B,). Raises CascadeError without a low-res picture."""
        origin = upsampled_mean(condition, x_t)
        output, fraction = self._output(x_t, log_snr, condition)
        return Posterior(origin + output, variance_fraction=fraction)


class EDMResidualPreconditioning(EDMPreconditioning):
    """EDM's preconditioning (Karras et al. 2022, eq. 7) of the residual r = x − α_a·↑y that low_res y leaves open.

        r_t = x_t − α·α_a·↑y = α·r + σ·ε
        x̂ = α_a·↑y + α·s²/n² · r_t + σ·s/n · F(r_t/n),  n² = σ² + α²·s²,  s² = σ_d² + σ_a²

    σ_d is the standard deviation of the detail that a clean low-res picture lacks; augmentation noise of variance σ_a²
    adds its own. The detail is 10 times smaller than the picture, so noise that hides it is far below the levels that
    decide a picture made from nothing: scaled by the residual, input and target of F have unit variance there too, and
    at high λ x̂ keeps the detail that x_t shows. (Mardani et al. 2023, "CorrDiff", have the residual, of a regression.)

    >>> import torch
    >>> zero = lambda x, log_snr, **condition: torch.zeros_like(x)
    >>> x_t, level = torch.ones(1, 3, 4, 4), torch.tensor([20.0])
    >>> condition = Condition(low_res=torch.full((1, 3, 2, 2), 0.25))
    >>> EDMResidualPreconditioning(zero)(x_t, level, condition).mean[0, 0, 0, 0]
    tensor(1.0000)
    >>> EDMResidualPreconditioning(zero)(x_t, -level, condition).mean[0, 0, 0, 0]
    tensor(0.2500)
    """

    def __init__(self, network: nn.Module, sigma_data: float = 0.07, learn_variance: bool = False) -> None:
        super().__init__(network, sigma_data, learn_variance)

    def forward(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        """Return the posterior of x_t (B, C, H, W) at λ (B,). Raises CascadeError without a low-res picture."""
        alpha, _ = alpha_sigma(over(log_snr, x_t))
        origin = upsampled_mean(condition, x_t)
        variance: Tensor | float = self.sigma_data**2
        if condition.aug_log_snr is not None:
            variance = variance + (-over(condition.aug_log_snr, x_t)).sigmoid()
        residual = self._scaled(x_t - alpha * origin, over(log_snr, x_t), variance, condition)
        return replace(residual, mean=origin + residual.mean)
