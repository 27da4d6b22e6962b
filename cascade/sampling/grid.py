"""Sampling grids: the log-SNRs a sampler visits, n steps → (n+1,) float64, noisiest first, the last +inf.

A grid belongs to sampling alone: it need not come from the schedule a stage was trained with. The step into +inf
returns x̂, so n steps call the denoiser at n levels.
"""

import math
from itertools import accumulate, repeat

import torch
from torch import Tensor

from cascade.diffusion import DiscreteBetas, Schedule
from cascade.errors import CascadeError
from cascade.sampling.transition import check_grid

_LONGEST = 100_000
"""The most steps: beyond them a wrong number would fill the memory before anything is said."""


def uniform_t(schedule: Schedule, n: int) -> Tensor:
    """The levels of `schedule` at t = 1, 1 − 1/n, ..., 1/n, then +inf in the place of t = 0.

    The grid of DDPM (Ho et al. 2020) and DDIM (Song et al. 2021) in continuous time. Raises CascadeError for n < 1.

    >>> from cascade.diffusion import CosineSchedule
    >>> [round(log_snr, 2) for log_snr in uniform_t(CosineSchedule(), 2).tolist()]
    [-20.0, 0.0, inf]
    """
    t = torch.linspace(1, 0, _checked(n) + 1, dtype=torch.float64)[:-1]
    return _to_clean(schedule.log_snr(t))


def uniform_log_snr(log_snr_min: float, log_snr_max: float, n: int) -> Tensor:
    """n levels at equal distances in λ from `log_snr_min` to `log_snr_max`, then +inf; one step starts at the minimum.

    DPM-Solver's grid (Lu et al. 2022, section 3.3). Raises CascadeError unless n ≥ 1 and the ends are finite and
    in order.

    >>> uniform_log_snr(-10.0, 10.0, 3).tolist()
    [-10.0, 0.0, 10.0, inf]
    """
    if not (-math.inf < log_snr_min < log_snr_max < math.inf):
        raise CascadeError(f"log_snr_min={log_snr_min} must be below log_snr_max={log_snr_max}, and both finite")
    return _to_clean(torch.linspace(log_snr_min, log_snr_max, _checked(n), dtype=torch.float64))


def karras(n: int, rho: float = 7.0, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Tensor:
    """λ_i = −2 ln σ_i with σ_i = (σmax^{1/ρ} + i/(n−1) (σmin^{1/ρ} − σmax^{1/ρ}))^ρ, i < n, then +inf (σ = 0).

    Karras et al. 2022 (EDM), equation 5; σ = e^{−λ/2} is the noise level of x/α. One step starts at σmax. Raises
    CascadeError unless n ≥ 1, ρ > 0 and 0 < σmin < σmax.

    >>> [round(log_snr, 2) for log_snr in karras(3).tolist()]
    [-8.76, -1.84, 12.43, inf]
    """
    if not (0 < sigma_min < sigma_max < math.inf):
        raise CascadeError(f"sigma_min={sigma_min} must be above 0 and below sigma_max={sigma_max}, and both finite")
    if not 0 < rho < math.inf:
        raise CascadeError(f"rho={rho} must be above 0 and finite")
    root = torch.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), _checked(n), dtype=torch.float64)
    return _to_clean(-2 * rho * root.log())


def cut(log_snrs: Tensor, log_snr: float) -> Tensor:
    """A grid that stops at the level `log_snr`: the levels of `log_snrs` below it, and then it itself, exactly.

    So the low-res sampler of truncated conditioning augmentation stops at λ_a (Ho et al. 2022, "Cascaded diffusion
    models", section 4). Cut at +inf a grid stays as it is. Raises CascadeError unless it starts below `log_snr`.

    >>> cut(uniform_log_snr(-10.0, 10.0, 3), 4.5).tolist()
    [-10.0, 0.0, 4.5]
    """
    if not float(log_snrs[0]) < log_snr:
        raise CascadeError(f"a grid from log-SNR {float(log_snrs[0]):g} cannot stop at {log_snr:g}, which is noisier")
    return check_grid(torch.cat([log_snrs[log_snrs < log_snr], log_snrs.new_tensor([log_snr])]))


def adm_respaced(betas: DiscreteBetas, respacing: str = "250") -> Tensor:
    """The levels of some of the T steps of a discrete ladder, kept as ADM keeps them, then +inf below step 0.

    Dropping steps and keeping ᾱ of the others is the respaced process. `respacing` is the number of steps, n; or
    counts for equal sections of the ladder from the clean end on, like "10,15,20"; or "ddimN" for N steps at 0, k, 2k,
    ... with a whole stride k. n of the m steps from a on are a + round(i·(m − 1)/(n − 1)), i < n, so the noisiest level
    is the ladder's, where "ddimN" begins below it.

    Nichol & Dhariwal 2021, section 4, and the code of ADM (Dhariwal & Nichol 2021). A network trained on the ladder's
    step numbers meets no others on this grid. Raises CascadeError for what is no respacing of this ladder.

    >>> ladder = DiscreteBetas("linear", 1000)
    >>> grid = adm_respaced(ladder, "ddim25")
    >>> len(grid) - 1, ladder.step(grid[[0, 1, 24]]).tolist()
    (25, [960.0, 920.0, 0.0])
    """
    if not isinstance(betas, DiscreteBetas):
        raise CascadeError(f"adm_respaced keeps steps of discrete_betas, not of {type(betas).__name__}")
    return _to_clean(betas.log_snrs[_kept_steps(betas.steps, str(respacing))].flip(0))


def strided(grid: Tensor, stride: int = 2) -> Tensor:
    """Every `stride`-th level of another grid, from its first to its last: a student's, of its first teacher's.

    Salimans & Ho 2022, "Progressive Distillation", algorithm 2. Raises CascadeError unless the stride divides the
    grid's steps.

    >>> strided(uniform_log_snr(-10.0, 10.0, 4), stride=2).round(decimals=2).tolist()
    [-10.0, 3.33, inf]
    """
    steps = len(check_grid(grid)) - 1
    if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1 or steps % stride:
        raise CascadeError(f"stride={stride} must be a whole number that divides the {steps} steps of the grid")
    return grid[::stride]


def _kept_steps(steps: int, respacing: str) -> list[int]:
    """The steps that ADM keeps of 0, ..., steps − 1, rising."""
    number = respacing.removeprefix("ddim")
    counts = [int(count) if count.strip().isdecimal() else 0 for count in number.split(",")]
    if min(counts) < 1 or (number != respacing and len(counts) > 1):
        raise CascadeError(
            f"respacing '{respacing}' must be a number like 250, section counts like 10,15,20, or ddim25"
        )
    if number != respacing:
        strided = [range(0, steps, stride) for stride in range(1, steps)]
        fitting = [places for places in strided if len(places) == counts[0]]
        if not fitting:
            raise CascadeError(f"respacing '{respacing}': no whole stride gives {counts[0]} of {steps} steps")
        return list(fitting[0])
    kept, first = [], 0
    for section, count in enumerate(counts):
        size = steps // len(counts) + (section < steps % len(counts))
        if count > size:
            raise CascadeError(f"respacing '{respacing}': there are no {count} steps in a section of {size}")
        # Summed up stride by stride, as in ADM's code: where i·(m − 1)/(n − 1) is a half, that decides the rounding.
        strides = repeat((size - 1) / max(count - 1, 1), count - 1)
        kept += [first + round(place) for place in accumulate(strides, initial=0.0)]
        first += size
    return kept


def _checked(n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise CascadeError(f"a grid has a whole number n ≥ 1 of steps, not {n}")
    if n > _LONGEST:
        raise CascadeError(f"a grid has at most {_LONGEST} steps, not {n}")
    return n


def _to_clean(log_snrs: Tensor) -> Tensor:
    return check_grid(torch.cat([log_snrs, log_snrs.new_tensor([math.inf])]))
