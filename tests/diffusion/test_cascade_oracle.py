"""The exact cascade against dense linear algebra in pixels, which knows nothing of frequencies."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.testing import assert_close

from cascade.diffusion import Condition
from cascade.diffusion.augmentation import augment
from cascade.diffusion.cascade_oracle import (
    DiagonalGaussian,
    GaussianCascade,
    dct_matrix,
    frequencies,
    gaussian_kl,
    pictures_of,
    project,
)
from cascade.diffusion.oracle import GaussianDenoiser

F64 = torch.float64
NOTHING = Condition()
CASCADE = GaussianCascade((2, 4, 6), std=0.7)
AUGMENTATIONS = [-3.0, 0.0, 4.0, math.inf]


def exact(actual, expected, tolerance=1e-10):
    assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def at(level, count):
    return torch.full((count,), level, dtype=F64)


def matrix_of(linear, shape):
    """The matrix (outputs, inputs) of a linear map of pictures (B, *shape)."""
    count = math.prod(shape)
    return linear(torch.eye(count, dtype=F64).reshape(count, *shape)).flatten(1).mT


def pixel_covariance(stage):
    side = CASCADE.sides[stage]
    root = matrix_of(lambda noise: CASCADE.pictures(noise, stage), (1, side, side))
    return root @ root.mT


@pytest.mark.parametrize("side", [1, 2, 5, 8])
def test_frequencies_are_an_orthonormal_change_of_basis(side, normal):
    matrix = dct_matrix(side)
    exact(matrix @ matrix.mT, torch.eye(side, dtype=F64), 1e-13)
    x = normal(2, 3, side, side)
    exact(pictures_of(frequencies(x)), x, 1e-13)
    # A cosine of u half waves is the u-th coefficient alone.
    if side == 8:
        wave = (math.pi * 3 * (torch.arange(8, dtype=F64) + 0.5) / 8).cos()[:, None].expand(8, 8)
        expected = torch.zeros(8, 8, dtype=F64)
        expected[3, 0] = wave.norm()
        exact(frequencies(wave), expected, 1e-13)


def test_shrinking_is_an_orthogonal_projection_and_composes(normal):
    rows = matrix_of(lambda x: project(x, 2), (1, 6, 6))
    exact(rows @ rows.mT, torch.eye(4, dtype=F64), 1e-13)
    x = normal(2, 3, 6, 6)
    exact(project(project(x, 4), 2), project(x, 2), 1e-13)
    exact(project(x, 6), x, 1e-13)
    exact(project(x, 2).mean((-1, -2)) * 2 / 6, x.mean((-1, -2)), 1e-13)


def test_the_spectrum_is_one_over_frequency_squared_and_std_that_of_a_pixel():
    variance = CASCADE.variances(-1)
    exact(variance[3, 4] * 25, variance[0, 1])
    exact(variance[2, 0] * 4, variance[0, 0])
    exact(pixel_covariance(2).diagonal().mean(), torch.tensor(0.49, dtype=F64))
    exact(CASCADE.variances(0), variance[:2, :2], 0)
    exact(GaussianCascade((4,), exponent=1.0).variances(0)[0, 2] * 2, GaussianCascade((4,), 1.0).variances(0)[0, 0])


@pytest.mark.parametrize("level", [-5.0, 0.3, 6.0])
def test_base_is_the_dense_gaussian_oracle(level, normal):
    x_t = normal(3, 1, 4, 4)
    dense = GaussianDenoiser(torch.zeros(16, dtype=F64), pixel_covariance(1))(x_t, at(level, 3), NOTHING)
    told = GaussianCascade((4,), std=1.0)
    scaled = GaussianCascade((4,), std=float(pixel_covariance(1).diagonal().mean().sqrt()))
    answer = scaled.denoiser(0)(x_t, at(level, 3), NOTHING)
    exact(answer.mean, dense.mean)
    exact(answer.covariance, dense.covariance)
    assert not torch.allclose(told.denoiser(0)(x_t, at(level, 3), NOTHING).mean, dense.mean)


@pytest.mark.parametrize("aug", AUGMENTATIONS)
@pytest.mark.parametrize("level", [-5.0, 0.3, 6.0])
def test_super_resolution_is_bayes_of_the_joint_gaussian(level, aug, normal):
    # (x, z) with z = α_a·P x + σ_a·ε and x_t = α·x + σ·ε': condition the joint Gaussian on z and x_t at once.
    data, rows = pixel_covariance(2), matrix_of(lambda x: project(x, 4), (1, 6, 6))
    level_, aug_ = torch.tensor(level, dtype=F64), torch.tensor(aug, dtype=F64)
    seen = torch.cat([aug_.sigmoid().sqrt() * rows, level_.sigmoid().sqrt() * torch.eye(36, dtype=F64)])
    noise = torch.cat([(-aug_).sigmoid().expand(16), (-level_).sigmoid().expand(36)]).diag()
    gain = torch.linalg.solve(seen @ data @ seen.mT + noise, seen @ data).mT
    # Several levels of augmentation in one batch; the first is the one that is tried.
    low, x_t = normal(2, 1, 4, 4, name="low"), normal(2, 1, 6, 6)
    condition = Condition(low_res=low, aug_log_snr=torch.tensor([aug, 1.7], dtype=F64))
    answer = CASCADE.denoiser(2)(x_t, at(level, 2), condition)
    exact(answer.mean[0].flatten(), gain @ torch.cat([low[0].flatten(), x_t[0].flatten()]), 1e-9)
    exact(answer.covariance[0], data - gain @ seen @ data, 1e-9)
    if aug == math.inf:
        clean = CASCADE.denoiser(2)(x_t, at(level, 2), Condition(low_res=low))
        exact(clean.mean[0], answer.mean[0], 0)


def test_colours_are_treated_apart(normal):
    x_t, low = normal(2, 3, 4, 4), normal(2, 3, 2, 2, name="low")
    answer = CASCADE.denoiser(1)(x_t, at(0.5, 2), Condition(low_res=low, aug_log_snr=at(2.0, 2)))
    one = CASCADE.denoiser(1)(x_t[:, 1:2], at(0.5, 2), Condition(low_res=low[:, 1:2], aug_log_snr=at(2.0, 2)))
    exact(answer.mean[:, 1:2], one.mean)
    exact(answer.covariance[:, 16:32, 16:32], one.covariance)
    exact(answer.covariance[:, :16, 16:], torch.zeros(2, 16, 32, dtype=F64))


@pytest.mark.parametrize("aug", AUGMENTATIONS)
def test_chained_pictures_are_the_linear_map_of_imperfect_small_ones(aug, normal):
    # x | z is affine in z: push the covariance of z through it.
    small = CASCADE.variances(1) * normal(4, 4).exp()
    stage, level = CASCADE.denoiser(2), torch.tensor(aug, dtype=F64)

    def mean(z):
        condition = Condition(low_res=z, aug_log_snr=at(aug, len(z)))
        return pictures_of(stage.prior(condition, torch.zeros(len(z), 1, 6, 6, dtype=F64))[0])

    gain = matrix_of(mean, (1, 4, 4))
    root = matrix_of(lambda noise: pictures_of(small.sqrt() * noise), (1, 4, 4))
    z = level.sigmoid() * root @ root.mT + (-level).sigmoid() * torch.eye(16, dtype=F64)
    away = matrix_of(pictures_of, (1, 6, 6)) @ CASCADE.conditional_variances(2, aug).flatten().diag().sqrt()
    dense = gain @ z @ gain.mT + away @ away.mT
    chained = matrix_of(pictures_of, (1, 6, 6)) @ CASCADE.chained_variances(2, small, aug).flatten().diag().sqrt()
    exact(dense, chained @ chained.mT)
    spectrum = matrix_of(frequencies, (1, 4, 4))
    exact((spectrum @ z @ spectrum.mT).diagonal().reshape(4, 4), CASCADE.augmented_variances(2, small, aug))
    exact(CASCADE.chained_variances(2, CASCADE.variances(1), aug), CASCADE.variances(2))


def test_conditional_variances_are_those_of_the_denoiser_that_sees_nothing_yet():
    for stage, aug in [(0, 3.0), (1, -2.0), (2, 4.0), (2, math.inf)]:
        side = CASCADE.sides[stage]
        low = torch.zeros(1, 1, CASCADE.sides[stage - 1], CASCADE.sides[stage - 1], dtype=F64)
        condition = Condition(low_res=low, aug_log_snr=at(aug, 1)) if stage else NOTHING
        _, variance = CASCADE.denoiser(stage).prior(condition, torch.zeros(1, 1, side, side, dtype=F64))
        exact(variance.squeeze(), CASCADE.conditional_variances(stage, aug), 1e-13)
        exact(CASCADE.variances(stage) * (1 - CASCADE.kept(stage, aug)), CASCADE.conditional_variances(stage, aug))


def test_divergence_is_torchs(normal):
    v, r, m = normal(5, name="v").exp(), normal(5, name="r").exp(), normal(5, name="m")
    expected = kl_divergence(Normal(m, v.sqrt()), Normal(0.0 * m, r.sqrt())).sum()
    exact(gaussian_kl(v, r, m), expected)
    exact(gaussian_kl(r, r), torch.tensor(0.0, dtype=F64), 0)


def test_augmentation_hides_the_errors_of_the_stage_before():
    """Data processing: KL(chain ‖ data) ≤ KL(augmented small ‖ augmented data), and both fall with the noise."""
    small = CASCADE.variances(1) * 1.5
    levels = [math.inf, 4.0, 1.0, -2.0, -6.0]
    chain = [gaussian_kl(CASCADE.chained_variances(2, small, a), CASCADE.variances(2)) for a in levels]
    told = [
        gaussian_kl(CASCADE.augmented_variances(2, small, a), CASCADE.augmented_variances(2, CASCADE.variances(1), a))
        for a in levels
    ]
    assert all(c <= t + 1e-12 for c, t in zip(chain, told, strict=True))
    assert chain == sorted(chain, reverse=True)
    assert told == sorted(told, reverse=True)
    exact(chain[0], told[0])
    assert float(chain[-1]) < 1e-4 * float(chain[0])


def test_entropy_is_the_dense_gaussians_and_the_cascades_sum_is_that_of_the_largest():
    level = 7.0
    noise = math.exp(-level)
    dense = MultivariateNormal(torch.zeros(36, dtype=F64), pixel_covariance(2) + noise * torch.eye(36, dtype=F64))
    whole = GaussianCascade((6,), std=0.7)
    assert whole.entropy(0, math.inf, level) == pytest.approx(float(dense.entropy()), rel=1e-12)
    # h(y_0) + Σ h(y_i | x_{i−1}) = h(y) + Σ (n_low/2)·ln(2πe·e^{−λmax}), n_low the known numbers of each stage.
    chain = sum(CASCADE.entropy(stage, math.inf, level) for stage in range(3))
    known = (4 + 16) / 2 * math.log(2 * math.pi * math.e * noise)
    assert chain == pytest.approx(float(dense.entropy()) + known, rel=1e-12)


def test_diagonal_oracle_is_the_dense_one(normal):
    variance, mean, x_t = normal(5, name="v").exp(), normal(5, name="m"), normal(3, 5)
    levels = torch.tensor([-4.0, 0.2, 5.0], dtype=F64)
    answer, dense = (
        oracle(x_t, levels, NOTHING)
        for oracle in (DiagonalGaussian(variance, mean), GaussianDenoiser(mean, variance.diag()))
    )
    exact(answer.mean, dense.mean)
    exact(answer.covariance, dense.covariance)
    assert DiagonalGaussian(variance)(x_t.float(), levels.float(), NOTHING).mean.dtype == torch.float32


def test_pictures_have_the_spectrum(normal):
    noise = normal(1, 1, 6, 6)
    exact(frequencies(CASCADE.pictures(noise)), CASCADE.variances(2).sqrt() * noise)
    low = project(CASCADE.pictures(noise), 4)
    told = augment(low, at(2.0, 1), normal(1, 1, 4, 4, name="eps"))
    assert told.shape == CASCADE.denoiser(2).prior(Condition(low_res=told), noise)[0][..., :4, :4].shape


@pytest.mark.parametrize(
    "make",
    [
        lambda: GaussianCascade((4, 2)),
        lambda: GaussianCascade(()),
        lambda: GaussianCascade((4,), std=0.0),
        lambda: CASCADE.denoiser(1)(torch.zeros(1, 1, 4, 4), torch.zeros(1), NOTHING),
        lambda: CASCADE.denoiser(0)(torch.zeros(1, 1, 4, 4), torch.zeros(1), NOTHING),
        lambda: CASCADE.augmented_variances(2, torch.ones(2, 2), 0.0),
    ],
)
def test_what_does_not_fit_is_refused(make):
    with pytest.raises(ValueError, match=r"sides|std|need|stage"):
        make()
