"""Score matching: to match the noise is to match the score, up to a constant that is known; and a network learns it.

Expectations are Gauss-Hermite sums over each component of a mixture and over the noise, exact to 10⁻⁷ or better.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cascade import rng
from cascade.diffusion import (
    Condition,
    EDMPreconditioning,
    GaussianDenoiser,
    LadderNoise,
    MixtureDenoiser,
    Posterior,
    UnitWeighting,
    alpha_sigma,
    diffuse,
    diffusion_loss,
    score_from_mean,
)

F64 = torch.float64
WEIGHTS = torch.tensor([0.3, 0.7], dtype=F64)
LINE = (torch.tensor([-1.2, 0.8], dtype=F64), torch.tensor([0.5, 0.3], dtype=F64))  # means, standard deviations


def hermite(count):
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(count))
    return nodes, weights / weights.sum()


def pairs_on_the_line(count=90):
    """x and ε (N, 1) of the mixture on the line, and the probability of each pair, (N,)."""
    nodes, weights = hermite(count)
    x = LINE[0][:, None, None] + LINE[1][:, None, None] * nodes[:, None]
    mass = WEIGHTS[:, None, None] * weights[:, None] * weights
    return x.expand(mass.shape).reshape(-1, 1), nodes.expand(mass.shape).reshape(-1, 1), mass.flatten()


LINE_ORACLE = MixtureDenoiser(WEIGHTS, LINE[0][:, None], LINE[1].square()[:, None, None])


def with_score(score):
    """The denoiser whose posterior mean says this score: x̂ = (x_t + σ²·score)/α."""

    def denoiser(x_t, log_snr, condition):
        alpha, sigma = (c[:, None] for c in alpha_sigma(log_snr))
        return Posterior((x_t + sigma.square() * score(x_t)) / alpha)

    return denoiser


SCORES = [lambda x: -x, lambda x: 0 * x, lambda x: x.tanh() - 0.3, lambda x: (3 * x).cos() - x / 2]


@pytest.mark.parametrize("level", [-3.0, 0.5, 3.0])
def test_denoising_less_explicit_score_matching_is_the_constant_whatever_the_score(level):
    x, eps, mass = pairs_on_the_line()
    log_snr = torch.full((len(x),), level, dtype=F64)
    sigma = float(alpha_sigma(level)[1])
    x_t = diffuse(x, eps, log_snr)
    true = score_from_mean(x_t, LINE_ORACLE(x_t, log_snr, Condition()).mean, log_snr)
    gaps = []
    for score in SCORES:
        # Vincent 2011: E‖s − ∇log q(x_t|x)‖², ∇log q(x_t|x) = −ε/σ. The loss of the house is σ² times it.
        denoising = (diffusion_loss(with_score(score), x, log_snr, eps, Condition(), UnitWeighting()) * mass).sum()
        explicit = ((score(x_t) - true).square().mean(1) * mass).sum()
        gaps.append(float(denoising) / sigma**2 - float(explicit))
    # E‖∇log q(x_t|x)‖² − E‖∇log q(x_t)‖²
    constant = 1 / sigma**2 - float((true.square().mean(1) * mass).sum())
    assert gaps == pytest.approx([constant] * len(SCORES), rel=1e-7)
    # It is what the exact denoiser is left with: the variance that x keeps given x_t.
    left = (diffusion_loss(LINE_ORACLE, x, log_snr, eps, Condition(), UnitWeighting()) * mass).sum() / sigma**2
    assert float(left) == pytest.approx(constant, rel=1e-7)


def test_the_constant_of_a_gaussian_in_closed_form(normal):
    # For x ~ N(0, S), an affine score A·x_t and unit vectors in the place of x and ε, all sums are exact.
    size = 3
    root = normal(size, size)
    zero, unit = torch.zeros(size, size, dtype=F64), torch.eye(size, dtype=F64)
    x, eps = torch.cat([root.T, zero]), torch.cat([zero, unit])
    for level in (-4.0, 0.3, 5.0):
        log_snr = torch.full((2 * size,), level, dtype=F64)
        alpha, sigma = (float(c) for c in alpha_sigma(level))
        precision = torch.linalg.inv(alpha**2 * root @ root.T + sigma**2 * unit)
        expected = size / sigma**2 - float(precision.trace())
        for matrix in (-precision, -0.5 * unit, normal(size, size, name="A")):
            denoiser = with_score(lambda x_t, matrix=matrix: x_t @ matrix.T)
            loss = diffusion_loss(denoiser, x, log_snr, eps, Condition(), UnitWeighting())
            explicit = (diffuse(x, eps, log_snr) @ (matrix + precision).T).square().sum()
            assert size * float(loss.sum()) / sigma**2 - float(explicit) == pytest.approx(expected, rel=1e-9)
    exact = GaussianDenoiser(torch.zeros(size, dtype=F64), root @ root.T)
    x_t, log_snr = normal(4, size, name="x_t"), torch.full((4,), 0.3, dtype=F64)
    alpha, sigma = (float(c) for c in alpha_sigma(0.3))
    precision = torch.linalg.inv(alpha**2 * root @ root.T + sigma**2 * unit)
    assert_close(score_from_mean(x_t, exact(x_t, log_snr, Condition()).mean, log_snr), -x_t @ precision)


def test_ncsns_objective_is_the_unit_weight_on_a_ladder(normal):
    # Song & Ermon 2019, eq. 5-6, of x̄ = x + σ·ε: mean over the levels of ½·σ²·‖s̄(x̄, σ) + ε/σ‖²; s̄ = α·score.
    ladder = LadderNoise(0.05, 2.0, 6)
    x, eps = normal(6, 4), normal(6, 4, name="eps")
    sigma = (-ladder.log_snrs / 2).exp()[:, None]
    noisy, score = x + sigma * eps, normal(6, 4, name="s")
    theirs = (sigma.square() * (score + eps / sigma).square()).sum(1).mean() / 2

    def denoiser(x_t, log_snr, condition):
        alpha = alpha_sigma(log_snr)[0][:, None]
        assert_close(x_t / alpha, noisy)
        return Posterior(noisy + sigma.square() * score)

    loss = diffusion_loss(denoiser, x, ladder.log_snrs, eps, Condition(), UnitWeighting(ladder))
    ours = (ladder.masses * loss).sum()
    assert 4 * float(ours) / 2 == pytest.approx(float(theirs), rel=1e-9)


# A network of some thousand weights on a mixture of three in the plane.

PLANE_WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
PLANE_MEANS = torch.tensor([[-0.7, -0.2], [0.6, 0.5], [0.4, -0.7]], dtype=F64)
PLANE_ROOTS = torch.tensor([[[0.2, 0.0], [0.1, 0.1]], [[0.1, 0.0], [0.0, 0.3]], [[0.15, 0.0], [0.0, 0.15]]], dtype=F64)
PLANE_ORACLE = MixtureDenoiser(PLANE_WEIGHTS, PLANE_MEANS, PLANE_ROOTS @ PLANE_ROOTS.mT)
LADDER = LadderNoise(0.2, 3.0, 6)


class Perceptron(nn.Module):
    """x_in (B, 2) and λ → (B, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 2))
        for number, parameter in enumerate(self.parameters()):
            bound = math.sqrt(1 / parameter.shape[-1])
            parameter.data = bound * (2 * rng.uniform("perceptron", number, shape=parameter.shape) - 1)

    def forward(self, x_in, log_snr, **condition):
        told = torch.stack([log_snr / 4, (log_snr / 4).square()], 1)
        return self.layers(torch.cat([x_in, told], 1))


def trained(steps, batch=512):
    denoiser = EDMPreconditioning(Perceptron(), sigma_data=0.6)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-2)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    kinds = torch.searchsorted(PLANE_WEIGHTS.cumsum(0).float(), rng.uniform("kind", shape=(steps * batch,)))
    data = PLANE_MEANS.float()[kinds] + torch.einsum(
        "bij,bj->bi", PLANE_ROOTS.float()[kinds], rng.randn("data", shape=(steps * batch, 2))
    )
    noise, places = rng.randn("eps", shape=(steps * batch, 2)), rng.uniform("u", shape=(steps * batch,))
    for i in range(steps):
        part = slice(i * batch, (i + 1) * batch)
        levels = LADDER.icdf((torch.arange(batch) + places[part]) / batch)
        loss = diffusion_loss(denoiser, data[part], levels, noise[part], Condition(), UnitWeighting(LADDER)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return denoiser


@torch.no_grad()
def relative_errors(denoiser):
    """E‖ŝ − s‖²/E‖s‖² at each level of the ladder, under the exact p(x_t)."""
    nodes, weights = hermite(24)
    plane = torch.cartesian_prod(nodes, nodes)
    mass = (weights[:, None] * weights).flatten()
    errors = []
    for level in LADDER.log_snrs.tolist():
        alpha, sigma = (float(c) for c in alpha_sigma(level))
        spread = torch.linalg.cholesky(alpha**2 * PLANE_ROOTS @ PLANE_ROOTS.mT + sigma**2 * torch.eye(2, dtype=F64))
        x_t = (alpha * PLANE_MEANS[:, None] + torch.einsum("kij,nj->kni", spread, plane)).reshape(-1, 2)
        log_snr = torch.full((len(x_t),), level, dtype=F64)
        exact, learned = (
            score_from_mean(x_t, model(value, log_snr.to(value), Condition()).mean.double(), log_snr)
            for model, value in ((PLANE_ORACLE, x_t), (denoiser, x_t.float()))
        )
        density = (PLANE_WEIGHTS[:, None] * mass).flatten()[:, None]
        errors.append(float(((learned - exact).square() * density).sum() / (exact.square() * density).sum()))
    return errors


def test_a_small_network_learns_the_score_of_a_mixture(one_thread):
    # Measured: 0.0005 at the noisiest level, 0.03 at the cleanest; untrained, 0.01 to 1.2.
    errors, before = relative_errors(trained(800)), relative_errors(trained(0))
    assert max(errors) < 0.05
    assert sum(errors) / len(errors) < 0.015
    assert all(late < early / 10 for late, early in zip(errors, before, strict=True))
