"""The ODE keeps its orders against the exact flow, and its steps and the SDE's are those of their near relatives."""

import math
from itertools import pairwise

import pytest
import torch

from cascade.diffusion import Condition, Posterior, alpha_sigma
from cascade.diffusion.oracle import GaussianDenoiser, MixtureDenoiser
from cascade.errors import CascadeError
from cascade.rng import randn
from cascade.sampling import DDIM, Ancestral, EulerMaruyama, Heun, ProbabilityFlow, karras, uniform_log_snr

F64 = torch.float64
MEAN, VALUES = torch.tensor([0.7, -1.2, 0.0], dtype=F64), torch.tensor([0.3, 1.5, 0.02], dtype=F64)
GAUSSIAN = GaussianDenoiser(MEAN, VALUES.diag())
MIXTURE = MixtureDenoiser(
    torch.tensor([0.3, 0.7], dtype=F64),
    torch.tensor([[-1.0, 0.4], [0.8, 0.1]], dtype=F64),
    torch.stack([torch.eye(2, dtype=F64) * 0.1, torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=F64)]),
)
START, END = -4.0, 5.0
# Steps that are short enough for the order to show, and long enough for its error not to drown in rounding.
ORDERS = [(1, (64, 256)), (2, (64, 256)), (4, (32, 128)), (5, (64, 256))]


def no_noise(step, draw=0):
    raise AssertionError("a deterministic sampler drew noise")


def uniform(n):
    return uniform_log_snr(START, END, n + 1)[:-1]


def uneven(n):
    return karras(n + 1, rho=3.0, sigma_min=math.exp(-END / 2), sigma_max=math.exp(-START / 2))[:-1]


def gaussian_flow(x):
    """Along an eigenvector, (x − αm)/√(α²c + σ²) is constant."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (alpha_sigma(level) for level in (START, END))
    ratio = ((alpha_s**2 * VALUES + sigma_s**2) / (alpha_t**2 * VALUES + sigma_t**2)).sqrt()
    return alpha_s * MEAN + ratio * (x - alpha_t * MEAN)


def flowed(sampler, denoiser, grid, x):
    return sampler(denoiser, x, grid, Condition(), no_noise)


@pytest.fixture(scope="module")
def starts():
    """On the Gaussian with its exact flow; on the mixture with Heun's, extrapolated to steps of no length."""
    gaussian, mixture = randn("start", shape=(4, 3)).to(F64), randn("start", shape=(8, 2)).to(F64)
    # An integrator of another kind, its error freed of the step's powers 2 to 5.
    table = [flowed(Heun(), MIXTURE, uneven(100 * 2**i), mixture) for i in range(5)]
    for column in range(1, 5):
        table = [b + (b - a) / (2 ** (column + 1) - 1) for a, b in pairwise(table)]
    return {"gaussian": (GAUSSIAN, gaussian, gaussian_flow(gaussian)), "mixture": (MIXTURE, mixture, table[0])}


@pytest.mark.parametrize("grid", [uniform, uneven])
@pytest.mark.parametrize(("order", "counts"), ORDERS)
@pytest.mark.parametrize("data", ["gaussian", "mixture"])
def test_the_order_of_the_method_is_the_slope_of_its_error(data, order, counts, grid, starts):
    denoiser, x, exact = starts[data]
    errors = [(flowed(ProbabilityFlow(order), denoiser, grid(n), x) - exact).norm().item() for n in counts]
    slope = math.log(errors[0] / errors[1]) / math.log(counts[1] / counts[0])
    assert slope == pytest.approx(order, abs=0.15 if order < 5 else 0.45)


@pytest.mark.parametrize(("order", "weights"), [(1, [1, 0, 0]), (2, [1 / 2, 0, 1 / 2]), (4, [1 / 6, 4 / 6, 1 / 6])])
def test_where_the_slope_does_not_depend_on_x_the_orders_reduce_to_rules_of_quadrature(order, weights):
    """x̂ = αx + cos λ, on steps of 1 and 2½ in λ."""

    def denoiser(x_t, log_snr, condition):
        return Posterior(log_snr.sigmoid().sqrt()[:, None] * x_t + log_snr.cos()[:, None])

    def slope(log_snr):
        return 0.5 / math.sqrt(1 + math.exp(-log_snr)) * math.cos(log_snr)

    grid = torch.tensor([-1.0, 0.0, 2.5], dtype=F64)
    rise = sum(
        (s - t) * sum(w * slope(t + node * (s - t)) for node, w in zip((0, 0.5, 1), weights, strict=True))
        for t, s in ((-1.0, 0.0), (0.0, 2.5))
    )
    x = randn("start", shape=(2, 3)).to(F64)
    torch.testing.assert_close(flowed(ProbabilityFlow(order), denoiser, grid, x), x + rise, rtol=1e-13, atol=1e-13)


def one_step(sampler, length, z):
    x, grid = randn("start", shape=(4, 2)).to(F64), torch.tensor([0.3, 0.3 + length], dtype=F64)
    return sampler(MIXTURE, x, grid, Condition(), lambda step, draw=0: torch.full_like(x, z))


def slope_of_difference(of):
    differences = [of(length).norm().item() for length in (0.04, 0.01)]
    return math.log(differences[0] / differences[1]) / math.log(4)


def test_a_step_of_eulers_method_differs_from_ddim_by_the_square_of_its_length():
    def difference(length):
        return one_step(ProbabilityFlow(1), length, 0.0) - one_step(DDIM(), length, 0.0)

    assert slope_of_difference(difference) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_a_step_of_euler_maruyama_differs_from_ancestral_by_the_square_of_its_length(variance):
    em, ancestral = EulerMaruyama(), Ancestral(variance)

    def of_means(length):
        return one_step(em, length, 0.0) - one_step(ancestral, length, 0.0)

    def of_variances(length):
        moved = [one_step(sampler, length, 1.0) - one_step(sampler, length, 0.0) for sampler in (em, ancestral)]
        return moved[0] ** 2 - moved[1] ** 2

    assert slope_of_difference(of_means) == pytest.approx(2, abs=0.1)
    assert slope_of_difference(of_variances) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(
    ("sampler", "calls"),
    [(EulerMaruyama(), 3), *[(ProbabilityFlow(order), 2 * n + 1) for order, n in [(1, 1), (2, 2), (4, 4), (5, 6)]]],
    ids=str,
)
def test_the_step_to_the_clean_picture_returns_the_mean_and_draws_nothing(sampler, calls):
    seen = []

    def denoiser(x_t, log_snr, condition):
        seen.append(MIXTURE(x_t, log_snr, condition).mean)
        return Posterior(seen[-1])

    drawn = []

    def noise(step, draw=0):
        drawn.append((step, draw))
        return randn("noise", step, draw, shape=(4, 2)).to(F64)

    out = sampler(denoiser, noise(-1), torch.tensor([-3.0, -1.0, 1.0, math.inf], dtype=F64), Condition(), noise)
    assert torch.equal(out, seen[-1])
    assert len(seen) == calls
    assert drawn == [(-1, 0), *([(0, 0), (1, 0)] if isinstance(sampler, EulerMaruyama) else [])]


@pytest.mark.parametrize("order", [0, 3, 6, True, 2.5])
def test_another_order_is_refused(order):
    with pytest.raises(CascadeError, match="must be 1, 2, 4 or 5"):
        ProbabilityFlow(order)
