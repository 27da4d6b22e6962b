"""Progressive distillation: a student learns to do in one DDIM step what its teacher does in two.

A teacher of N steps walks a grid of N + 1 levels (the last is +inf), its student every second of them: N → N/2 → ... →
1. A guided teacher makes a student that needs no guidance. Salimans & Ho 2022, "Progressive Distillation", algorithm 2;
Meng et al. 2023, "On Distillation of Guided Diffusion Models".
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.diffusion.condition import Condition
from cascade.diffusion.denoiser import Denoiser
from cascade.diffusion.ladder import GridNoise
from cascade.diffusion.log_snr import alpha_sigma, diffuse, over, per_image
from cascade.diffusion.loss import mean_square
from cascade.diffusion.weighting import Weighting


def ddim_step(x_t: Tensor, mean: Tensor, log_snr_t: Tensor, log_snr_s: Tensor) -> Tensor:
    """Return x_s = (σs/σt)·x_t + αs·(1 − e^{−h})·x̂ with h = (λs − λt)/2, for λt < λs (B,); at λs = +inf it is x̂.

    DDIM's αs·x̂ + σs·ε̂ (Song, Meng & Ermon 2021, equation 12 with η = 0), each picture at levels of its own.

    >>> x_t, mean, level = torch.tensor([[0.5]]), torch.tensor([[1.0]]), torch.tensor([0.0])
    >>> ddim_step(x_t, mean, level, level + torch.inf)
    tensor([[1.]])
    """
    t, s = over(log_snr_t, x_t), over(log_snr_s, x_t)
    (_, sigma_t), (alpha_s, sigma_s) = alpha_sigma(t), alpha_sigma(s)
    return sigma_s / sigma_t * x_t - alpha_s * ((t - s) / 2).expm1() * mean


def two_step_mean(first: Tensor, second: Tensor, log_snr_t: Tensor, log_snr_m: Tensor, log_snr_s: Tensor) -> Tensor:
    """Return the x̃ with which one DDIM step from t lands where two do, by way of m, with x̂ = `first` and `second`.

        x̃ = x̂₁ + w·(x̂₂ − x̂₁),  w = (1 − e^{−(λs−λm)/2})/(1 − e^{−(λs−λt)/2})

    It is the paper's target (x_s − (σs/σt)·x_t)/(αs − (σs/σt)·αt) (Salimans & Ho 2022, appendix G) without x_t, and so
    without its cancellation on short steps. λt < λm < λs, (B,); at λs = +inf it is x̂₂.

    >>> levels = [torch.tensor([level]) for level in (-2.0, 0.0, torch.inf)]
    >>> two_step_mean(torch.tensor([[1.0]]), torch.tensor([[3.0]]), *levels)
    tensor([[3.]])
    """
    t, m, s = (over(level, first) for level in (log_snr_t, log_snr_m, log_snr_s))
    return torch.lerp(first, second, ((m - s) / 2).expm1() / ((t - s) / 2).expm1())


@torch.no_grad()
def two_step_target(  # noqa: PLR0917
    teacher: Denoiser, x_t: Tensor, log_snr_t: Tensor, log_snr_m: Tensor, log_snr_s: Tensor, condition: Condition
) -> Tensor:
    """Return the target x̃ of `two_step_mean` for two DDIM steps of `teacher` from x_t (B, ...), without gradient.

    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> point = GaussianDenoiser(torch.ones(1), torch.zeros(1, 1))
    >>> levels = [torch.tensor([level]) for level in (-2.0, 0.0, 2.0)]
    >>> two_step_target(point, torch.zeros(1, 1), *levels, Condition())
    tensor([[1.]])
    """
    first = teacher(x_t, log_snr_t, condition).mean
    second = teacher(ddim_step(x_t, first, log_snr_t, log_snr_m), log_snr_m, condition).mean
    return two_step_mean(first, second, log_snr_t, log_snr_m, log_snr_s)


def student_noise(log_snrs: Tensor) -> GridNoise:
    """Return the levels of the student of a teacher with the grid `log_snrs` (2n+1,), each as often: every second.

    >>> student_noise(torch.tensor([-2.0, 0.0, 2.0, 4.0, torch.inf], dtype=torch.float64)).levels
    (-2.0, 2.0)
    """
    return GridNoise(tuple(log_snrs[:-1:2].tolist()))


@dataclass(frozen=True, eq=False)
class DistillationLoss:
    """The loss ratio(λ)·e^λ·‖x̃ − x̂‖² of a student against two steps of `teacher`; e^λ‖x̃ − x̂‖² = ‖ε̃ − ε̂‖².

    `log_snrs` (2n+1,) float64 is the teacher's grid; λ is one of the student's levels, `log_snrs[:-1:2]`. The paper's
    weights of ‖x̃ − x̂‖² are ratios here: max(SNR, 1) is TruncatedSNRWeighting, SNR + 1 is VWeighting.

    >>> from cascade.diffusion import GaussianDenoiser, UnitWeighting
    >>> grid = torch.tensor([-2.0, 0.0, torch.inf], dtype=torch.float64)
    >>> points = [GaussianDenoiser(torch.full((1,), place), torch.zeros(1, 1)) for place in (1.0, 3.0)]
    >>> loss, x, level = DistillationLoss(points[0], grid), torch.ones(1, 1), torch.tensor([-2.0])
    >>> loss(points[1], x, level, x, Condition(), UnitWeighting())  # 2²·e^{−2}
    tensor([0.5413])
    """

    teacher: Denoiser
    log_snrs: Tensor

    @property
    def noise(self) -> GridNoise:
        """The student's levels, each as often."""
        return student_noise(self.log_snrs)

    def __call__(  # noqa: PLR0917
        self, denoiser: Denoiser, x: Tensor, log_snr: Tensor, eps: Tensor, condition: Condition, weighting: Weighting
    ) -> Tensor:
        """Return the weighted loss of each image, (B,), at x_t = αx + σε."""
        level = per_image(log_snr, x)
        grid, place = self.log_snrs.to(level), 2 * self.noise.nearest(level)
        t, m, s = (grid[place + steps] for steps in range(3))
        x_t = diffuse(x, eps, t)
        target = two_step_target(self.teacher, x_t, t, m, s, condition)
        return (weighting.log_ratio(t) + t).exp() * mean_square(denoiser(x_t, t, condition).mean - target)
