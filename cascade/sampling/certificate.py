"""The sampler certificate: the exact divergence of what a sampler makes from the data, without training or randomness.

On Gaussian data the exact denoiser is affine, so a sampler is an affine map of its start, of the data's mean and of the
noise that it draws. Pictures of power 1/f² are independent in frequency, so one call that has unit impulses on all
frequencies reads the whole map. Thresholding is not affine and guidance has no meaning here: both stay outside.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.diffusion import Condition, Posterior, alpha_sigma
from cascade.diffusion.cascade_oracle import DiagonalGaussian, GaussianCascade, gaussian_kl
from cascade.errors import CascadeError
from cascade.sampling.transition import Sampler, check_grid

_CHUNK = 1 << 20  # numbers that a sampler is given at once
_MOST_CALLS = 4096
_AFFINE = 1e-7


class NotAffineError(CascadeError):
    """The sampler is no affine map of its noise, whatever the grid: it has no certificate.

    >>> from cascade.sampling import PredictorCorrector
    >>> grid = torch.tensor([-9.0, 0.0, 9.0], dtype=torch.float64)
    >>> output_moments(PredictorCorrector(), torch.ones(1), grid)
    Traceback (most recent call last):
    cascade.sampling.certificate.NotAffineError: it is not an affine map of its noise, so its output is not Gaussian
    """


@dataclass(frozen=True, eq=False)
class Bands:
    """Gaussian data x ~ N(m, v), independent numbers, alike within a band; all (F,) float64.

    variance   v, positive
    told       the variance of m over the pictures that a stage is told of; 0 in a base
    count      how many numbers a band has
    frequency  their mean frequency, in cycles over the picture

    >>> Bands(*torch.tensor([[3.0, 1.0], [0.0, 0.0], [1.0, 2.0], [0.5, 1.0]])).count.sum()  # how many numbers
    tensor(3.)
    """

    variance: Tensor
    told: Tensor
    count: Tensor
    frequency: Tensor

    def denoising_loss(self, log_snr: Tensor) -> Tensor:
        """Return the exact denoiser's E(ε − ε̂)² at λ (M,), the mean α²v/(α²v + σ²) over all numbers; (M,) float64.

        >>> Bands(*torch.tensor([[3.0], [0.0], [1.0], [0.5]])).denoising_loss(torch.tensor([0.0]))
        tensor([0.7500], dtype=torch.float64)
        """
        snr = log_snr.double().exp()[:, None] * self.variance.double()
        return (snr / (1 + snr) * self.count).sum(1) / self.count.sum()


def picture_bands(side: int, low_side: int | None = None, aug_log_snr: float = math.inf, width: float = 0.05) -> Bands:
    """Return one colour of the 1/f² Gaussian of side² pixels in bands, each a factor e^`width` of variance wide.

    The oracle is `GaussianCascade` (pixels of standard deviation 0.5); a band has the mean variance of its frequencies,
    and the low ones have a band each. With `low_side` it is the picture given its small one at the augmentation level
    `aug_log_snr`; what a small picture without noise tells is known, and left out.

    >>> base, told = picture_bands(8), picture_bands(8, 4, 6.0)
    >>> int(base.count.sum()), bool((told.variance + told.told).sum() < base.variance.sum() * 2)
    (64, True)
    """
    cascade = GaussianCascade((side,) if low_side is None else (low_side, side))
    stage = len(cascade.sides) - 1
    variance = cascade.variances(stage)
    # A pixel of a small picture is the mean of (side/low_side)² pixels, not their sum over side/low_side, as in the
    # cascade's unit-norm basis: the same noise weighs (side/low_side)² times more against it.
    level = aug_log_snr - 2 * math.log(side / (low_side or side))
    left = cascade.conditional_variances(stage, level)
    low = torch.zeros_like(variance)
    low[: low_side or 0, : low_side or 0] = 1
    index = torch.arange(side, dtype=torch.float64)
    frequency = (index.square() + index.square()[:, None]).sqrt() / 2

    known = left == 0
    band = (2 * (variance.log() / width).round() + low)[~known]
    values, place = band.unique(return_inverse=True)
    count = torch.bincount(place, minlength=len(values)).double()

    def mean(numbers: Tensor) -> Tensor:
        return torch.bincount(place, numbers[~known], minlength=len(values)) / count

    order = mean(frequency).argsort()
    columns = mean(left), mean(cascade.kept(stage, level) * variance), count, mean(frequency)
    return Bands(*(column[order] for column in columns))


@dataclass(frozen=True, eq=False)
class OutputMoments:
    """A sampler's output on data N(m, v): mean gain·m, and its variance; (F,) float64. And what it cost.

    >>> OutputMoments(gain=torch.ones(2), variance=torch.ones(2), calls=8, draws=0).calls
    8
    """

    gain: Tensor
    variance: Tensor
    calls: int
    draws: int


def output_moments(
    sampler: Sampler,
    variance: Tensor,
    log_snrs: Tensor,
    start_variance: Tensor | None = None,
    max_work: float = 3e7,
) -> OutputMoments:
    """Return the exact moments of the sampler's output with the exact denoiser of N(m, `variance`), (F,).

        output = gain·m + a·start + Σ b_j·z_j,  variance = a²·start_variance + Σ b_j²

    The coefficients are the outputs for unit impulses in m, in the start and in each draw of noise. `start_variance`
    (F,) is σ²(λ0) unless given: samplers start from x = σ·ε, whatever the data. Raises NotAffineError for a
    sampler that is no affine map, and CascadeError for one that diverges or whose network calls times impulses times F
    exceed `max_work`.

    >>> from cascade.sampling.ancestral import Ancestral
    >>> grid = torch.tensor([-9.0, 0.0], dtype=torch.float64)
    >>> round(output_moments(Ancestral("optimal"), torch.ones(1), grid, torch.ones(1)).variance.item(), 12)
    1.0
    """
    variance, sigma = variance.double(), alpha_sigma(check_grid(log_snrs)[0])[1]
    start = (sigma.square().expand(variance.shape) if start_variance is None else start_variance.double()).sqrt()
    # A run without noise finds the draws, which the sampler decides on; for one that draws nothing it is all.
    survey = _Impulses(variance, start, None, _MOST_CALLS)
    out = survey.through(sampler, log_snrs)
    calls, draws = survey.calls, survey.met
    if calls * (len(draws) + 3) * len(variance) > max_work:
        raise CascadeError(f"{calls} network calls with {len(draws)} draws of noise are too many to certify")
    if draws:
        size = max(1, _CHUNK // (len(draws) + 3))
        chunks = zip(variance.split(size), start.split(size), strict=True)
        out = torch.cat([_Impulses(*chunk, draws).through(sampler, log_snrs) for chunk in chunks], dim=1)
    apart, together = out[:-1], out[-1]
    if not bool(out.square().sum(0).isfinite().all()):
        raise CascadeError("it diverges on this grid")
    if bool(((apart.sum(0) - together).abs() > _AFFINE * apart.abs().sum(0).clamp_min(1e-12)).any()):
        raise NotAffineError("it is not an affine map of its noise, so its output is not Gaussian")
    return OutputMoments(apart[0], apart[1:].square().sum(0), calls, len(draws))


@dataclass(frozen=True, eq=False)
class Certificate:
    """How far a sampler's output is from the data, exactly.

    steps, calls    length of the grid, and network calls of a picture
    nats            E KL(output ‖ data) of one colour, the mean over what the stage is told
    per_dimension   the same for each number
    ratio           variance of the output over the data's, for each band (F,)
    band_nats       the KL of one number of each band (F,)

    >>> from cascade.sampling import DDIM, uniform_log_snr
    >>> certificate = certify(DDIM(), uniform_log_snr(-9.0, 9.0, 8), picture_bands(8))
    >>> certificate.steps, certificate.calls, certificate.nats > 0
    (8, 8, True)
    """

    steps: int
    calls: int
    nats: float
    per_dimension: float
    ratio: Tensor
    band_nats: Tensor


def certify(sampler: Sampler, log_snrs: Tensor, bands: Bands, start_variance: Tensor | None = None) -> Certificate:
    """Certify a sampler on a grid: Σ ½(v/r − 1 − ln(v/r) + (gain − α)²·told/r), r = α²·variance + σ² at the last level.

    At λ = +inf r is the data's variance. The output's variance v and gain are those of `output_moments`, which says
    what is raised.

    >>> from cascade.sampling import DDIM, uniform_log_snr
    >>> bands = picture_bands(8)
    >>> few, many = (certify(DDIM(), uniform_log_snr(-9.0, 9.0, n), bands).nats for n in (8, 64))
    >>> few > 10 * many > 0
    True
    """
    moments = output_moments(sampler, bands.variance, log_snrs, start_variance)
    alpha, sigma = alpha_sigma(log_snrs[-1])
    data = alpha.square() * bands.variance + sigma.square()
    each = torch.vmap(gaussian_kl)(moments.variance, data, (moments.gain - alpha) * bands.told.sqrt())
    nats = float((each * bands.count).sum())
    ratio = moments.variance / data
    return Certificate(len(log_snrs) - 1, moments.calls, nats, nats / float(bands.count.sum()), ratio, each)


class _Impulses:
    """Rows of unit impulses on F numbers, and the denoiser of these: m, the start, each draw, then all at once.

    To a sampler each of the numbers is a picture of its own. Without `draws` it is a survey, which notes them in `met`.
    """

    def __init__(
        self,
        variance: Tensor,
        start: Tensor,
        draws: Sequence[tuple[int, int]] | None,
        max_calls: float = math.inf,
    ) -> None:
        self.surveys = draws is None
        self.row_of = {draw: row for row, draw in enumerate(draws or (), start=2)}
        self.met: list[tuple[int, int]] = []
        self.rows, self.numbers = len(self.row_of) + 3, len(variance)
        self.calls, self.max_calls = 0, max_calls
        mean, begin = torch.zeros(2, self.rows, self.numbers, dtype=torch.float64)
        mean[[0, -1]] = 1
        begin[[1, -1]] = start
        self.start = begin.reshape(-1, 1)
        self.oracle = DiagonalGaussian(variance.repeat(self.rows)[:, None], mean.reshape(-1, 1))

    def through(self, sampler: Sampler, log_snrs: Tensor) -> Tensor:
        """The sampler's output for each row, (rows, F)."""
        return sampler(self, self.start, log_snrs, Condition(), self.randn).reshape(self.rows, self.numbers)

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        self.calls += 1
        if self.calls > self.max_calls:
            raise CascadeError(f"more than {self.max_calls:g} network calls are too many to certify")
        return self.oracle(x_t, log_snr, condition)

    def randn(self, step: int, draw: int = 0) -> Tensor:
        """1 in the row of this draw and in the last row, which has all of them."""
        key = (step, draw)
        if self.surveys and key not in self.met:
            self.met.append(key)
        noise = torch.zeros(self.rows, self.numbers, dtype=torch.float64)
        if key in self.row_of:
            noise[self.row_of[key]] = 1
            noise[-1] = 1
        elif not self.surveys:
            raise NotAffineError("it draws other noise for other pictures, so its output is not Gaussian")
        return noise.reshape(-1, 1)
