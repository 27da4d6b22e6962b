"""Langevin dynamics beyond Gaussians: levels, names of draws, what it reduces to, the density it leaves alone."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from cascade.diffusion import Condition, Posterior
from cascade.diffusion.oracle import GaussianDenoiser, MixtureDenoiser
from cascade.errors import CascadeError
from cascade.registry import build
from cascade.rng import randn
from cascade.sampling import AnnealedLangevin, karras, langevin_chain
from cascade.sampling.certificate import output_moments
from cascade.sampling.transition import Level

F64 = torch.float64
MIXTURE = MixtureDenoiser(
    torch.tensor([0.3, 0.7], dtype=F64),
    torch.tensor([[-1.0], [0.8]], dtype=F64),
    torch.tensor([[[0.1]], [[0.3]]], dtype=F64),
)
GRID = torch.tensor([-3.0, -1.0, 0.5, math.inf], dtype=F64)


def noise(step, draw=0):
    return randn("noise", step, draw, shape=(5, 1)).to(F64)


def test_a_change_of_level_keeps_x_over_alpha():
    """With x̂ = x/α the score is zero, so that nothing else moves x."""

    def still(x_t, log_snr, condition):
        return Posterior(x_t / log_snr.sigmoid().sqrt()[:, None])

    x = noise(0)
    silent = lambda step, draw=0: torch.zeros_like(x)  # noqa: E731
    out = AnnealedLangevin(3, 0.1)(still, x, GRID[:-1], Condition(), silent)
    torch.testing.assert_close(out / Level(0.5).alpha, x / Level(-3.0).alpha, rtol=1e-14, atol=0)


@pytest.mark.parametrize(("grid", "calls"), [(GRID, [2, 2, 3]), (GRID[:-1], [2, 2, 2])], ids=["clean", "finite"])
def test_every_finite_level_has_its_steps_and_the_clean_picture_one_call(grid, calls):
    levels, draws = [], []

    def seen(x_t, log_snr, condition):
        levels.append(log_snr[0].item())
        return MIXTURE(x_t, log_snr, condition)

    def named(step, draw=0):
        draws.append((step, draw))
        return noise(step, draw)

    AnnealedLangevin(2, 0.1)(seen, noise(-1), grid, Condition(), named)
    assert levels == [level for level, count in zip(GRID.tolist(), calls, strict=False) for _ in range(count)]
    assert draws == [(i, k) for i in range(3) for k in range(2)]


def test_on_one_level_it_reduces_to_the_chain_and_the_mean():
    grid = torch.tensor([-0.4, math.inf], dtype=F64)
    got = AnnealedLangevin(4, 0.2)(MIXTURE, noise(-1), grid, Condition(), noise)
    chain = langevin_chain(MIXTURE, noise(-1), -0.4, Condition(), noise, steps=4, step_size=0.2)
    assert torch.equal(got, MIXTURE(chain, torch.full((5,), -0.4, dtype=F64), Condition()).mean)


@pytest.mark.parametrize("log_snr", [-1.0, 1.5])
def test_a_step_leaves_a_mixtures_density_alone_up_to_the_square_of_its_size(log_snr, density):
    """E f(x′) − E f(x) = O(η²), by quadrature over x and z: the generator leaves p alone."""
    x, weight = density(log_snr)
    nodes, hermite = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(24))
    hermite = hermite / hermite.sum()

    def gaps(eta):
        after = torch.stack(
            [
                langevin_chain(
                    MIXTURE,
                    x,
                    log_snr,
                    Condition(),
                    lambda step, draw=0, z=z: torch.full_like(x, z),
                    steps=1,
                    step_size=eta,
                )
                for z in nodes.tolist()
            ]
        )
        tests = [torch.square, torch.cos, lambda x: x**4 / 10]
        return [((hermite[:, None, None] * f(after)).sum(0) * weight - f(x) * weight).sum().item() for f in tests]

    scale = math.exp(-log_snr)
    for coarse, fine in zip(gaps(0.04 * scale), gaps(0.01 * scale), strict=True):
        assert math.log(coarse / fine) / math.log(4) == pytest.approx(2, abs=0.15)


@pytest.fixture
def density():
    """Points and weights of a fine quadrature of p(x_t) dx_t."""

    def points(log_snr):
        x = torch.linspace(-8, 8, 2001, dtype=F64)[:, None]
        mass = MIXTURE.log_prob(x, torch.full((len(x),), log_snr, dtype=F64)).exp()[:, None]
        return x, mass / mass.sum()

    return points


GRIDS = sorted((Path(__file__).resolve().parents[2] / "conf" / "grid").glob("*.yaml"))


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_the_default_chain_follows_every_grid_of_conf(path):
    """K·ρ ≥ ln(σ_{i−1}/σ_i) at each change, and at the last level the exact variance of any data is near its own."""
    whole = OmegaConf.create({"stage": {"resolution": 64}, "grid": OmegaConf.load(path)})
    config = OmegaConf.to_container(whole.grid, resolve=True)
    config.update({"respacing": "50"} if "respacing" in config else {})
    grid = build("grid", config)[:-1]
    sampler = AnnealedLangevin()
    rate = sampler.rate([Level(log_snr) for log_snr in grid.tolist()])
    assert sampler.steps * rate >= float(grid.diff().max()) / 2
    assert 0.1 <= rate <= 1
    variance = torch.tensor([1e-8, 1e-4, 0.05, 0.3, 2.0], dtype=F64)
    made = output_moments(sampler, variance, grid, max_work=1e9)
    alpha, sigma = Level(grid[-1].item()).alpha, Level(grid[-1].item()).sigma
    ratio = made.variance / (alpha**2 * variance + sigma**2)
    assert bool(((ratio > 0.95) & (ratio < 3)).all()), ratio
    assert bool(((made.gain / alpha - 1).abs() < 0.01).all())


def test_the_rate_is_a_tenth_or_twice_what_the_longest_change_asks_for():
    levels = [Level(log_snr) for log_snr in (-3.0, -2.9, 0.1, 0.2)]
    assert AnnealedLangevin(10).rate(levels) == pytest.approx(2 * 1.5 / 10)
    assert AnnealedLangevin(2).rate(levels) == 1
    assert AnnealedLangevin(100).rate(levels) == AnnealedLangevin(10).rate(levels[:2]) == 0.1
    assert AnnealedLangevin(1, step_size=0.3).rate(levels) == pytest.approx(0.3 * math.exp(0.2))
    with pytest.raises(CascadeError, match=r"1 Langevin steps .* changes by e\^1\.5; say steps=2"):
        AnnealedLangevin(1)(MIXTURE, noise(-1), torch.tensor([-3.0, -2.9, 0.1], dtype=F64), Condition(), noise)


def test_a_chain_that_diverges_says_so():
    oracle = GaussianDenoiser(torch.zeros(1), torch.zeros(1, 1))
    with pytest.raises(CascadeError, match=r"diverged: step_size=1; choose one below 2σ² = 8e-06"):
        AnnealedLangevin(100, 1)(oracle, noise(-1), karras(4), Condition(), noise)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: AnnealedLangevin(steps=0), "steps=0"),
        (lambda: AnnealedLangevin(steps=2.0), "whole number"),
        (lambda: AnnealedLangevin(steps=True), "whole number"),
        (lambda: AnnealedLangevin(step_size=0.0), "step_size=0.0"),
        (lambda: AnnealedLangevin(step_size=math.nan), "step_size"),
    ],
)
def test_wrong_parameters_are_refused(make, says):
    with pytest.raises(CascadeError, match=says):
        make()
