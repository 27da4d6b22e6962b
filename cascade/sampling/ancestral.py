"""Ancestral sampling of DDPM (Ho et al. 2020), with four choices of the reverse variance."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from cascade.diffusion import Condition, Denoiser, Posterior
from cascade.errors import CascadeError, suggest
from cascade.sampling.transition import Noise, Transition, transitions

Variance = Literal["small", "large", "learned", "optimal"]


@dataclass(frozen=True)
class Ancestral:
    """x_s ~ N((αs/αt) r x_t + αs(1−r) x̂, Σ), r = e^{λt−λs}: q(x_s | x_t, x) with x̂ in the place of x.

    Σ by `variance` (a step into λ = +inf returns x̂, without noise):
      - "small":   σs²(1−r), DDPM's β̃; the exact one for data that are a point;
      - "large":   σt²(1−r), DDPM's β; the exact one for data that are white noise;
      - "learned": between them, log Σ = f·log σt²(1−r) + (1−f)·log σs²(1−r), f the posterior's `variance_fraction`
        (Nichol & Dhariwal 2021, equation 15); it means something only for the grid it was trained on;
      - "optimal": σs²(1−r) I + αs²(1−r)² Cov[x | x_t] (Bao et al. 2022, Analytic-DPM), which needs the posterior's
        `covariance` (B, D, D): exact denoisers give it.

    DDPM (Ho et al. 2020), equations 7 and 11. Raises CascadeError for another `variance`, and when the denoiser does
    not give what the variance is made of.

    >>> from cascade.diffusion import Condition
    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.ones(2), torch.zeros(2, 2))
    >>> grid = torch.tensor([-9.0, 0.0, torch.inf], dtype=torch.float64)
    >>> Ancestral("large")(oracle, torch.randn(1, 2), grid, Condition(), lambda step, draw=0: torch.randn(1, 2))
    tensor([[1., 1.]])
    """

    variance: Variance = "small"

    def __post_init__(self) -> None:
        if self.variance not in get_args(Variance):
            raise CascadeError(f"unknown variance '{self.variance}'; {suggest(str(self.variance), get_args(Variance))}")

    def __call__(self, denoiser: Denoiser, x: Tensor, log_snrs: Tensor, condition: Condition, randn: Noise) -> Tensor:
        """Sample; one network call and one draw of noise for each step."""
        for step in transitions(log_snrs):
            posterior = step.t.denoise(denoiser, x, condition)
            if step.ends_clean:
                return posterior.mean
            x = self.mean(x, step, posterior) + self.scaled(randn(step.index), step, posterior)
        return x

    def mean(self, x: Tensor, step: Transition, posterior: Posterior) -> Tensor:
        """The mean of x_s, (αs/αt) r x_t + αs(1−r) x̂."""
        kept = step.s.alpha / step.t.alpha * step.r
        return kept * x + step.s.alpha * step.one_minus_r * posterior.mean

    def scaled(self, noise: Tensor, step: Transition, posterior: Posterior) -> Tensor:
        """√Σ · noise, √Σ the symmetric root."""
        root = math.sqrt(step.one_minus_r)
        if self.variance == "small":
            return step.s.sigma * root * noise
        if self.variance == "large":
            return step.t.sigma * root * noise
        if self.variance == "learned":
            if posterior.variance_fraction is None:
                raise CascadeError("variance 'learned' needs a denoiser that predicts it; choose 'small' or 'large'")
            log_ratio = math.log(step.t.sigma / step.s.sigma)
            return step.s.sigma * root * torch.exp(log_ratio * posterior.variance_fraction) * noise
        if posterior.covariance is None:
            raise CascadeError("variance 'optimal' needs an exact denoiser's covariance; choose 'small' or 'large'")
        # The symmetric root: it does not depend on the signs and order of the eigenvectors, which Σ and Cov share.
        # Rounding can push a vanishing eigenvalue of Cov below zero.
        values, vectors = torch.linalg.eigh(posterior.covariance)
        variances = (step.s.sigma * root) ** 2 + (step.s.alpha * step.one_minus_r) ** 2 * values.clamp_min(0)
        in_eigenbasis = vectors.mT @ noise.flatten(1).unsqueeze(-1)
        return (vectors @ (variances.sqrt().unsqueeze(-1) * in_eigenbasis)).reshape(noise.shape)
