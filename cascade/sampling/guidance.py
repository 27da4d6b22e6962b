"""Guidance: denoisers made of denoisers. They nest, and no sampler knows of them."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cascade.diffusion import Condition, Denoiser, Posterior
from cascade.errors import CascadeError


@dataclass(frozen=True)
class Unguided:
    """The identity: the conditional denoiser as it is.

    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.zeros(2), torch.eye(2))
    >>> Unguided(oracle)(torch.ones(1, 2), torch.zeros(1), Condition()).mean
    tensor([[0.7071, 0.7071]])
    """

    denoiser: Denoiser

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        """The posterior of the denoiser itself."""
        return self.denoiser(x_t, log_snr, condition)


@dataclass(frozen=True)
class ClassifierFree:
    """x̂ = x̂(null) + s (x̂(condition) − x̂(null)): classifier-free guidance at `scale` s = 1 + w.

    Linear in x̂, so it is the same on ε̂, v and the score. s = 0 is the null mean. ClassifierFree with scale 1 reduces to
    Unguided, in one call; so does any scale when the condition has no label, since only the label is dropped. Else two
    calls: the covariance is dropped, and the rest of the posterior is the conditional branch's.

    Ho & Salimans 2022, equation 6, where w is their weight. Raises CascadeError unless the scale is finite.

    >>> from cascade.diffusion.oracle import MixtureDenoiser
    >>> oracle = MixtureDenoiser(torch.ones(2) / 2, torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1, 1))
    >>> guided = ClassifierFree(oracle, scale=3.0)
    >>> guided(torch.zeros(1, 1), torch.zeros(1), Condition(label=torch.tensor([1]))).mean
    tensor([[3.]])
    """

    denoiser: Denoiser
    scale: float

    def __post_init__(self) -> None:
        check_scale(self.scale)

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        """The guided posterior."""
        conditional = self.denoiser(x_t, log_snr, condition)
        if self.scale == 1 or condition.label is None:
            return conditional
        null = self.denoiser(x_t, log_snr, condition.null())
        return replace(conditional, mean=torch.lerp(null.mean, conditional.mean, self.scale), covariance=None)


@dataclass(frozen=True)
class Unconditional:
    """The denoiser without the label: its null branch, or a network that knows no classes. The low-res picture stays.

    >>> from cascade.diffusion.oracle import MixtureDenoiser
    >>> oracle = MixtureDenoiser(torch.ones(2) / 2, torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1, 1))
    >>> Unconditional(oracle)(torch.zeros(1, 1), torch.zeros(1), Condition(label=torch.tensor([1]))).mean
    tensor([[0.]])
    """

    denoiser: Denoiser

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        """The posterior of the denoiser itself, for no class."""
        return self.denoiser(x_t, log_snr, replace(condition, label=None))


@dataclass(frozen=True)
class AutoGuidance:
    """x̂ = x̂_bad + s (x̂_good − x̂_bad): guidance by a weaker version of the model itself, at `scale` s.

    Both are asked the same: `bad` is a smaller or shorter trained model, or an earlier average of the weights, of the
    same data, so what is amplified is what training still improves, and not the class. Labels are not needed. Linear in
    x̂, so it is the same on ε̂, v and the score. AutoGuidance with scale 1 reduces to `good`, in one call; a denoiser
    guided by itself reduces to itself, bit for bit; with bad = Unconditional(good) it reduces to ClassifierFree. Else
    two calls: the covariance is dropped, and the rest of the posterior is that of `good`.

    Karras et al. 2024, "Guiding a diffusion model with a bad version of itself", section 4, where s is w. Raises
    CascadeError unless the scale is finite.

    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> good, bad = (GaussianDenoiser(torch.full((1,), mean), torch.zeros(1, 1)) for mean in (1.0, 0.5))
    >>> AutoGuidance(good, bad, scale=2.0)(torch.zeros(1, 1), torch.zeros(1), Condition()).mean
    tensor([[1.5000]])
    """

    good: Denoiser
    bad: Denoiser
    scale: float

    def __post_init__(self) -> None:
        check_scale(self.scale)

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        """The guided posterior."""
        good = self.good(x_t, log_snr, condition)
        if self.scale == 1:
            return good
        bad = self.bad(x_t, log_snr, condition)
        return replace(good, mean=torch.lerp(bad.mean, good.mean, self.scale), covariance=None)


def autoguidance(denoiser: Denoiser, weak: Denoiser, scale: float = 2.0) -> AutoGuidance:
    """AutoGuidance(denoiser, weak, scale), as `guidance=autoguidance` builds it; in a config `weak` is a folder.

    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.zeros(1), torch.eye(1))
    >>> autoguidance(oracle, weak=oracle).scale
    2.0
    """
    return AutoGuidance(denoiser, weak, scale)


@dataclass(frozen=True)
class Interval:
    """`guided` where `lo` ≤ λ < `hi`, `plain` elsewhere: guidance in a limited interval.

    Kynkäänniemi et al. 2024, equation 3, whose interval (σ_lo, σ_hi] is λ from −2 ln σ_hi to −2 ln σ_lo. Interval over
    the whole line (−inf, +inf) reduces to the guided denoiser. A batch at one level calls one of the two; a batch at
    mixed levels calls both and takes each image's. Raises CascadeError unless lo < hi.

    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> zero, one = (GaussianDenoiser(torch.full((1,), mean), torch.zeros(1, 1)) for mean in (0.0, 1.0))
    >>> Interval(one, zero, lo=-2.0, hi=2.0)(torch.ones(2, 1), torch.tensor([1.0, 3.0]), Condition()).mean
    tensor([[1.],
            [0.]])
    """

    guided: Denoiser
    plain: Denoiser
    lo: float
    hi: float

    def __post_init__(self) -> None:
        if not self.lo < self.hi:
            raise CascadeError(f"an interval runs from lo to a larger hi in log-SNR, not from {self.lo} to {self.hi}")

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        """The posterior of the denoiser in charge at `log_snr`."""
        inside = (self.lo <= log_snr) & (log_snr < self.hi)
        if inside.all():
            return self.guided(x_t, log_snr, condition)
        if not inside.any():
            return self.plain(x_t, log_snr, condition)
        guided, plain = self.guided(x_t, log_snr, condition), self.plain(x_t, log_snr, condition)
        return Posterior(
            mean=_choose(inside, guided.mean, plain.mean),
            covariance=_choose(inside, guided.covariance, plain.covariance),
            variance_fraction=_choose(inside, guided.variance_fraction, plain.variance_fraction),
            log_uncertainty=_choose(inside, guided.log_uncertainty, plain.log_uncertainty),
        )


def interval(denoiser: Denoiser, guided: Denoiser, lo: float = -2.13, hi: float = 2.55) -> Interval:
    """Interval(guided, denoiser, lo, hi), as `guidance=interval` builds it; in a config `guided` is another guidance.

    The default interval is σ in (0.28, 2.9], which the paper found for EDM2-S on ImageNet at 512 px.

    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.zeros(1), torch.eye(1))
    >>> interval(oracle, ClassifierFree(oracle, 3.0)).guided.scale
    3.0
    """
    return Interval(guided, denoiser, lo, hi)


def check_scale(scale: float) -> None:
    """Raise CascadeError unless the scale is finite."""
    if not math.isfinite(scale):
        raise CascadeError(f"a guidance scale must be finite, not {scale}")


def _choose(mask: Tensor, first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return None
    return torch.where(mask.reshape(-1, *[1] * (first.ndim - 1)), first, second)
