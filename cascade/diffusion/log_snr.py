"""The clock: every noise level is λ = ln(α²/σ²), variance preserving.

    α² = sigmoid(λ),  σ² = sigmoid(−λ),  x_t = α·x + σ·ε

λ is the full log-SNR of Kingma et al., "Variational Diffusion Models" (2021), eq. 3-4. The clocks of other papers:
DPM-Solver's λ is ours/2; σ_EDM = e^{−λ/2} with x_EDM = x_t/α; EDM's c_noise = ln(σ_EDM)/4 = −λ/8.

Nothing here subtracts from one: both sigmoids keep their relative accuracy at λ = ±20, where 1 − α² has lost half of
the digits of float64 and all of float32's.
"""

import torch
from torch import Tensor


def working_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of x, but at least float32: noise levels and coefficients are never half precision."""
    return torch.promote_types(x.dtype, torch.float32)


def per_image(log_snr: Tensor | float, x: Tensor) -> Tensor:
    """Return λ as (B,) in the dtype (at least float32) and on the device of `x` (B, ...); a scalar λ is repeated.

    >>> per_image(1.5, torch.zeros(2, 3, 8, 8))
    tensor([1.5000, 1.5000])
    """
    level = torch.as_tensor(log_snr, dtype=working_dtype(x), device=x.device)
    return level.expand(x.shape[0])


def over(log_snr: Tensor | float, x: Tensor) -> Tensor:
    """Return λ shaped (B, 1, ..., 1), to be broadcast over `x` (B, ...).

    >>> over(torch.tensor([0.0, 1.0]), torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 1, 1, 1])
    """
    return per_image(log_snr, x).reshape(-1, *[1] * (x.ndim - 1))


def alpha_sigma(log_snr: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return α = √sigmoid(λ) and σ = √sigmoid(−λ), each of λ's shape; λ = ±inf gives exactly 1 and 0.

    A Python float is taken as float64.

    >>> alpha, sigma = alpha_sigma(torch.tensor([0.0, float("inf")]))
    >>> alpha, sigma
    (tensor([0.7071, 1.0000]), tensor([0.7071, 0.0000]))
    """
    if not isinstance(log_snr, Tensor):
        log_snr = torch.tensor(log_snr, dtype=torch.float64)
    log_snr = log_snr.to(working_dtype(log_snr))
    return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()


def diffuse(x: Tensor, eps: Tensor, log_snr: Tensor | float) -> Tensor:
    """Return x_t = α·x + σ·ε for x, ε (B, ...) and λ (B,) or a scalar.

    >>> diffuse(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([0.0]))
    tensor([[0.7071, 0.7071]])
    """
    alpha, sigma = alpha_sigma(over(log_snr, x))
    return alpha * x + sigma * eps


def eps_from_mean(x_t: Tensor, mean: Tensor, log_snr: Tensor | float) -> Tensor:
    """Return ε̂ = (x_t − α·x̂)/σ, the noise that belongs to the posterior mean x̂.

    >>> x, eps, level = torch.tensor([[0.5]]), torch.tensor([[-1.0]]), torch.tensor([1.0])
    >>> eps_from_mean(diffuse(x, eps, level), x, level)
    tensor([[-1.]])
    """
    alpha, sigma = alpha_sigma(over(log_snr, x_t))
    return (x_t - alpha * mean) / sigma


def v_from_mean(x_t: Tensor, mean: Tensor, log_snr: Tensor | float) -> Tensor:
    """Return v̂ = α·ε̂ − σ·x̂ = (α·x_t − x̂)/σ (Salimans & Ho, "Progressive Distillation", 2022, section 4).

    >>> x, eps, level = torch.tensor([[0.5]]), torch.tensor([[-1.0]]), torch.tensor([0.0])
    >>> v_from_mean(diffuse(x, eps, level), x, level)
    tensor([[-1.0607]])
    """
    alpha, sigma = alpha_sigma(over(log_snr, x_t))
    return (alpha * x_t - mean) / sigma


def score_from_mean(x_t: Tensor, mean: Tensor, log_snr: Tensor | float) -> Tensor:
    """Return ∇ log p(x_t) = (α·x̂ − x_t)/σ² (Tweedie's formula; Song et al. 2021, with ε̂ = −σ·score).

    >>> score_from_mean(torch.tensor([[2.0]]), torch.tensor([[0.0]]), torch.tensor([0.0]))
    tensor([[-4.]])
    """
    level = over(log_snr, x_t)
    alpha, _ = alpha_sigma(level)
    return (alpha * mean - x_t) / (-level).sigmoid()
