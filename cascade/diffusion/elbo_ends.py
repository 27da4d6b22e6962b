"""The two ends of the ELBO: the prior that sampling starts from, and the last step from a noisy picture to the data."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cascade.diffusion.condition import Condition
from cascade.diffusion.denoiser import Denoiser
from cascade.diffusion.log_snr import alpha_sigma, diffuse, over, per_image
from cascade.diffusion.reverse import ReverseStep, Spread, Variance


class Prior(Protocol):
    """KL(q(x_T | x) ‖ p(x_T)) in nats, (B,), for pictures x (B, ...) and the noisiest level, a number."""

    def nats(self, x: Tensor, log_snr: float) -> Tensor: ...


class Decoder(Protocol):
    """−ln p(x | x_t) in nats, (B,), at the cleanest level λ, a number, with x_t = α·x + σ·ε."""

    def nats(self, denoiser: Denoiser, x: Tensor, log_snr: float, condition: Condition, eps: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class WhitePrior:
    """p(x_T) = N(0, `variance`·I); None: σ², what sampling starts from here (x = σ(λ_0)·ε). DDPM's is 1.

    With σ² the KL is ½·e^{λ}·‖x‖² (Ho et al. 2020, the L_T of equation 5).

    >>> WhitePrior().nats(torch.ones(1, 2), 0.0)
    tensor([1.0000])
    """

    variance: float | None = None

    def nats(self, x: Tensor, log_snr: float) -> Tensor:
        """Return the KL of each picture, (B,)."""
        alpha, sigma = alpha_sigma(log_snr)
        own = sigma.square()
        return Spread(own if self.variance is None else torch.full_like(own, self.variance)).kl(alpha * x, own)


@dataclass(frozen=True, eq=False)
class GaussianPrior:
    """The exact marginal of Gaussian data, p(x_T) = N(α·m, α²S + σ²·I): with it a Gaussian's ELBO can be its entropy.

    mean m (D,) or (B, D); covariance S (D, D) or (B, D, D).

    >>> GaussianPrior(torch.zeros(2), torch.eye(2)).nats(torch.ones(1, 2), 0.0)
    tensor([0.6931])
    """

    mean: Tensor
    covariance: Tensor

    def nats(self, x: Tensor, log_snr: float) -> Tensor:
        """Return the KL of each picture, (B,)."""
        alpha, sigma = alpha_sigma(log_snr)
        values, axes = torch.linalg.eigh(self.covariance)
        marginal = Spread(alpha.square() * values.clamp_min(0) + sigma.square(), axes)
        return marginal.kl(alpha * (x.flatten(1) - self.mean), sigma.square())


@dataclass(frozen=True)
class DiscretisedGaussian:
    """DDPM's decoder for 8-bit pictures (Ho et al. 2020, equation 13): P(x | x_t) = ∏ ∫ N(y; x̂, σ²) dy over x's bin.

    x lies on the levels −1 + 2k/(`levels` − 1); a bin reaches half a step to both sides, the outer two to ±∞. The
    variance is σ(λ)², "large" for a step to the clean picture; the denoiser is asked once.

    >>> decoder = DiscretisedGaussian()
    >>> levels = torch.linspace(-1, 1, 256)
    >>> round(float(decoder.bins(levels, torch.tensor(0.3), 0.1).exp().sum()), 6)
    1.0
    """

    levels: int = 256

    def nats(self, denoiser: Denoiser, x: Tensor, log_snr: float, condition: Condition, eps: Tensor) -> Tensor:
        """Return −ln P(x | x_t) of each picture, (B,) float64."""
        x_t = diffuse(x, eps, log_snr)
        mean = denoiser(x_t, per_image(log_snr, x), condition).mean
        variance = float(ReverseStep(log_snr, math.inf).large)
        return -self.bins(x, mean, math.sqrt(variance)).flatten(1).sum(1)

    def bins(self, x: Tensor, mean: Tensor, std: float) -> Tensor:
        """Return ln of the mass of N(mean, std²) in the bin of each number of x, of x's shape, float64."""
        half = 1 / (self.levels - 1)
        away = x.double() - mean.double()
        low = torch.where(x <= -1 + half, -math.inf, (away - half) / std)
        high = torch.where(x >= 1 - half, math.inf, (away + half) / std)
        # Of two tails the left one keeps its digits: ln(Φ(b) − Φ(a)) = ln Φ(b) + ln(1 − Φ(a)/Φ(b)).
        mirrored = low + high > 0
        low, high = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
        left, right = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
        return right + (-(left - right).exp()).log1p()


@dataclass(frozen=True)
class GaussianDecoder:
    """A density for data of real numbers: −ln N(x; x̂, Σ), Σ the `variance` of a step to the clean picture.

    "optimal", Σ = Cov[x | x_t], is the exact last posterior of a Gaussian; "large" is σ².

    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle, x = GaussianDenoiser(torch.zeros(1), torch.eye(1)), torch.zeros(1, 1)
    >>> GaussianDecoder().nats(oracle, x, 0.0, Condition(), x)
    tensor([0.5724])
    """

    variance: Variance = "optimal"

    def nats(self, denoiser: Denoiser, x: Tensor, log_snr: float, condition: Condition, eps: Tensor) -> Tensor:
        """Return −ln p(x | x_t) of each picture, (B,)."""
        posterior = denoiser(diffuse(x, eps, log_snr), per_image(log_snr, x), condition)
        return ReverseStep(log_snr, math.inf).spread(self.variance, posterior).nats(x - posterior.mean)


@dataclass(frozen=True)
class NoisyData:
    """No decoder: the bound is then on −ln p(y) of the noisy data y = x + e^{−λ/2}·n themselves, λ the cleanest level.

    Its last term is the entropy of y given x, (D/2)·ln(2πe·e^{−λ}). In expectation over x; the denoiser is not asked.

    >>> NoisyData().nats(None, torch.zeros(1, 2), 0.0, Condition(), torch.zeros(1, 2))
    tensor([2.8379])
    """

    def nats(self, denoiser: Denoiser, x: Tensor, log_snr: float, condition: Condition, eps: Tensor) -> Tensor:  # noqa: ARG002
        """Return the entropy, the same for each picture, (B,)."""
        level = over(log_snr, x).flatten()
        return 0.5 * x[0].numel() * (math.log(2 * math.pi * math.e) - level)
