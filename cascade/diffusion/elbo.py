"""The evidence lower bound: how many nats a diffusion model needs at most for a picture.

    −ln p(x) ≤ KL(q(x_T | x) ‖ p(x_T)) + Σ E KL(q(x_s | x_t, x) ‖ p(x_s | x_t)) + E[−ln p(x | x_1)]
               prior                     diffusion, over the steps of a grid       decoder

(Sohl-Dickstein et al. 2015; Ho et al. 2020, equation 5). With the small variance a step's KL is
½(e^{λs} − e^{λt})·‖x − x̂‖² = ½·expm1(λs − λt)·‖ε − ε̂‖², so for ever shorter steps the sum becomes ½∫ E‖ε − ε̂‖² dλ
between the same ends, whatever the schedule (Kingma et al. 2021, equations 11 to 18).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from cascade.diffusion.condition import Condition
from cascade.diffusion.denoiser import Denoiser
from cascade.diffusion.elbo_ends import Decoder, DiscretisedGaussian, Prior, WhitePrior
from cascade.diffusion.ladder import LadderNoise
from cascade.diffusion.log_snr import diffuse, per_image
from cascade.diffusion.loss import diffusion_loss
from cascade.diffusion.noise import NoiseDistribution
from cascade.diffusion.reverse import ReverseStep, Variance
from cascade.diffusion.weighting import ELBOWeighting
from cascade.errors import CascadeError


class ElboDraws(Protocol):
    """The random numbers of an estimate, by the number of the term: the same names, the same numbers."""

    def normal(self, term: int) -> Tensor:
        """Standard normal, like the pictures (B, ...)."""
        ...

    def uniform(self, term: int) -> Tensor:
        """Uniform on [0, 1), (B,)."""
        ...


@dataclass(frozen=True, eq=False)
class Elbo:
    """The terms of −ELBO of each picture, (B,) float64, in nats.

    >>> Elbo(torch.zeros(1), torch.ones(1), torch.ones(1)).total
    tensor([2.])
    """

    prior: Tensor
    diffusion: Tensor
    decoder: Tensor

    @property
    def total(self) -> Tensor:
        """Their sum, an unbiased estimate of an upper bound of −ln p(x)."""
        return self.prior + self.diffusion + self.decoder


def discrete_elbo(
    denoiser: Denoiser,
    x: Tensor,
    log_snrs: Tensor,
    condition: Condition,
    draws: ElboDraws,
    *,
    variance: Variance = "small",
    prior: Prior = WhitePrior(),  # noqa: B008  (frozen)
    decoder: Decoder = DiscretisedGaussian(),  # noqa: B008
) -> Elbo:
    """Return the bound of ancestral sampling on the grid `log_snrs`, with `decoder` in the place of the last step.

    Down to the last finite level it is the chain of `Ancestral(variance)`; the step from there to the picture, for
    which ancestral sampling returns x̂ and has no density, is the decoder's.

    x (B, ...) in [−1, 1]; log_snrs (N,) or, as for sampling, (N+1,) with +inf at its end, noisiest first. Each of the N
    levels asks the denoiser once, with noise of its own: term i is level i's, the last is the decoder's.

    >>> from cascade.diffusion import GaussianDenoiser
    >>> class Zero:
    ...     def normal(self, term): return torch.zeros(1, 2)
    >>> oracle = GaussianDenoiser(torch.zeros(2), torch.eye(2))
    >>> grid = torch.tensor([-9.0, 0.0, 9.0, torch.inf], dtype=torch.float64)
    >>> discrete_elbo(oracle, torch.zeros(1, 2), grid, Condition(), Zero()).diffusion
    tensor([0.], dtype=torch.float64)
    """
    levels = log_snrs[log_snrs.isfinite()].tolist()
    if len(levels) < 1:
        raise CascadeError("a bound needs at least one level")
    diffusion = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for term, (t, s) in enumerate(pairwise(levels)):
        x_t = diffuse(x, draws.normal(term), t)
        posterior = denoiser(x_t, per_image(t, x), condition)
        step = ReverseStep(t, s)
        # The means differ by their parts in x alone.
        difference = step.mean(torch.zeros_like(x), x - posterior.mean)
        diffusion += step.spread(variance, posterior).kl(difference, step.small)
    last = decoder.nats(denoiser, x, levels[-1], condition, draws.normal(len(levels) - 1))
    return Elbo(prior.nats(x, levels[0]).double(), diffusion, last.double())


def continuous_elbo(
    denoiser: Denoiser,
    x: Tensor,
    noise: NoiseDistribution,
    condition: Condition,
    draws: ElboDraws,
    *,
    points: int,
    prior: Prior = WhitePrior(),  # noqa: B008
    decoder: Decoder = DiscretisedGaussian(),  # noqa: B008
) -> Elbo:
    """Return the bound for infinitely many steps, ½∫ E‖ε − ε̂‖² dλ by `points` levels for each picture.

    The levels are λ_i = icdf((i + u_i)/points), one in each stratum of `noise`, weighted by 1/p(λ_i): an unbiased
    estimate, whatever the noise; the ends are the noise's own, and so are the levels of prior and decoder. x (B, ...)
    in [−1, 1]. Term i is level i's, term `points` the decoder's.

    >>> from cascade.diffusion import GaussianDenoiser, LogNormalNoise
    >>> class Zero:
    ...     def normal(self, term): return torch.zeros(1, 2)
    ...     def uniform(self, term): return torch.full((1,), 0.5)
    >>> oracle = GaussianDenoiser(torch.zeros(2), torch.eye(2))
    >>> continuous_elbo(oracle, torch.zeros(1, 2), LogNormalNoise(), Condition(), Zero(), points=4).diffusion
    tensor([0.], dtype=torch.float64)
    """
    if points < 1:
        raise CascadeError(f"points={points} must be at least 1")
    if isinstance(noise, LadderNoise):
        raise CascadeError("a ladder has no density, and this bound is an integral: take a noise that has one")
    weighting = ELBOWeighting(noise)
    diffusion = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for term in range(points):
        level = noise.icdf((term + draws.uniform(term).double()) / points).to(per_image(0.0, x))
        loss = diffusion_loss(denoiser, x, level, draws.normal(term), condition, weighting)
        diffusion += 0.5 * x[0].numel() / points * loss
    low, high = (float(noise.icdf(end)) for end in (0.0, 1.0))
    last = decoder.nats(denoiser, x, high, condition, draws.normal(points))
    return Elbo(prior.nats(x, low).double(), diffusion, last.double())
