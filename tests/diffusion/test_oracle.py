"""The oracles against what they are not made of: autograd, quadrature, Bayes' rule."""

import math

import pytest
import torch
from torch.testing import assert_close

from cascade.diffusion import Condition, GaussianDenoiser, MixtureDenoiser, alpha_sigma, eps_from_mean, score_from_mean

NOTHING = Condition()
LEVELS = [-9.0, -1.3, 0.0, 2.0, 7.0]


def exact(actual, expected, tolerance=1e-11):
    assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture
def gaussian(normal):
    root = normal(4, 4, name="root")
    return GaussianDenoiser(normal(4, name="mean"), root @ root.T)


@pytest.fixture
def mixture(normal):
    root = normal(3, 4, 4, name="roots")
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    return MixtureDenoiser(weights, 2 * normal(3, 4, name="means"), root @ root.mT)


@pytest.fixture(params=["gaussian", "mixture"])
def oracle(request):
    return request.getfixturevalue(request.param)


def at(level, count):
    return torch.full((count,), level, dtype=torch.float64)


@pytest.mark.parametrize("level", LEVELS)
def test_mean_is_tweedies_by_autograd_of_the_log_density(oracle, level, normal):
    x_t = normal(5, 4).requires_grad_()
    (score,) = torch.autograd.grad(oracle.log_prob(x_t, at(level, 5)).sum(), x_t)
    alpha, _ = alpha_sigma(level)
    mean = oracle(x_t, at(level, 5), NOTHING).mean
    exact(mean, (x_t + score / (1 + math.exp(level))) / alpha, 1e-9)
    exact(score_from_mean(x_t, mean, at(level, 5)), score, 1e-9)


@pytest.mark.parametrize("level", LEVELS)
def test_covariance_is_the_jacobian_of_the_mean(oracle, level, normal):
    # Cov[x | x_t] = (σ²/α)·∂x̂/∂x_t, the second-order Tweedie formula.
    x_t = normal(3, 4)
    alpha, sigma = alpha_sigma(level)
    covariance = oracle(x_t, at(level, 3), NOTHING).covariance
    for i in range(3):
        one = lambda x: oracle(x[None], at(level, 1), NOTHING).mean[0]  # noqa: E731
        jacobian = torch.autograd.functional.jacobian(one, x_t[i])
        exact(covariance[i], sigma**2 / alpha * jacobian, 1e-9)


@pytest.mark.parametrize("level", [-2.0, 0.0, 3.0])
def test_posterior_is_bayes_rule_by_quadrature(level, integrate):
    weights, means = [0.3, 0.7], [-1.0, 1.5]
    deviations = [0.4, 0.8]
    oracle = MixtureDenoiser(
        torch.tensor(weights, dtype=torch.float64),
        torch.tensor(means, dtype=torch.float64)[:, None],
        torch.tensor(deviations, dtype=torch.float64).square()[:, None, None],
    )
    alpha, sigma = (float(c) for c in alpha_sigma(level))

    def gauss(x, mean, deviation):
        return torch.exp(-0.5 * ((x - mean) / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))

    for x_t in (-1.7, 0.2, 2.0):

        def joint(x, x_t=x_t):
            data = sum(w * gauss(x, m, s) for w, m, s in zip(weights, means, deviations, strict=True))
            return data * gauss(x_t, alpha * x, sigma)

        evidence = integrate(joint, -12, 12)
        mean = integrate(lambda x, joint=joint: x * joint(x), -12, 12) / evidence
        variance = integrate(lambda x, joint=joint, mean=mean: (x - mean) ** 2 * joint(x), -12, 12) / evidence
        point = torch.tensor([[x_t]], dtype=torch.float64)
        posterior = oracle(point, at(level, 1), NOTHING)
        assert float(posterior.mean) == pytest.approx(mean, rel=1e-9)
        assert float(posterior.covariance) == pytest.approx(variance, rel=1e-9)
        assert float(oracle.log_prob(point, at(level, 1))) == pytest.approx(math.log(evidence), rel=1e-9)


@pytest.mark.parametrize("level", LEVELS)
def test_gaussian_is_the_linear_gaussian_formula(gaussian, level, normal):
    root, mean = normal(4, 4, name="root"), normal(4, name="mean")
    covariance, x_t = root @ root.T, normal(3, 4)
    alpha, sigma = alpha_sigma(level)
    # The information form, with inverses that the oracle never takes: S_post⁻¹ = S⁻¹ + (α²/σ²)·1.
    posterior = torch.linalg.inv(torch.linalg.inv(covariance) + math.exp(level) * torch.eye(4, dtype=torch.float64))
    information = torch.linalg.solve(covariance, mean) + alpha / sigma**2 * x_t
    answer = gaussian(x_t, at(level, 3), NOTHING)
    exact(answer.mean, information @ posterior, 1e-9)
    exact(answer.covariance, posterior.expand(3, 4, 4), 1e-9)
    marginal = torch.distributions.MultivariateNormal(
        alpha * mean, alpha**2 * covariance + sigma**2 * torch.eye(4, dtype=torch.float64)
    )
    exact(gaussian.log_prob(x_t, at(level, 3)), marginal.log_prob(x_t), 1e-10)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("level", LEVELS)
def test_mixture_of_equal_components_reduces_to_the_gaussian(gaussian, count, level, normal):
    root, mean, x_t = normal(4, 4, name="root"), normal(4, name="mean"), normal(5, 4)
    weights = torch.arange(1, count + 1, dtype=torch.float64)
    mixture = MixtureDenoiser(weights, mean.expand(count, 4), (root @ root.T).expand(count, 4, 4))
    one, other = mixture(x_t, at(level, 5), NOTHING), gaussian(x_t, at(level, 5), NOTHING)
    exact(one.mean, other.mean)
    exact(one.covariance, other.covariance)
    exact(mixture.log_prob(x_t, at(level, 5)), gaussian.log_prob(x_t, at(level, 5)))


def test_a_label_conditions_on_its_component_and_null_on_none(mixture, normal):
    x_t, level = normal(6, 4), at(0.4, 6)
    root, means = normal(3, 4, 4, name="roots"), 2 * normal(3, 4, name="means")
    label = torch.tensor([0, 1, 2, 2, -1, 3])
    answer = mixture(x_t, level, Condition(label=label))
    densities = mixture.log_prob(x_t, level, Condition(label=label))
    for i, k in enumerate(label.tolist()):
        alone = mixture if k in (-1, 3) else GaussianDenoiser(means[k], root[k] @ root[k].T)
        expected = alone(x_t[i : i + 1], level[:1], NOTHING)
        exact(answer.mean[i : i + 1], expected.mean)
        exact(answer.covariance[i : i + 1], expected.covariance)
        exact(densities[i : i + 1], alone.log_prob(x_t[i : i + 1], level[:1]))
    null = mixture(x_t, level, Condition(label=label).null())
    exact(null.mean, mixture(x_t, level, NOTHING).mean, 0)


def test_class_probabilities_are_bayes_rule_and_guide_to_the_label(mixture, normal):
    x_t, level = normal(5, 4).requires_grad_(), at(-0.7, 5)
    log_class = mixture.log_class(x_t, level)
    exact(log_class.exp().sum(1), torch.ones(5, dtype=torch.float64))
    label = torch.tensor([0, 1, 2, 0, 1])
    prior = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)[label].log()
    conditional = mixture.log_prob(x_t, level, Condition(label=label))
    exact(log_class.gather(1, label[:, None])[:, 0], prior + conditional - mixture.log_prob(x_t, level))
    # Scale 1 of classifier guidance turns the unconditional oracle into the conditional one.
    (gradient,) = torch.autograd.grad(log_class.gather(1, label[:, None]).sum(), x_t)
    alpha, sigma = alpha_sigma(-0.7)
    guided = mixture(x_t, level, NOTHING).mean + sigma**2 / alpha * gradient
    exact(guided, mixture(x_t, level, Condition(label=label)).mean, 1e-10)


def test_the_score_integrates_to_the_log_density(mixture, normal, integrate):
    start, end = normal(4, name="start"), 3 * normal(4, name="end")

    def slope(s):
        x = start + s[:, None] * (end - start)
        level = at(1.1, len(s))
        return score_from_mean(x, mixture(x, level, NOTHING).mean, level) @ (end - start)

    rise = mixture.log_prob(torch.stack([end, start]), at(1.1, 2))
    assert integrate(slope, 0, 1, panels=50) == pytest.approx(float(rise[0] - rise[1]), rel=1e-10)


def test_density_integrates_to_one(integrate):
    two = torch.tensor([[-2.0], [1.0]], dtype=torch.float64)
    oracle = MixtureDenoiser(torch.tensor([3.0, 1.0]), two, torch.full((2, 1, 1), 0.2))
    for level in (-3.0, 4.0, math.inf):
        mass = integrate(lambda x, level=level: oracle.log_prob(x[:, None], at(level, len(x))).exp(), -15, 15)
        assert mass == pytest.approx(1, abs=1e-10)


def test_at_the_ends_the_mean_is_the_prior_mean_and_the_image(oracle, normal):
    x = normal(3, 4)
    exact(oracle(x, at(20, 3), NOTHING).mean, x, 1e-5)
    pure_noise = oracle(x, at(-40, 3), NOTHING)
    prior = torch.einsum("k,kd->d", torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64), 2 * normal(3, 4, name="means"))
    expected = normal(4, name="mean") if isinstance(oracle, GaussianDenoiser) else prior
    exact(pure_noise.mean, expected.expand(3, 4), 1e-7)


def test_data_on_points_is_the_softmax_of_smalldiffusions_ideal_denoiser(normal):
    points, x_t = normal(5, 4, name="points"), normal(3, 4)
    oracle = MixtureDenoiser(torch.ones(5), points, torch.zeros(5, 4, 4))
    alpha, sigma = alpha_sigma(0.9)
    distance = (x_t[:, None] - alpha * points).square().sum(2)
    exact(oracle(x_t, at(0.9, 3), NOTHING).mean, (-distance / (2 * sigma**2)).softmax(1) @ points)
    assert bool(oracle(x_t, at(20.0, 3), NOTHING).mean.isfinite().all())


def test_images_are_flattened_and_keep_their_shape_and_dtype(normal):
    root = normal(12, 12)
    oracle = GaussianDenoiser(normal(12, name="mean"), root @ root.T)
    x_t = normal(2, 3, 2, 2)
    levels = torch.tensor([0.3, -4.0], dtype=torch.float64)
    answer = oracle(x_t, levels, NOTHING)
    assert answer.mean.shape == (2, 3, 2, 2)
    assert answer.covariance.shape == (2, 12, 12)
    flat = oracle(x_t.flatten(1), levels, NOTHING)
    exact(answer.mean.flatten(1), flat.mean, 0)
    single = oracle(x_t.float(), levels.float(), NOTHING)
    assert single.mean.dtype == torch.float32
    assert_close(single.mean.double(), answer.mean, rtol=1e-4, atol=1e-5)
    assert eps_from_mean(x_t.float(), single.mean, levels.float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: GaussianDenoiser(torch.zeros(2), torch.eye(3)), "need weights"),
        (lambda: GaussianDenoiser(torch.zeros(2), -torch.eye(2)), "negative eigenvalue"),
        (lambda: GaussianDenoiser(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])), "symmetric"),
        (lambda: MixtureDenoiser(torch.zeros(2), torch.zeros(2, 1), torch.ones(2, 1, 1)), "weights"),
        (
            lambda: GaussianDenoiser(torch.zeros(2), torch.eye(2))(torch.zeros(1, 3), torch.zeros(1), NOTHING),
            "x_t has 3",
        ),
    ],
)
def test_impossible_oracles_are_refused(make, line):
    with pytest.raises(ValueError, match=line):
        make()


def test_an_unknown_label_is_refused(mixture):
    with pytest.raises(ValueError, match="labels must lie between -1 and 3"):
        mixture(torch.zeros(1, 4), torch.zeros(1), Condition(label=torch.tensor([4])))
