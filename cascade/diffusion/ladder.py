"""A ladder of noise levels, as in score matching: a probability for each of finitely many λ, and nothing between."""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from cascade.diffusion.noise import NoiseDistribution
from cascade.diffusion.schedule import as_tensor

_NEAR = 1e-4
"""How far from a level a λ may lie and still be it: float32 rounds a λ of 20 by 10⁻⁶."""


class _Ladder:
    """What ladders share: `log_snrs` (L,) float64, increasing, and `masses`, the probability of each."""

    log_snrs: Tensor
    masses: Tensor

    def icdf(self, u: Tensor | float) -> Tensor:
        """Return the u-quantile of λ, u ∈ [0, 1]: the first level at which the probabilities so far exceed u."""
        u = as_tensor(u)
        above = self.masses.cumsum(0).to(u.device)
        # At u = 1, and where rounding leaves the sum below u, it is the last level that has any probability.
        last = int(self.masses.nonzero()[-1])
        index = torch.searchsorted(above, u.detach().to(above.dtype), right=True).clamp(max=last)
        return self.log_snrs.to(u.device)[index].to(u.dtype)

    def log_density(self, log_snr: Tensor | float) -> Tensor:
        """Return ln P(λ_i) where λ is within 10⁻⁴ of a level λ_i, else −inf."""
        log_snr = as_tensor(log_snr)
        index = self.nearest(log_snr)
        near = (self.log_snrs.to(log_snr)[index] - log_snr).abs() < _NEAR
        return self.masses.to(log_snr)[index].log().where(near, -math.inf)

    def nearest(self, log_snr: Tensor) -> Tensor:
        """Return i of the level nearest to each λ, int64 of λ's shape."""
        return (log_snr.unsqueeze(-1) - self.log_snrs.to(log_snr)).abs().argmin(-1)


@dataclass(frozen=True)
class LadderNoise(_Ladder):
    """NCSN's geometric ladder (Song & Ermon 2019, section 3.2): `levels` values of σ from `sigma_max` to `sigma_min`.

        λ_i = −2 ln σ_max + (i/(L − 1))·2 ln(σ_max/σ_min),  i = 0 … L − 1

    σ is the noise on x/α, so this is the paper's perturbation x + σ_i·ε on the clock of the house. The measure counts
    levels: `log_density` is the logarithm of a level's probability (`probabilities`, noisiest first and normalised
    here; None: all alike), −inf beside the levels. A weighting under a ladder is a sum over levels, so its reference
    must be a ladder too. NCSN's own loss, σ²·‖score error‖² at every level alike, is `weighting=unit`. The default
    values are those of Song & Ermon 2020 ("Improved Techniques", CIFAR-10).

    >>> ladder = LadderNoise(sigma_min=0.01, sigma_max=1.0, levels=3)
    >>> ladder.icdf(torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.0000, 4.6052, 9.2103])
    >>> ladder.log_density(torch.tensor([9.2103, 9.0])).exp()
    tensor([0.3333, 0.0000])
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    levels: int = 232
    probabilities: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(f"need 0 < sigma_min < sigma_max, not {self.sigma_min} and {self.sigma_max}")
        step = 2 * math.log(self.sigma_max / self.sigma_min) / max(1, self.levels - 1)
        if self.levels < 2 or step < 10 * _NEAR:
            raise ValueError(f"{self.levels} levels do not fit between {self.sigma_min} and {self.sigma_max}")
        given = self.probabilities
        if given is not None and not (
            len(given) == self.levels and all(0 <= p < math.inf for p in given) and sum(given) > 0
        ):
            raise ValueError(f"probabilities must be {self.levels} numbers that are not negative, with a sum above 0")

    @cached_property
    def log_snrs(self) -> Tensor:
        """λ_i, (L,) float64, increasing: noisiest first."""
        ends = -2 * math.log(self.sigma_max), -2 * math.log(self.sigma_min)
        return torch.linspace(*ends, self.levels, dtype=torch.float64)

    @cached_property
    def masses(self) -> Tensor:
        """The probability of each level, (L,) float64."""
        given = self.probabilities or (1.0,) * self.levels
        weights = torch.tensor(given, dtype=torch.float64)
        return weights / weights.sum()


@dataclass(frozen=True)
class GridNoise(_Ladder):
    """Any finitely many levels, increasing, each as often: those of a sampling grid, at which a student is trained.

    >>> GridNoise((-9.0, 0.0)).icdf(torch.tensor([0.2, 0.7]))
    tensor([-9.,  0.])
    """

    levels: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in pairwise(self.levels))
        if not self.levels or not rising or not all(map(math.isfinite, self.levels)):
            raise ValueError(f"levels must be finite and increasing, and one at least, not {self.levels}")

    @cached_property
    def log_snrs(self) -> Tensor:
        """The levels, (L,) float64."""
        return torch.tensor(self.levels, dtype=torch.float64)

    @cached_property
    def masses(self) -> Tensor:
        """1/L each, (L,) float64."""
        return torch.full_like(self.log_snrs, 1 / len(self.levels))


def check_measures(noise: NoiseDistribution, reference: NoiseDistribution | None) -> None:
    """Raise ValueError where one of the two has a density and the other probabilities: their ratio means nothing."""
    if reference is not None and isinstance(noise, _Ladder) != isinstance(reference, _Ladder):
        raise ValueError(
            "the noise and the weighting's reference must both be ladders, or neither: say weighting.reference=null "
            "or choose a weighting without a reference"
        )
