"""What a noise distribution and a weighting train, level by level: the curves p(λ) and w(λ) = ratio(λ)·p(λ)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.diffusion.ladder import GridNoise, LadderNoise
from cascade.diffusion.noise import NoiseDistribution
from cascade.diffusion.weighting import Weighting


@dataclass(frozen=True, eq=False)
class TrainingProfile:
    """p and w at the levels `log_snr`, rising, all (M,) float64.

    p         density of the levels that are drawn; of a ladder (`ladder`) the probability of each of its levels
    w         weight of ‖ε − ε̂‖² in the expected loss, whatever p is (Kingma & Gao 2023, eq. 11)
    w_on_x    the same loss as a weight of ‖x − x̂‖²: e^λ·w

    >>> levels, half = torch.linspace(0, 2, 5, dtype=torch.float64), torch.full((5,), 0.5, dtype=torch.float64)
    >>> profile = TrainingProfile(levels, p=half, w=half, w_on_x=levels.exp() / 2, ladder=False)
    >>> profile.total(profile.p)
    1.0
    """

    log_snr: Tensor
    p: Tensor
    w: Tensor
    w_on_x: Tensor
    ladder: bool

    def total(self, curve: Tensor) -> float:
        """The integral of a curve over λ (trapezoids), or the sum over a ladder's levels."""
        return float(curve.sum() if self.ladder else torch.trapezoid(curve, self.log_snr))

    def share(self, curve: Tensor) -> Tensor:
        """A curve scaled to total 1: which levels its loss comes from, if all were equally hard."""
        return curve / self.total(curve)


def training_profile(noise: NoiseDistribution, weighting: Weighting, points: int = 2001) -> TrainingProfile:
    """Return p and w at `points` levels at equal distances over the whole support, or at the levels of a ladder.

    They are read from `noise.icdf`, `noise.log_density` and `weighting.log_ratio`, as training reads them.

    >>> from cascade.diffusion.noise import LogNormalNoise
    >>> from cascade.diffusion.weighting import SigmoidWeighting
    >>> noise = LogNormalNoise()
    >>> profile = training_profile(noise, SigmoidWeighting(noise, bias=-1.0))
    >>> round(profile.total(profile.p), 6), round(float(profile.w[profile.log_snr >= -1][0]), 2)
    (1.0, 0.5)
    """
    if ladder := isinstance(noise, LadderNoise | GridNoise):
        log_snr = noise.log_snrs
    else:
        ends = noise.icdf(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        log_snr = torch.linspace(*ends, points, dtype=torch.float64)
    log_p = noise.log_density(log_snr)
    w = (weighting.log_ratio(log_snr) + log_p).exp()
    return TrainingProfile(log_snr, log_p.exp(), w, log_snr.exp() * w, ladder)
