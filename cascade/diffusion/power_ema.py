"""EDM2's power-function average of the weights, and its reconstruction afterwards (Karras et al. 2024, section 3).

The average at time t weighs what was there at τ ≤ t by p(τ) ∝ τ^γ. Its relative width σ_rel is the standard deviation
of p over t. Any width can be rebuilt from snapshots of two: a linear combination of their profiles comes near it.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from cascade.diffusion.ema import move_average

Snapshot = tuple[int, float]
"""The optimizer steps made, and the σ_rel of the average."""


def gamma_of(sigma_rel: float) -> float:
    """Return γ ≥ 0 of σ_rel = √(γ+1)/((γ+2)·√(γ+3)), equation 123; the root of a cubic (126, algorithm 2).

    Raises ValueError unless 0.001 ≤ σ_rel ≤ 1/√12, the width of the uniform profile (γ = 0).

    >>> round(gamma_of(0.05), 2), round(gamma_of(0.10), 2)
    (16.97, 6.94)
    """
    if not 0.001 <= sigma_rel <= 12**-0.5 + 1e-12:
        raise ValueError(f"sigma_rel is at least 0.001 and at most 0.288, not {sigma_rel}")
    t = sigma_rel**-2
    return max(0.0, float(np.roots([1, 7, 16 - t, 12 - t]).real.max()))


class PowerEMA:
    """θ̄ ← β·θ̄ + (1 − β)·θ with β = (1 − 1/t)^{γ+1} after step t = 1, 2, ...: equations 2 and 127 (C.4).

    `sigma_rel` is the width of the profile in units of the training so far: 0.1 averages about its last tenth.

    >>> ema = PowerEMA(0.1)
    >>> ema.decay(0), round(ema.decay(99), 4)
    (0.0, 0.9233)
    """

    others: tuple["PowerEMA", ...] = ()
    """Averages of other widths that are tracked beside it."""

    def __init__(self, sigma_rel: float = 0.1) -> None:
        self.sigma_rel, self.gamma = sigma_rel, gamma_of(sigma_rel)

    def decay(self, step: int) -> float:
        """Return β of the update after optimizer step `step`, counted from 0."""
        return (1 - 1 / (step + 1)) ** (self.gamma + 1)

    def update(self, ema_module: nn.Module, module: nn.Module, step: int) -> None:
        """Move the averaged weights of `ema_module` towards `module`'s, in place; buffers are copied.

        >>> import torch
        >>> average, model = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> PowerEMA(0.1).update(average, model, step=0)
        >>> torch.equal(average.weight, model.weight)
        True
        """
        move_average(ema_module, module, self.decay(step))


class PowerPairEMA(PowerEMA):
    """A power-function average that is exported, `sigma_rel`, and a second one of width `second`, tracked for later.

    Snapshots of both are kept while training goes on, at most `count` of each (and the last), at equal distances of
    `every` optimizer steps or a power of two times that: the longer the training, the further apart. Any width is
    rebuilt from them afterwards. Karras et al. 2024, section 3.2. Raises ValueError where the widths are the same.

    >>> ema = PowerPairEMA(0.10, 0.05, every=10, count=4)
    >>> ema.others[0].sigma_rel, [ema.interval(step) for step in (10, 40, 50, 100)]
    (0.05, [10, 10, 20, 40])
    """

    def __init__(self, sigma_rel: float = 0.10, second: float = 0.05, every: int = 16, count: int = 64) -> None:
        super().__init__(sigma_rel)
        self.others = (PowerEMA(second),)
        if second == sigma_rel:
            raise ValueError(f"the two averages must differ in width, and both are {second}")
        if every < 1 or count < 2:
            raise ValueError(f"need every of at least 1 and count of at least 2, not {every} and {count}")
        self.every, self.count = every, count

    def interval(self, step: int) -> int:
        """The distance of the snapshots that are kept after `step` optimizer steps."""
        interval = self.every
        while step // interval > self.count:
            interval *= 2
        return interval


def reconstruction(snapshots: Sequence[Snapshot], steps: int, sigma_rel: float) -> np.ndarray:
    """Return the weight of each snapshot in the average of width `sigma_rel` at `steps` steps; (n,) float64.

    The least-squares fit of the target's profile by the snapshots', A x = b of their inner products (appendix C.5,
    algorithm 3), scaled so that it adds up to 1: the average of what does not move is itself. Raises ValueError where a
    snapshot is younger than the target, or none is there.

    >>> reconstruction([(100, 0.05), (100, 0.10)], 100, 0.10).round(6)
    array([-0.,  1.])
    """
    products, target, _ = _inner_products(snapshots, steps, sigma_rel)
    # The profiles of neighbouring snapshots are nearly the same: the smallest norm of those that fit, not any.
    weights = np.linalg.lstsq(products, target, rcond=1e-13)[0]
    return weights / weights.sum()


def profile_error(snapshots: Sequence[Snapshot], steps: int, sigma_rel: float, weights: np.ndarray) -> float:
    """Return ‖Σ weight·p − p_target‖/‖p_target‖, how far the rebuilt profile is from that of `sigma_rel` at `steps`.

    >>> profile_error([(100, 0.10)], 100, 0.10, np.ones(1)) < 1e-6
    True
    """
    products, target, square = _inner_products(snapshots, steps, sigma_rel)
    return float(max(0.0, weights @ products @ weights - 2 * weights @ target + square) / square) ** 0.5


def _inner_products(
    snapshots: Sequence[Snapshot], steps: int, sigma_rel: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Those of the snapshots' profiles with each other (n, n) and with the target's (n,), and the target's square."""
    if not snapshots or max(at for at, _ in snapshots) > steps or min(at for at, _ in snapshots) < 1:
        raise ValueError(f"an average at {steps} steps is rebuilt from snapshots of steps 1 to {steps}")
    at = np.array([step for step, _ in snapshots], dtype=np.float64)
    gamma = np.array([gamma_of(width) for _, width in snapshots])
    products = _profile_product(at[:, None], gamma[:, None], at[None], gamma[None])
    end, delta = np.float64(steps), np.float64(gamma_of(sigma_rel))
    return products, _profile_product(at, gamma, end, delta), _profile_product(end, delta, end, delta)


def _profile_product(t: np.ndarray, gamma: np.ndarray, s: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """∫ p_{t,γ}(τ)·p_{s,δ}(τ) dτ of p_{t,γ}(τ) = (γ+1)/t·(τ/t)^γ on [0, t] (C.5, equation 151)."""
    ratio = (t / s) ** np.where(t < s, delta, -gamma)
    return (gamma + 1) * (delta + 1) * ratio / ((gamma + delta + 1) * np.maximum(t, s))


def combine(states: Iterable[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """Return Σ weight·state in float64, rounded once to float32; what is no float is the last state's.

    The states may come one by one: two of them are in memory.

    >>> import torch
    >>> combine([{"w": torch.tensor([1.0])}, {"w": torch.tensor([3.0])}], [0.5, 0.5])
    {'w': tensor([2.])}
    """
    sums: dict[str, Tensor] = {}
    for state, weight in zip(states, weights, strict=True):
        for key, value in state.items():
            if not value.is_floating_point():
                sums[key] = value.clone()
            elif key in sums:
                sums[key] += float(weight) * value.double()
            else:
                sums[key] = float(weight) * value.double()
    return {key: value.float() if value.is_floating_point() else value for key, value in sums.items()}
