"""The loss that is common to all candidates: its closed forms, and that it asks for nothing but the mean."""

import pytest
import torch

from cascade.data.procedural import ProceduralDataset
from cascade.data.views import EvaluationView
from cascade.diffusion import (
    Condition,
    EDMWeighting,
    GaussianDenoiser,
    Posterior,
    UnitWeighting,
    VPreconditioning,
    X0Preconditioning,
    alpha_sigma,
    v_from_mean,
)
from cascade.diffusion.augmentation import GaussianAugmentation
from cascade.diffusion.noise import LogNormalNoise
from cascade.errors import CascadeError
from cascade.evaluation.denoising_error import DenoisingError

pytestmark = pytest.mark.usefixtures("one_thread")
NOISE = LogNormalNoise(p_mean=-0.8)
EDM = EDMWeighting(NOISE, 0.5, NOISE)


def judge(view, **changes) -> DenoisingError:
    return DenoisingError(view, **{"noise": NOISE, "weighting": EDM, "count": 6, "levels": 3, "batch": 4, **changes})


@pytest.fixture(scope="module")
def view():
    return EvaluationView(ProceduralDataset(16, "val", val_size=8))


class White:
    """Pictures of white noise of standard deviation s, whose best denoiser is known."""

    def __init__(self, s: float, side: int) -> None:
        self.pictures = s * torch.randn(6, 3, side, side, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, i):
        return {"image": self.pictures[i], "label": torch.tensor(0)}


def test_nothing_predicted_costs_the_power_of_the_picture(view):
    """x̂ = 0: ratio(λ)·e^λ·‖x‖²/CHW, whatever the noise."""
    judging = judge(view)
    found = judging(lambda x_t, log_snr, condition: Posterior(torch.zeros_like(x_t)))
    power = torch.stack([view[i]["image"].double().square().mean() for i in range(6)])[:, None]
    level = judging.log_snr().double()
    weight = level.exp() + 4  # (1 + e^{−λ}/¼)·e^λ, p(λ) being its own reference
    torch.testing.assert_close(found, power * weight, rtol=1e-5, atol=0)


def test_the_exact_oracle_costs_what_the_noise_hides():
    """Of pictures N(0, s²) the best denoiser leaves s²σ²/(α²s² + σ²): its weighted mean over the levels."""
    s, side = 0.4, 12
    judging = judge(White(s, side), levels=8)
    oracle = GaussianDenoiser(torch.zeros(432), s**2 * torch.eye(432))
    found = judging(oracle)
    level = judging.log_snr().double()
    alpha, sigma = alpha_sigma(level)
    left = s**2 * sigma**2 / (alpha**2 * s**2 + sigma**2)
    expected = (level.exp() + 4) * left
    assert found.mean().item() == pytest.approx(expected.mean().item(), rel=0.02)
    biased = judging(lambda x_t, log_snr, condition: Posterior(0.8 * oracle(x_t, log_snr, condition).mean))
    assert biased.mean() > found.mean(), "nothing is better than the oracle"


def test_two_parametrisations_of_one_function_cost_the_same(view):
    def smooth(x_t):
        return torch.tanh(x_t.mean((2, 3), keepdim=True) + 0.3 * x_t)

    class Network(torch.nn.Module):
        def __init__(self, of):
            super().__init__()
            self.of = of

        def forward(self, x, *told, **more):
            return self.of(x)

    judging = judge(view)
    as_x0 = X0Preconditioning(Network(smooth))
    direct = judging(as_x0)

    def v_of(x_t, log_snr, condition):
        v = v_from_mean(x_t, as_x0(x_t, log_snr, condition).mean, log_snr)
        return VPreconditioning(Network(lambda _: v))(x_t, log_snr, condition)

    torch.testing.assert_close(judging(v_of), direct, rtol=2e-4, atol=1e-6)


def test_an_uncertainty_that_the_training_learns_is_not_judged(view):
    zero = lambda x_t, *_: Posterior(torch.zeros_like(x_t))  # noqa: E731
    sure = lambda x_t, *_: Posterior(torch.zeros_like(x_t), log_uncertainty=torch.full((len(x_t),), 3.0))  # noqa: E731
    assert torch.equal(judge(view)(zero), judge(view)(sure))


def test_batches_do_not_change_it_and_all_levels_are_strata(view):
    blur = lambda x_t, *_: Posterior(0.5 * x_t)  # noqa: E731
    torch.testing.assert_close(judge(view, batch=1)(blur), judge(view, batch=6)(blur))
    quantiles = torch.special.ndtr((judge(view).log_snr().double() + 2 * NOISE.p_mean) / (2 * NOISE.p_std))
    expected = (torch.arange(18) + 0.5).double() / 18
    torch.testing.assert_close(quantiles.flatten().sort().values, expected, atol=1e-5, rtol=0)


def test_a_later_stage_is_told_one_level_and_the_low_res_picture_that_it_spoils():
    told: list[Condition] = []

    def listening(x_t, log_snr, condition):
        told.append(condition)
        return Posterior(torch.zeros_like(x_t))

    augmentation = GaussianAugmentation(0.0, 9.0, default=6.0)
    view = EvaluationView(ProceduralDataset(16, "val", val_size=8), factor=4, crop=8)
    judge(view, augmentation=augmentation, aug_log_snr=2.0, labelled=False, weighting=UnitWeighting())(listening)
    assert all(c.label is None and bool((c.aug_log_snr == 2.0).all()) for c in told)
    clean = view[0]["low_res"]
    alpha, sigma = alpha_sigma(torch.tensor(2.0))
    noise = (told[0].low_res[0] - alpha * clean) / sigma
    assert told[0].low_res.shape == (4, 3, 2, 2)
    assert noise.std().item() == pytest.approx(1, abs=0.5)
    assert torch.equal(told[0].low_res, told[1].low_res), "the levels of a picture share it"


def test_a_training_that_diverged_is_told_and_counts_are_checked(view):
    with pytest.raises(CascadeError, match="diverged"):
        judge(view)(lambda x_t, *_: Posterior(x_t / 0))
    for changes in ({"count": 9}, {"count": 0}, {"levels": 0}, {"batch": 0}):
        with pytest.raises(CascadeError):
            judge(view, **changes)
