"""The average is the closed-form weighted mean of the weights it has seen."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cascade.diffusion import ExponentialEMA


class Weights(nn.Module):
    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


def profile(ema, steps):
    """What is left in the average of the initial weights (last) and of the weights after each step."""
    average = Weights([0.0] * steps + [1.0])
    for step in range(steps):
        one_hot = Weights([float(i == step) for i in range(steps + 1)])
        ema.update(average, one_hot, step)
    return average.values.detach()


def test_constant_decay_is_the_geometric_profile():
    expected = [0.1 * 0.9 ** (19 - i) for i in range(20)] + [0.9**20]
    assert_close(profile(ExponentialEMA(0.9, warmup=1.0), 20), torch.tensor(expected, dtype=torch.float64))


def test_warm_up_is_the_power_profile():
    # ∏ (1+j)/(10+j) telescopes: step i of n weighs 9·[(i+9)!/(i+1)!]·[n!/(n+9)!], about 9·i⁸/n⁹.
    n = 40
    last = math.factorial(n) / math.factorial(n + 9)
    expected = [9 * last * math.factorial(i + 9) / math.factorial(i + 1) for i in range(n)]
    expected.append(last * math.factorial(9))
    actual = profile(ExponentialEMA(0.999999, warmup=10.0), n)
    assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    mean_age = float((actual[:n] * (n - torch.arange(n))).sum())
    assert mean_age == pytest.approx(n / 10, rel=0.25)


@pytest.mark.parametrize("warmup", [1.0, 4.0, 10.0])
def test_weights_of_the_profile_sum_to_one(warmup):
    assert float(profile(ExponentialEMA(0.7, warmup), 15).sum()) == pytest.approx(1, rel=1e-14)


def test_decay_rises_to_its_limit_and_stays():
    ema = ExponentialEMA(0.99)
    decays = [ema.decay(step) for step in range(2000)]
    assert decays == sorted(decays)
    assert decays[0] == 0.1
    assert ema.decay(890) == pytest.approx(0.99)
    assert decays[-1] == 0.99


def test_update_is_in_place_without_gradient_and_copies_buffers():
    average, model = Weights([1.0]), Weights([3.0])
    model.count.fill_(7)
    address = average.values.data_ptr()
    ExponentialEMA(0.5, warmup=1.0).update(average, model, step=0)
    assert average.values.data_ptr() == address
    assert average.values.item() == 2.0
    assert average.values.requires_grad
    assert average.values.grad_fn is None
    assert int(average.count) == 7
    assert model.values.item() == 3.0


def test_a_half_precision_model_is_averaged_in_the_averages_precision():
    average, model = nn.Linear(4, 4), nn.Linear(4, 4).bfloat16()
    before = average.weight.detach().clone()
    ExponentialEMA(0.999, warmup=1.0).update(average, model, step=0)
    assert average.weight.dtype == torch.float32
    assert_close(average.weight, before * 0.999 + model.weight.float() * 0.001)


@pytest.mark.parametrize("wrong", [{"decay": 1.0}, {"decay": -0.1}, {"warmup": 0.5}, {"warmup": math.inf}])
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ExponentialEMA(**wrong)


def test_another_architecture_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        ExponentialEMA(0.9).update(nn.Sequential(nn.Linear(1, 1)), nn.Sequential(), step=0)
