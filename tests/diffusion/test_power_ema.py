"""EDM2's average: its width is what it says, and a width is rebuilt from snapshots of two others."""

import numpy as np
import pytest
import torch
from torch import nn

from cascade.diffusion.power_ema import PowerEMA, PowerPairEMA, combine, gamma_of, profile_error, reconstruction

STEPS = 2048


def profile(sigma_rel, steps, total=STEPS):
    """The weight of each step's parameters in the average after `steps` steps, by the update itself."""
    ema = PowerEMA(sigma_rel)
    weights = np.zeros(total)
    for step in range(steps):
        beta = ema.decay(step)
        weights *= beta
        weights[step] += 1 - beta
    return weights


@pytest.mark.parametrize("sigma_rel", [0.05, 0.10, 0.20])
def test_the_profile_is_a_power_function_of_the_said_width(sigma_rel):
    weights = profile(sigma_rel, STEPS)
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    time = (np.arange(STEPS) + 0.5) / STEPS
    mean = (weights * time).sum()
    assert np.sqrt((weights * (time - mean) ** 2).sum()) == pytest.approx(sigma_rel, rel=2e-3)
    gamma = gamma_of(sigma_rel)
    late = slice(STEPS // 2, None)
    assert np.allclose(weights[late] * STEPS, (gamma + 1) * time[late] ** gamma, rtol=1e-3)


def test_gamma_solves_the_equation_of_the_width():
    for gamma in (0.0, 0.5, 6.94, 16.97, 400.0):
        width = (gamma + 1) ** 0.5 / ((gamma + 2) * (gamma + 3) ** 0.5)
        assert gamma_of(width) == pytest.approx(gamma, abs=1e-6 * (1 + gamma))
    for wrong in (0.0, -0.1, 0.3, 1e-200):
        with pytest.raises(ValueError, match="sigma_rel"):
            gamma_of(wrong)


@pytest.mark.parametrize(("count", "bound"), [(32, 2e-3), (16, 5e-3)])
def test_a_profile_is_rebuilt_from_snapshots_of_two_others(count, bound):
    at = [STEPS * (i + 1) // count for i in range(count)]
    snapshots = [(step, width) for width in (0.05, 0.10) for step in at]
    stored = np.stack([profile(width, step) for step, width in snapshots])
    for sigma_rel in (0.05, 0.06, 0.07, 0.085, 0.10):
        target = profile(sigma_rel, STEPS)
        weights = reconstruction(snapshots, STEPS, sigma_rel)
        error = np.linalg.norm(weights @ stored - target) / np.linalg.norm(target)
        assert error <= bound
        assert profile_error(snapshots, STEPS, sigma_rel, weights) == pytest.approx(error, rel=0.05, abs=2e-5)
        assert weights.sum() == pytest.approx(1, abs=1e-12)
    # An earlier time is within reach too, of half as many snapshots.
    target = profile(0.08, STEPS // 2)
    earlier = [i for i, (step, _) in enumerate(snapshots) if step <= STEPS // 2]
    rebuilt = reconstruction([snapshots[i] for i in earlier], STEPS // 2, 0.08) @ stored[earlier]
    assert np.linalg.norm(rebuilt - target) <= 4 * bound * np.linalg.norm(target)


def test_weights_of_a_network_are_combined_as_their_profiles_are():
    torch.manual_seed(0)
    trained = [nn.Linear(3, 2) for _ in range(64)]
    averages = {width: nn.Linear(3, 2) for width in (0.05, 0.10, 0.07)}
    states, snapshots = [], []
    for step, module in enumerate(trained):
        for width, average in averages.items():
            PowerEMA(width).update(average, module, step)
            if (step + 1) % 4 == 0 and width != 0.07:
                snapshots.append((step + 1, width))
                states.append({key: value.clone() for key, value in average.state_dict().items()})
    rebuilt = combine(states, reconstruction(snapshots, 64, 0.07))
    for key, value in averages[0.07].state_dict().items():
        assert rebuilt[key].dtype == torch.float32
        assert torch.allclose(rebuilt[key], value, atol=2e-2)
        assert not torch.allclose(rebuilt[key], averages[0.10].state_dict()[key], atol=2e-2)


def test_what_does_not_move_is_its_own_average_bit_for_bit():
    snapshots = [(step, width) for width in (0.05, 0.10) for step in range(16, 257, 16)]
    constant = {"w": torch.randn(50, generator=torch.Generator().manual_seed(0))}
    rebuilt = combine((constant for _ in snapshots), reconstruction(snapshots, 256, 0.08).tolist())
    assert torch.equal(rebuilt["w"], constant["w"])


def test_snapshots_are_bounded_and_a_function_of_the_step():
    ema = PowerPairEMA(0.10, 0.05, every=3, count=8)
    kept: set[int] = set()
    for step in range(1, 2000):
        if step % ema.interval(step) == 0:
            kept = {at for at in kept | {step} if at % ema.interval(step) == 0}
            assert kept == set(range(ema.interval(step), step + 1, ema.interval(step)))
        assert len(kept) <= 8
        if step >= 24:
            assert len(kept) > 8 // 2 - 1
    assert len({ema.interval(step) for step in range(1, 2000)}) == 8
    for wrong in ({"second": 0.1}, {"every": 0}, {"count": 1}, {"second": 0.5}):
        with pytest.raises(ValueError, match=r"differ|every|sigma_rel"):
            PowerPairEMA(**wrong)


def test_the_first_step_is_taken_whole_and_buffers_are_copied():
    average, module = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    module.running_mean.fill_(3.0)
    module.weight.data.fill_(5.0)
    PowerEMA(0.1).update(average, module, 0)
    assert torch.equal(average.weight, module.weight)
    assert torch.equal(average.running_mean, module.running_mean)


@pytest.mark.parametrize("snapshots", [[], [(10, 0.1)], [(0, 0.1)]])
def test_snapshots_are_of_the_time_before(snapshots):
    with pytest.raises(ValueError, match="from snapshots of steps 1 to 5"):
        reconstruction(snapshots, 5, 0.1)
