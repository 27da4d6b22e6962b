"""The probability-flow ODE in the λ clock, and Runge-Kutta steps along it: for sampling and for likelihoods."""

from collections.abc import Callable, Sequence

from torch import Tensor

from cascade.diffusion.condition import Condition
from cascade.diffusion.denoiser import Denoiser
from cascade.diffusion.log_snr import alpha_sigma, per_image

# Butcher's tableaux: for each stage the factors of the slopes before it, whose sum is its node; the step's weights.
_STAGES: dict[int, tuple[tuple[float, ...], ...]] = {
    1: ((),),
    2: ((), (1,)),
    4: ((), (1 / 2,), (0, 1 / 2), (0, 0, 1)),
    5: (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    ),
}
_WEIGHTS: dict[int, tuple[float, ...]] = {
    1: (1,),
    2: (1 / 2, 1 / 2),
    4: (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    5: (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
}

ORDERS = tuple(_STAGES)
"""The orders for which there is a Runge-Kutta method here."""


def flow_slope(denoiser: Denoiser, x_t: Tensor, log_snr: float, condition: Condition) -> Tensor:
    """Return dx/dλ = (α/2)(x̂ − αx) at x_t (B, ...), the flow whose marginals at every λ are the diffusion's own.

    Song et al. 2021 (score SDE), equation 13, with λ as the time and score = (αx̂ − x)/σ².

    >>> import torch
    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.zeros(1), torch.zeros(1, 1))
    >>> flow_slope(oracle, torch.ones(1, 1), 0.0, Condition())
    tensor([[-0.2500]])
    """
    alpha = alpha_sigma(log_snr)[0].item()
    mean = denoiser(x_t, per_image(log_snr, x_t), condition).mean
    return alpha / 2 * (mean - alpha * x_t)


def runge_kutta_step(
    slope: Callable[[Tensor, float], Tensor], x: Tensor, start: float, end: float, order: int
) -> Tensor:
    """Return x at `end` for dx/dλ = slope(x, λ) and x at `start`, in one step; `end` may lie below `start`.

    Order 1 is Euler's method, 2 Heun's trapezoid, 4 Kutta's classical one, 5 Dormand and Prince's (1980, the solution
    without their error estimate), with 1, 2, 4 and 6 slopes. Where the slope does not depend on x, the first three
    reduce to the left rectangle, the trapezoid and Simpson's rule. Hairer, Nørsett & Wanner, "Solving ODEs I", II.5.

    >>> import torch
    >>> runge_kutta_step(lambda x, level: x, torch.ones(1), 0.0, 1.0, order=4)  # 1 + 1 + 1/2 + 1/6 + 1/24
    tensor([2.7083])
    """
    step = end - start
    slopes: list[Tensor] = []
    for row in _STAGES[order]:
        slopes.append(slope(_moved(x, step, row, slopes), start + sum(row) * step))
    return _moved(x, step, _WEIGHTS[order], slopes)


def _moved(x: Tensor, step: float, factors: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """x + step · Σ factor · slope."""
    for factor, slope in zip(factors, slopes, strict=True):
        if factor != 0:
            x = x + step * factor * slope
    return x
