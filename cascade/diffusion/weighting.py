"""Weightings of the loss in ε: ratio(λ) = w(λ)/p(λ), as its logarithm (Kingma & Gao 2023, eq. 11).

The expected loss is ½∫ w(λ)·E‖ε − ε̂‖² dλ whatever p(λ) is drawn from. The papers name ratios **under their own p**,
so a weighting is bound to a reference distribution: w := ratio·p_ref. `reference=None` means the training noise itself,
and then `log_ratio` is the paper's ratio. With a reference given, another training noise changes only the variance.
Outside the ends of the training noise the ratio is infinite: λ comes from that noise. Under a ladder of levels the
same holds with sums over its levels: p is the probability of a level, and so must p_ref be.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from cascade.diffusion.ladder import check_measures
from cascade.diffusion.noise import LogNormalNoise, NoiseDistribution
from cascade.diffusion.schedule import as_tensor


class Weighting(Protocol):
    """What the loss needs: ln w(λ)/p(λ), of λ's shape; a number is taken as float64."""

    def log_ratio(self, log_snr: Tensor | float) -> Tensor: ...


def _rebind(
    log_ratio: Tensor, log_snr: Tensor, noise: NoiseDistribution, reference: NoiseDistribution | None
) -> Tensor:
    if reference is None or reference == noise:
        return log_ratio
    return log_ratio + reference.log_density(log_snr) - noise.log_density(log_snr)


@dataclass(frozen=True)
class UnitWeighting:
    """The identity: ratio 1 under whatever noise is used.

    `noise` is taken, as every weighting is made for the training noise, and not read.

    >>> UnitWeighting().log_ratio(torch.tensor([3.0]))
    tensor([0.])
    """

    noise: NoiseDistribution | None = None

    def log_ratio(self, log_snr: Tensor | float) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(as_tensor(log_snr))


@dataclass(frozen=True)
class SimpleWeighting:
    """DDPM's "simple" loss (Ho et al. 2020, eq. 14): ratio 1 under the reference.

    Trained under EDM's noise, the loss is still the one of `reference`:

    >>> from cascade.diffusion import CosineSchedule, ScheduleNoise
    >>> weighting = SimpleWeighting(LogNormalNoise(), reference=ScheduleNoise(CosineSchedule()))
    >>> weighting.log_ratio(torch.tensor([2.4])).exp()
    tensor([0.5288])
    """

    noise: NoiseDistribution
    reference: NoiseDistribution | None = None

    def __post_init__(self) -> None:
        check_measures(self.noise, self.reference)

    def log_ratio(self, log_snr: Tensor | float) -> Tensor:
        """Return ln p_ref(λ) − ln p(λ)."""
        log_snr = as_tensor(log_snr)
        return _rebind(torch.zeros_like(log_snr), log_snr, self.noise, self.reference)


@dataclass(frozen=True)
class ELBOWeighting:
    """The evidence lower bound, w(λ) = 1: ½·C·H·W·∫ E(ε − ε̂)² dλ is its diffusion term in nats (Kingma et al. 2021).

    It is a w, not a ratio: the same loss under every noise (VDM, eq. 17-18; Kingma & Gao 2023, eq. 8).

    >>> weighting = ELBOWeighting(LogNormalNoise())
    >>> level = torch.tensor([7.0])
    >>> weighting.log_ratio(level) + weighting.noise.log_density(level)
    tensor([0.])
    """

    noise: NoiseDistribution

    def log_ratio(self, log_snr: Tensor | float) -> Tensor:
        """Return −ln p(λ)."""
        return -self.noise.log_density(log_snr)


@dataclass(frozen=True)
class VWeighting:
    """The square of the error of v = α·ε − σ·x: ratio 1 + e^{−λ} under the reference (Salimans & Ho 2022, "SNR+1").

    >>> VWeighting(LogNormalNoise()).log_ratio(torch.tensor([0.0, 20.0])).exp()
    tensor([2., 1.])
    """

    noise: NoiseDistribution
    reference: NoiseDistribution | None = None

    def __post_init__(self) -> None:
        check_measures(self.noise, self.reference)

    def log_ratio(self, log_snr: Tensor | float) -> Tensor:
        """Return ln(1 + e^{−λ}) + ln p_ref(λ) − ln p(λ)."""
        log_snr = as_tensor(log_snr)
        return _rebind(softplus(-log_snr), log_snr, self.noise, self.reference)


@dataclass(frozen=True)
class X0Weighting:
    """The square of the error of the picture x: ratio e^{−λ} under the reference (Salimans & Ho 2022, "SNR" on x̂).

    >>> X0Weighting(LogNormalNoise()).log_ratio(torch.tensor([-1.0, 2.0]))
    tensor([ 1., -2.])
    """

    noise: NoiseDistribution
    reference: NoiseDistribution | None = None

    def __post_init__(self) -> None:
        check_measures(self.noise, self.reference)

    def log_ratio(self, log_snr: Tensor | float) -> Tensor:
        """Return −λ + ln p_ref(λ) − ln p(λ)."""
        log_snr = as_tensor(log_snr)
        return _rebind(-log_snr, log_snr, self.noise, self.reference)


@dataclass(frozen=True)
class TruncatedSNRWeighting:
    """The larger of the errors of x and of ε: ratio max(1, e^{−λ}) under the reference (Salimans & Ho 2022, section 4).

    On x̂ it is the SNR, but at least 1, and at most γ (the paper: ∞). A network that predicts x itself needs that bound:
    its error does not vanish with the noise, and times an SNR without bound it is nearly the whole loss.

    >>> TruncatedSNRWeighting(LogNormalNoise()).log_ratio(torch.tensor([-1.0, 2.0]))
    tensor([1., 0.])
    >>> TruncatedSNRWeighting(LogNormalNoise(), gamma=math.e).log_ratio(torch.tensor([-1.0, 2.0]))
    tensor([ 1., -1.])
    """

    noise: NoiseDistribution
    reference: NoiseDistribution | None = None
    gamma: float = math.inf

    def __post_init__(self) -> None:
        if not self.gamma >= 1:
            raise ValueError(f"gamma must be at least 1, not {self.gamma}")
        check_measures(self.noise, self.reference)

    def log_ratio(self, log_snr: Tensor | float) -> Tensor:
        """Return min(max(0, λ), ln γ) − λ + ln p_ref(λ) − ln p(λ)."""
        log_snr = as_tensor(log_snr)
        return _rebind(log_snr.clamp(0, math.log(self.gamma)) - log_snr, log_snr, self.noise, self.reference)


@dataclass(frozen=True)
class P2Weighting:
    """P2 (Choi et al. 2022, "Perception Prioritized Training", eq. 8): ratio 1/(k + e^λ)^γ under the reference.

    The paper's k = 1, γ = 1 is σ²: it takes weight from the levels where only imperceptible detail is left to learn.

    >>> P2Weighting(LogNormalNoise()).log_ratio(torch.tensor([0.0])).exp()
    tensor([0.5000])
    """

    noise: NoiseDistribution
    k: float = 1.0
    gamma: float = 1.0
    reference: NoiseDistribution | None = None

    def __post_init__(self) -> None:
        if not (0 < self.k < math.inf and 0 <= self.gamma < math.inf):
            raise ValueError(f"need k above 0 and gamma at least 0, both finite, not {self.k} and {self.gamma}")
        check_measures(self.noise, self.reference)

    def log_ratio(self, log_snr: Tensor | float) -> Tensor:
        """Return −γ·ln(k + e^λ) + ln p_ref(λ) − ln p(λ)."""
        log_snr = as_tensor(log_snr)
        offset = math.log(self.k)
        return _rebind(-self.gamma * (softplus(log_snr - offset) + offset), log_snr, self.noise, self.reference)


@dataclass(frozen=True)
class MinSNRWeighting:
    """Min-SNR-γ (Hang et al. 2023, on ε): ratio min(1, γ·e^{−λ}) under the reference.

    >>> MinSNRWeighting(LogNormalNoise(), gamma=5).log_ratio(torch.tensor([0.0, math.log(10)])).exp()
    tensor([1.0000, 0.5000])
    """

    noise: NoiseDistribution
    gamma: float = 5.0
    reference: NoiseDistribution | None = None

    def __post_init__(self) -> None:
        if not 0 < self.gamma < math.inf:
            raise ValueError(f"gamma must be positive, not {self.gamma}")
        check_measures(self.noise, self.reference)

    def log_ratio(self, log_snr: Tensor | float) -> Tensor:
        """Return min(0, ln γ − λ) + ln p_ref(λ) − ln p(λ)."""
        log_snr = as_tensor(log_snr)
        ratio = (math.log(self.gamma) - log_snr).clamp(max=0)
        return _rebind(ratio, log_snr, self.noise, self.reference)


@dataclass(frozen=True)
class SigmoidWeighting:
    """The sigmoid weighting w(λ) = sigmoid(b − λ) (Hoogeboom et al. 2024, "Simpler Diffusion"; Kingma & Gao 2023).

    It is a w, not a ratio: the same loss under every noise. On x̂ it is e^b·sigmoid(λ − b).

    >>> weighting = SigmoidWeighting(LogNormalNoise(), bias=-1.0)
    >>> level = torch.tensor([-1.0])
    >>> (weighting.log_ratio(level) + weighting.noise.log_density(level)).exp()
    tensor([0.5000])
    """

    noise: NoiseDistribution
    bias: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.bias):
            raise ValueError(f"bias must be finite, not {self.bias}")

    def log_ratio(self, log_snr: Tensor | float) -> Tensor:
        """Return ln sigmoid(b − λ) − ln p(λ)."""
        log_snr = as_tensor(log_snr)
        return logsigmoid(self.bias - log_snr) - self.noise.log_density(log_snr)


@dataclass(frozen=True)
class EDMWeighting:
    """EDM's weighting (Karras et al. 2022, table 1): ratio (e^{−λ} + σ_d²)/σ_d² under ln σ ~ N(−1.2, 1.2²).

    It is the weight that is 1 on EDM's F: λ(σ)·c_out² = 1 with λ(σ) = (σ² + σ_d²)/(σ·σ_d)². `reference=None` is the
    paper's log-normal, not the training noise.

    >>> EDMWeighting(LogNormalNoise(), sigma_data=0.5).log_ratio(torch.tensor([0.0])).exp()
    tensor([5.])
    """

    noise: NoiseDistribution
    sigma_data: float = 0.5
    reference: NoiseDistribution | None = None

    def __post_init__(self) -> None:
        if not 0 < self.sigma_data < math.inf:
            raise ValueError(f"sigma_data must be positive, not {self.sigma_data}")
        check_measures(self.noise, self.reference or LogNormalNoise())

    def log_ratio(self, log_snr: Tensor | float) -> Tensor:
        """Return ln(1 + e^{−λ}/σ_d²) + ln p_ref(λ) − ln p(λ)."""
        log_snr = as_tensor(log_snr)
        ratio = softplus(-log_snr - 2 * math.log(self.sigma_data))
        return _rebind(ratio, log_snr, self.noise, self.reference or LogNormalNoise())
