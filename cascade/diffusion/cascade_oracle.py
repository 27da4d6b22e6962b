"""An exact cascade: Gaussian pictures of power 1/f², whose base, super-resolution stages and augmentation are known.

Everything is diagonal in frequency. A picture X (d×d) has the coefficients c = K X Kᵀ, K the orthonormal DCT-II matrix
of d points, and c_uv ~ N(0, s²_uv), independent. Shrinking keeps the low frequencies u, v < d' and is their picture of
d'×d': an orthogonal projection, so the small picture has the same coefficients as the large one ("unit-norm basis";
the mean-preserving small picture of the library's data is d'/d times it). So each stage, whatever it is conditioned on,
is a Gaussian for each frequency by itself, and densities, entropies and divergences are sums over frequencies.

Use it to prove what is said of cascades (ELBO, conditioning augmentation) and to see what a sampler does to pictures
whose spectrum is that of photographs, without training and without randomness.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cascade.diffusion.condition import Condition
from cascade.diffusion.denoiser import Posterior
from cascade.diffusion.log_snr import over


def dct_matrix(side: int) -> Tensor:
    """Return K (side, side) float64, orthonormal: K_uj = √((1 + [u > 0])/side)·cos(π(j + ½)u/side) (the DCT-II).

    >>> matrix = dct_matrix(4)
    >>> torch.allclose(matrix @ matrix.T, torch.eye(4, dtype=torch.float64))
    True
    """
    place = torch.arange(side, dtype=torch.float64)
    matrix = (math.pi / side * (place + 0.5) * place[:, None]).cos() * math.sqrt(2 / side)
    matrix[0] = side**-0.5
    return matrix


def frequencies(pictures: Tensor) -> Tensor:
    """Return the DCT coefficients (..., d, d) of pictures (..., d, d), in their dtype."""
    matrix = dct_matrix(pictures.shape[-1]).to(pictures)
    return matrix @ pictures @ matrix.mT


def pictures_of(coefficients: Tensor) -> Tensor:
    """Return the pictures (..., d, d) of DCT coefficients (..., d, d): the inverse of `frequencies`.

    >>> picture = torch.arange(9.0).reshape(1, 1, 3, 3)
    >>> torch.allclose(pictures_of(frequencies(picture)), picture, atol=1e-5)
    True
    """
    matrix = dct_matrix(coefficients.shape[-1]).to(coefficients)
    return matrix.mT @ coefficients @ matrix


def project(pictures: Tensor, side: int) -> Tensor:
    """Return the pictures (..., side, side) of the low frequencies of pictures (..., d, d), d ≥ side.

    >>> project(torch.ones(1, 4, 4), 2)
    tensor([[[2.0000, 2.0000],
             [2.0000, 2.0000]]])
    """
    return pictures_of(frequencies(pictures)[..., :side, :side])


def gaussian_kl(variance: Tensor, reference: Tensor, difference: Tensor | float = 0.0) -> Tensor:
    """Return Σ ½(v/r − 1 − ln(v/r) + m²/r), the KL divergence of N(m, v) from N(0, r) summed over all frequencies.

    Nats, as a scalar. variance v and reference r positive, difference m of the means, of one shape.

    >>> gaussian_kl(torch.tensor([2.0]), torch.tensor([1.0]))
    tensor(0.1534)
    """
    excess = (variance - reference) / reference
    return 0.5 * (excess - excess.log1p() + torch.as_tensor(difference).square() / reference).sum()


@dataclass(frozen=True, eq=False)
class DiagonalGaussian:
    """Numbers x ~ N(m, v), each by itself: the oracle of coefficients, or of any data that are diagonal as they are.

        mean = m + α·v(x_t − α·m)/(α²v + σ²),  covariance = diag(σ²·v/(α²v + σ²))

    mean m and variance v (≥ 0), tensors or numbers, are broadcast over x_t (B, ...). One call treats all frequencies of
    a spectrum, so the unit impulses that measure a sampler (one for each draw of noise) may stand on all of them at
    once.

    >>> oracle = DiagonalGaussian(torch.tensor([1.0, 0.0]))
    >>> oracle(torch.ones(1, 2), torch.zeros(1), Condition()).mean
    tensor([[0.7071, 0.0000]])
    """

    variance: Tensor | float
    mean: Tensor | float = 0.0

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:  # noqa: ARG002
        """Return mean (of x_t's shape and dtype) and covariance (B, D, D) at λ (B,); the condition is not read."""
        level = over(log_snr, x_t).double()
        signal, noise = level.sigmoid(), (-level).sigmoid()
        variance, prior = (torch.as_tensor(value).to(level) for value in (self.variance, self.mean))
        share = variance / (signal * variance + noise)
        mean = prior + signal.sqrt() * share * (x_t.double() - signal.sqrt() * prior)
        diagonal = (noise * share).expand(mean.shape).flatten(1)
        return Posterior(mean.to(x_t.dtype), diagonal.diag_embed().to(x_t.dtype))


@dataclass(frozen=True, eq=False)
class GaussianCascade:
    """Pictures of independent coefficients with variance s² = `power`/max(1, u² + v²)^{exponent/2}, at several sizes.

    sides     the picture sizes of the stages, rising; stage 0 is the base
    exponent  of the power spectrum; 2 is that of photographs (Field 1987)
    std       standard deviation of a pixel of the largest pictures; it fixes `power`

    Colours are independent and alike, so pictures are (B, C, d, d) with any C; sums over frequencies are for one.

    >>> cascade = GaussianCascade((2, 4))
    >>> x = cascade.pictures(torch.ones(1, 1, 4, 4))
    >>> low = project(x, 2)
    >>> condition = Condition(low_res=low, aug_log_snr=torch.tensor([torch.inf]))
    >>> mean = cascade.denoiser(1)(0 * x, torch.tensor([-9.0]), condition).mean
    >>> torch.allclose(project(mean, 2), low)
    True
    """

    sides: tuple[int, ...] = (4, 8, 16)
    exponent: float = 2.0
    std: float = 0.5

    def __post_init__(self) -> None:
        if not self.sides or self.sides[0] < 1 or list(self.sides) != sorted(set(self.sides)):
            raise ValueError(f"sides must be at least 1 and rise, not {self.sides}")
        if not (math.isfinite(self.exponent) and 0 < self.std < math.inf):
            raise ValueError(f"need a finite exponent and a positive std, not {self.exponent} and {self.std}")

    def variances(self, stage: int) -> Tensor:
        """Return s² (d, d) float64 of the coefficients of stage `stage`'s pictures."""
        side = self.sides[stage]
        return self._variances[:side, :side]

    def pictures(self, noise: Tensor, stage: int = -1) -> Tensor:
        """Return pictures of stage `stage` (default: the largest) made of standard normal `noise` of their shape."""
        return pictures_of(self.variances(stage).sqrt().to(noise) * noise)

    def denoiser(self, stage: int) -> "CascadeStage":
        """Return the exact denoiser of a stage; a stage above 0 reads `low_res` and `aug_log_snr` of its condition."""
        return CascadeStage(self, stage)

    def kept(self, stage: int, aug_log_snr: float) -> Tensor:
        """Return κ = α²s²/(α²s² + σ²) (d, d): the share of x's variance that the augmented low-res picture tells.

        κ = 0 above the low-res picture's frequencies, and everywhere in the base; κ = 1 below them at λ_a = +inf.
        """
        if stage == 0:
            return torch.zeros_like(self.variances(0))
        level = torch.tensor(aug_log_snr, dtype=torch.float64)
        low = self.variances(stage - 1)
        return self.widen(level.sigmoid() * low / (level.sigmoid() * low + (-level).sigmoid()), stage)

    def conditional_variances(self, stage: int, aug_log_snr: float) -> Tensor:
        """Return Var[c | augmented low-res picture] = (1 − κ)s² = σ²s²/(α²s² + σ²), (d, d); in the base s²."""
        if stage == 0:
            return self.variances(0)
        level = torch.tensor(aug_log_snr, dtype=torch.float64)
        low = self.variances(stage - 1)
        return self.unknown(stage) + self.widen(low / (level.exp() * low + 1), stage)

    def chained_variances(self, stage: int, low_variances: Tensor, aug_log_snr: float) -> Tensor:
        """Return the coefficients' variances (d, d) when stage `stage` samples exactly from imperfect small pictures.

            small pictures of variance s²(1 + δ)  →  s²(1 + κ²δ);  where nothing is told, s²

        `low_variances` (d', d') are those of the stage before, whose mean is 0. With s² itself it is s² again.
        """
        side = self.sides[stage - 1]
        kept = self.kept(stage, aug_log_snr)[:side, :side]
        return self.variances(stage) + self.widen(
            kept.square() * (low_variances.double() - self.variances(stage - 1)), stage
        )

    def augmented_variances(self, stage: int, low_variances: Tensor, aug_log_snr: float) -> Tensor:
        """Return α²·v + σ² (d', d'), the variances of the augmented low-res coefficients that stage `stage` is told.

        With v = s²(1 + δ) they are 1 + κδ times what they are for the data.
        """
        if tuple(low_variances.shape) != (self.sides[stage - 1],) * 2:
            raise ValueError(f"stage {stage} is told {self.sides[stage - 1]} px, not {tuple(low_variances.shape)}")
        level = torch.tensor(aug_log_snr, dtype=torch.float64)
        return level.sigmoid() * low_variances.double() + (-level).sigmoid()

    def widen(self, low: Tensor, stage: int) -> Tensor:
        """Put numbers (..., d', d') of the low-res frequencies among those of stage `stage`, (..., d, d), beside 0."""
        more = self.sides[stage] - self.sides[stage - 1]
        return torch.nn.functional.pad(low, (0, more, 0, more))

    def unknown(self, stage: int) -> Tensor:
        """Return s² (d, d) of the frequencies that the low-res picture does not have, and 0 at those that it has."""
        variance = self.variances(stage).clone()
        if stage:
            variance[: self.sides[stage - 1], : self.sides[stage - 1]] = 0
        return variance

    def entropy(self, stage: int, aug_log_snr: float, log_snr_max: float) -> float:
        """Return h(y | augmented low-res picture) in nats, y = x + e^{−λmax/2}·n: Σ ½ ln(2πe((1 − κ)s² + e^{−λmax})).

        Of one colour. In the base, whatever `aug_log_snr` is, it is h(y).
        """
        variance = self.conditional_variances(stage, aug_log_snr) + math.exp(-log_snr_max)
        return float(0.5 * (2 * math.pi * math.e * variance).log().sum())

    @cached_property
    def _variances(self) -> Tensor:
        side = self.sides[-1]
        index = torch.arange(side, dtype=torch.float64).square()
        spectrum = (index + index[:, None]).clamp(min=1) ** (-self.exponent / 2)
        # The mean variance of a pixel is the mean of the coefficients' variances.
        return spectrum * self.std**2 / spectrum.mean()


@dataclass(frozen=True, eq=False)
class CascadeStage:
    """The exact denoiser of one stage of a `GaussianCascade`: p(x | x_t) in the base, p(x | x_t, z) above it.

    z = α_a·low + σ_a·ε is `low_res` (B, C, d', d') of the condition, λ_a its `aug_log_snr` (B,), +inf where it is None.
    Given z a coefficient is N(m, v) with m = κ·z/α_a and v = (1 − κ)s²; given x_t too it is a `DiagonalGaussian`'s.
    The covariance of the posterior is that of the pixels, (B, D, D), D = C·d².

    >>> stage = GaussianCascade((2, 4)).denoiser(0)
    >>> posterior = stage(torch.zeros(1, 3, 2, 2), torch.zeros(1), Condition())
    >>> posterior.mean.shape, posterior.covariance.shape
    (torch.Size([1, 3, 2, 2]), torch.Size([1, 12, 12]))
    """

    cascade: GaussianCascade
    stage: int

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        """Return mean (of x_t's shape and dtype) and covariance (B, D, D) at λ (B,)."""
        mean, variance = self.prior(condition, x_t)
        told = DiagonalGaussian(variance, mean)(frequencies(x_t.double()), log_snr, condition)
        # c = T·x for the flattened picture of all colours.
        one = torch.kron(*[dct_matrix(x_t.shape[-1]).to(told.mean)] * 2)
        transform = torch.block_diag(*[one] * x_t.shape[1])
        covariance = transform.mT @ told.covariance @ transform
        return Posterior(pictures_of(told.mean).to(x_t.dtype), covariance.to(x_t.dtype))

    def prior(self, condition: Condition, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the coefficients before x_t is seen, each broadcast over `like` (B, C, d, d)."""
        variance = self.cascade.variances(self.stage).to(like.device)
        if like.ndim != 4 or like.shape[-2:] != variance.shape:
            raise ValueError(f"stage {self.stage} is of pictures (B, C, {len(variance)}, {len(variance)})")
        if self.stage == 0:
            return torch.zeros_like(variance), variance
        if condition.low_res is None:
            raise ValueError(f"stage {self.stage} needs low_res")
        told = condition.low_res.double()
        level = torch.full((len(told),), math.inf) if condition.aug_log_snr is None else condition.aug_log_snr
        level = over(level, told)
        signal, noise = level.sigmoid(), (-level).sigmoid()
        low = self.cascade.variances(self.stage - 1).to(told)
        share = low / (signal * low + noise)
        mean = self.cascade.widen(signal.sqrt() * share * frequencies(told), self.stage)
        return mean, self.cascade.unknown(self.stage).to(told) + self.cascade.widen(noise * share, self.stage)
