"""The forward process as a chain: from any level to any noisier one."""

from torch import Tensor

from cascade.diffusion.log_snr import alpha_sigma, over
from cascade.diffusion.schedule import as_tensor


def forward_step(log_snr_s: Tensor | float, log_snr_t: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return the factor αt/αs and the variance σt²(1 − e^{λt−λs}) of q(x_t | x_s), for λt ≤ λs; λs may be +inf.

        q(x_t | x_s) = N((αt/αs)·x_s, σt²(1 − r)·I),  r = e^{λt−λs}

    Two steps after another are one: q(x_t | x) = ∫ q(x_t | x_s)·q(x_s | x) dx_s. On a ladder of discrete betas the
    factor is √(1 − β_t) and the variance β_t (Ho et al. 2020, equations 2 and 4; Kingma et al. 2021, appendix A.1).

    >>> from cascade.diffusion.schedule import DiscreteBetas
    >>> ladder = DiscreteBetas("linear", 1000)
    >>> factor, variance = forward_step(ladder.log_snrs[41], ladder.log_snrs[42])
    >>> round(float(variance / ladder.betas[42]), 9), round(float(factor**2 + variance), 9)
    (1.0, 1.0)
    """
    s, t = as_tensor(log_snr_s), as_tensor(log_snr_t)
    factor = alpha_sigma(t)[0] / alpha_sigma(s)[0]
    return factor, (-t).sigmoid() * -(t - s).expm1()


def diffuse_further(x_s: Tensor, eps: Tensor, log_snr_s: Tensor | float, log_snr_t: Tensor | float) -> Tensor:
    """Return x_t = (αt/αs)·x_s + √(σt²(1 − r))·ε, a sample of q(x_t | x_s), for x_s, ε (B, ...) and λ (B,) or numbers.

    From λs = +inf, the picture itself, it is `diffuse`.

    >>> import torch
    >>> diffuse_further(torch.ones(1, 2), torch.zeros(1, 2), torch.inf, 0.0)
    tensor([[0.7071, 0.7071]])
    """
    factor, variance = forward_step(over(log_snr_s, x_s), over(log_snr_t, x_s))
    return factor * x_s + variance.sqrt() * eps
