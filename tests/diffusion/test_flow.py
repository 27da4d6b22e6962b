"""The probability flow carries the exact marginals, and the tableaux fulfil the conditions of their orders."""

import math
from fractions import Fraction

import pytest
import torch
from torch.testing import assert_close

from cascade.diffusion import Condition, GaussianDenoiser, MixtureDenoiser, alpha_sigma
from cascade.diffusion.flow import _STAGES, _WEIGHTS, flow_slope, runge_kutta_step

F64 = torch.float64
ORDERS = [1, 2, 4, 5]


@pytest.mark.parametrize("level", [-20.0, -3.0, 0.0, 2.0, 9.0])
def test_the_slope_is_that_of_the_exact_flow_of_a_gaussian(level, normal):
    """(x − αm)/√(α²c + σ²) stays constant; differentiated by autograd."""
    mean, values = normal(4, name="mean"), normal(4, name="values").exp()
    x = normal(3, 4)

    def scales(log_snr):
        alpha, sigma = alpha_sigma(log_snr)
        return alpha, (alpha**2 * values + sigma**2).sqrt()

    alpha, spread = scales(level)
    constant = (x - alpha * mean) / spread

    def path(log_snr):
        alpha, spread = scales(log_snr)
        return alpha * mean + constant * spread

    want = torch.autograd.functional.jacobian(path, torch.tensor(level, dtype=F64))
    got = flow_slope(GaussianDenoiser(mean, values.diag()), x, level, Condition())
    assert_close(got, want, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("level", [-2.0, 0.7, 3.0])
def test_it_moves_the_marginals_of_a_mixture(level):
    """The continuity equation ∂p/∂λ + ∂(p f)/∂x = 0, pointwise."""
    oracle = MixtureDenoiser(
        torch.tensor([0.3, 0.7], dtype=F64),
        torch.tensor([[-1.0], [0.8]], dtype=F64),
        torch.tensor([[[0.1]], [[0.3]]], dtype=F64),
    )
    x = torch.linspace(-3, 3, 41, dtype=F64)[:, None]

    def density(x, log_snr):
        return oracle.log_prob(x, torch.as_tensor(log_snr, dtype=F64).expand(len(x))).exp()

    x.requires_grad_()
    (outflow,) = torch.autograd.grad((density(x, level) * flow_slope(oracle, x, level, Condition())[:, 0]).sum(), x)
    change = torch.autograd.functional.jacobian(
        lambda log_snr: density(x.detach(), log_snr), torch.tensor(level, dtype=F64)
    )
    assert_close(change, -outflow[:, 0], rtol=1e-9, atol=1e-12)


def trees(order):
    """All rooted trees with so many vertices, each a sorted tuple of its branches."""
    if order == 1:
        return {()}

    def forests(size, largest):
        if size == 0:
            yield ()
        for first in range(min(size, largest), 0, -1):
            for tree in trees(first):
                for rest in forests(size - first, first):
                    yield (tree, *rest)

    return {tuple(sorted(forest)) for forest in forests(order - 1, order - 1)}


def vertices(tree):
    return 1 + sum(vertices(branch) for branch in tree)


def density_of(tree):
    """γ(t): the vertices of the tree times those of all its branches' subtrees."""
    return vertices(tree) * math.prod(density_of(branch) for branch in tree)


def elementary(tree, matrix):
    """Φ_i(t) for each stage i."""
    parts = [elementary(branch, matrix) for branch in tree]
    stages = range(len(matrix))
    through = [[sum(matrix[i][j] * part[j] for j in stages) for i in stages] for part in parts]
    return [math.prod(part[i] for part in through) for i in stages]


@pytest.mark.parametrize("order", ORDERS)
def test_the_tableau_fulfils_butchers_conditions_of_its_order_and_not_of_the_next(order):
    """Σ b_i Φ_i(t) = 1/γ(t) for every rooted tree t of up to `order` vertices (Hairer, Nørsett & Wanner, II.2)."""
    rows, weights = _STAGES[order], _WEIGHTS[order]
    matrix = [[Fraction(a) for a in row] + [Fraction(0)] * (len(rows) - len(row)) for row in rows]

    def error(tree):
        sides = sum(Fraction(b) * phi for b, phi in zip(weights, elementary(tree, matrix), strict=True))
        return abs(float(sides - Fraction(1, density_of(tree))))

    assert [len(trees(n)) for n in range(1, 6)] == [1, 1, 2, 4, 9]
    assert max(error(tree) for n in range(1, order + 1) for tree in trees(n)) < 1e-14
    assert max(error(tree) for tree in trees(order + 1)) > 1e-4


@pytest.mark.parametrize("end", [1.9, -0.4], ids=["forwards", "backwards"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_step_of_order_p_is_exact_for_the_power_p_of_time_and_the_series_of_the_exponential(order, end):
    start, x = 0.7, torch.ones(1, dtype=F64)
    power = runge_kutta_step(lambda x, level: torch.full_like(x, order * level ** (order - 1)), x, start, end, order)
    assert power.item() == pytest.approx(1 + end**order - start**order, rel=1e-13)
    growth = runge_kutta_step(lambda x, level: x, x, start, end, order).item()
    series = sum((end - start) ** n / math.factorial(n) for n in range(order + 1))
    assert growth - series == pytest.approx((end - start) ** 6 / 600 if order == 5 else 0, abs=1e-13)
