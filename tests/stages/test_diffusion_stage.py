"""A step of training by hand: what the denoiser is shown, how the weights and their average move, what is counted."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cascade.diffusion.augmentation import GaussianAugmentation
from cascade.diffusion.geometric import AugmentPipe
from stages.base_stage import BaseStage
from stages.diffusion_stage import DiffusionStage
from stages.super_resolution_stage import SuperResolutionStage

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Lightning's advice on workers, and its use of what torch has deprecated.
    pytest.mark.filterwarnings("ignore::UserWarning:lightning.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]

STILL = AugmentPipe(x_flip=0, scale=0, rotation=0, anisotropic_scale=0, translation=0)


@pytest.fixture
def base(scale, recipe) -> Callable[..., BaseStage]:
    """base(**changes): a base stage by that recipe, without geometric augmentation."""
    return lambda **changes: BaseStage(scale(), recipe(**changes), STILL)


def gradient(call, x: Tensor, weight: float) -> float:
    """d/dw of mean ratio·e^λ·(w·x_t − x)², the loss by hand; ratio = min(1, 5e^{−λ})."""
    level = call.log_snr[:, None, None, None]
    factor = level.exp() * (5 * (-level).exp()).clamp(max=1)
    return float((factor * 2 * (weight * call.x_t - x) * call.x_t).detach().mean())


# The steps


def test_a_run_is_its_recursion_by_hand(batch, fit, base, rate):
    stage, batches = base(warmup_steps=4), [batch(step) for step in range(7)]
    history = fit(stage, batches)
    weight = average = 0.5
    for step, (call, made) in enumerate(zip(stage.denoiser.calls, batches, strict=True)):
        weight -= rate * min(1, (step + 1) / 4) * gradient(call, made["image"], weight)
        decay = min(0.6, (1 + step) / (4 + step))
        average = decay * average + (1 - decay) * weight
        assert history.weights[step] == pytest.approx(weight, rel=1e-9)
        assert history.averages[step] == pytest.approx(average, rel=1e-9)


@pytest.mark.parametrize(
    ("plan", "rates"),
    [
        ({"warmup_steps": 4}, [0.25, 0.5, 0.75, 1, 1, 1]),
        ({"warmup_steps": 1}, [1] * 6),
        ({"warmup_steps": 0}, [1] * 6),
        ({"total_steps": 6, "cooldown_steps": 0}, [1] * 6),
        ({"total_steps": 6, "cooldown_steps": 4}, [1, 1, 1, 0.75, 0.5, 0.25]),
        ({"warmup_steps": 2, "total_steps": 6, "cooldown_steps": 2}, [0.5, 1, 1, 1, 1, 0.5]),
    ],
)
def test_the_rate_rises_linearly_over_the_warm_up_and_falls_over_the_cool_down(plan, rates, batch, fit, base, rate):
    history = fit(base(**plan), [batch(step) for step in range(6)])
    assert history.rates == pytest.approx([rate * share for share in rates])
    assert [row["train/lr"] for row in history.metrics] == history.rates


def test_a_large_gradient_is_cut_to_its_largest_norm_and_a_small_one_left_alone(batch, fit, base, rate):
    clip = 1.3
    stage, batches = base(gradient_clip=clip), [batch(step) for step in range(12)]
    history = fit(stage, batches)
    before = [0.5, *history.weights]
    norms = [row["train/gradient_norm"] for row in history.metrics]
    assert min(norms) < clip < max(norms)
    for step, (call, made) in enumerate(zip(stage.denoiser.calls, batches, strict=True)):
        slope = gradient(call, made["image"], before[step])
        assert norms[step] == pytest.approx(abs(slope), rel=1e-6)
        moved = before[step + 1] - before[step]
        assert moved == pytest.approx(-rate * max(-clip, min(clip, slope)), rel=1e-4)


@pytest.mark.parametrize("spoilt", [math.nan, math.inf])
def test_a_step_that_is_not_finite_leaves_weights_and_optimizer_alone_and_is_counted(
    spoilt, batch, recipe, fit, scale, rate
):
    batches = [batch(step) for step in range(4)]
    batches[1]["image"][2, 0, 0, 0] = spoilt
    stage = BaseStage(scale(), recipe(optimizer=lambda p: torch.optim.AdamW(p, lr=rate, weight_decay=0.1)), STILL)
    history = fit(stage, batches)
    start, spoilt_step, third, fourth = history.weights
    assert start == spoilt_step
    assert len({start, third, fourth}) == 3
    assert all(math.isfinite(number) for number in history.weights + history.averages)
    assert [row["train/skipped_steps"] for row in history.metrics] == [0, 1, 1, 1]
    assert ["train/loss" in row for row in history.metrics] == [True, False, True, True]
    assert all(math.isfinite(row["train/loss"]) for row in history.metrics if "train/loss" in row)
    # As if that batch had not been there, but for the step's number in the draws.
    (state,) = stage.trainer.optimizers[0].state_dict()["state"].values()
    assert int(state["step"]) == 3


def test_one_spoilt_micro_batch_takes_the_whole_step_away(batch, fit, base):
    pieces = [batch(step, range(first, first + 2)) for step in range(2) for first in (0, 2)]
    pieces[0]["image"][0, 0, 0, 0] = math.nan
    history = fit(base(), pieces, accumulate=2)
    assert history.weights[0] == 0.5 != history.weights[1]
    assert history.metrics[-1]["train/skipped_steps"] == 1


class Overflowing(BaseStage):
    """Its loss, and not its gradient, is lost in one step."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.step_loss += math.inf if batch_idx == 1 else 0.0
        return loss


def test_a_loss_that_is_not_finite_takes_the_step_away_whatever_its_gradient_is(batch, recipe, fit, scale):
    history = fit(Overflowing(scale(), recipe(), STILL), [batch(step) for step in range(3)])
    first, lost, third = history.weights
    assert first == lost != third
    assert [row["train/skipped_steps"] for row in history.metrics] == [0, 1, 1]


def test_a_step_that_was_skipped_is_in_no_mean(batch, fit, base):
    batches = [batch(step) for step in range(3)]
    batches[1]["image"].fill_(math.nan)
    together, apart = fit(base(), batches, every=3).metrics[-1], fit(base(), batches).metrics
    for key in ("train/loss", "train/gradient_norm"):
        assert together[key] == pytest.approx((apart[0][key] + apart[2][key]) / 2, rel=1e-9)


def test_metrics_are_the_mean_loss_since_they_were_last_taken(batch, fit, base):
    stage, batches = base(), [batch(step) for step in range(3)]
    history = fit(stage, batches)
    for call, made, weight, row in zip(
        stage.denoiser.calls, batches, [0.5, *history.weights[:-1]], history.metrics, strict=True
    ):
        level = call.log_snr[:, None, None, None]
        ratio = (5 * (-level).exp()).clamp(max=1)
        loss = (ratio * level.exp() * (weight * call.x_t - made["image"]).square()).mean()
        assert row["train/loss"] == pytest.approx(float(loss), rel=1e-9)


def test_metrics_of_several_steps_are_their_means(batch, fit, base):
    batches = [batch(step) for step in range(6)]
    single, triple = fit(base(), batches).metrics, fit(base(), batches, every=3).metrics
    assert len(triple) == 2
    for key in ("train/loss", "train/gradient_norm"):
        means = [sum(row[key] for row in rows) / 3 for rows in (single[:3], single[3:])]
        assert [row[key] for row in triple] == pytest.approx(means, rel=1e-9)


# What the denoiser is shown


@pytest.mark.parametrize("factor", [0, 2])
def test_micro_batches_are_shown_what_the_whole_batch_is(factor, batch, recipe, fit, scale):
    def stage() -> DiffusionStage:
        plan = recipe(6, label_dropout=0.5)
        if factor:
            return SuperResolutionStage(scale(dropout=0.5), plan, GaussianAugmentation(0.0, 5.0, 2.0, 0.5))
        return BaseStage(scale(dropout=0.5), plan, AugmentPipe(p=0.5))

    one, three = stage(), stage()
    history = fit(one, [batch(9, range(6), factor=factor)])
    split = fit(three, [batch(9, range(i, i + 2), factor=factor) for i in (0, 2, 4)], accumulate=3)
    (whole,), parts = one.denoiser.calls, three.denoiser.calls
    assert torch.allclose(whole.x_t, torch.cat([part.x_t for part in parts]), rtol=1e-12, atol=1e-12)
    assert torch.equal(whole.log_snr, torch.cat([part.log_snr for part in parts]))
    for name in ("label", "low_res", "aug_log_snr", "augment"):
        value, pieces = getattr(whole.condition, name), [getattr(part.condition, name) for part in parts]
        if value is None:
            assert pieces == [None] * 3
        else:
            assert torch.allclose(value, torch.cat(pieces), rtol=1e-12, atol=1e-12)
    assert split.weights == pytest.approx(history.weights, rel=1e-9)
    assert split.metrics[0]["train/loss"] == pytest.approx(history.metrics[0]["train/loss"], rel=1e-9)


def test_levels_are_the_quantiles_of_the_noise_one_in_each_stratum(batch, recipe, base, shown):
    call = shown(base(global_batch=64), batch(indices=range(64)))
    strata = (1 - recipe().noise.schedule.t(call.log_snr)) * 64
    assert sorted(strata.floor().int().tolist()) == list(range(64))


def test_the_noisy_picture_holds_standard_noise_of_its_level(batch, base, shown):
    made = batch(indices=range(16), side=32)
    call = shown(base(global_batch=16), made)
    alpha, sigma = (sign.sigmoid().sqrt()[:, None, None, None] for sign in (call.log_snr, -call.log_snr))
    eps = (call.x_t - alpha * made["image"]) / sigma
    noisy = eps[call.log_snr < 5]
    assert len(noisy) > 8
    assert noisy.mean((1, 2, 3)) == pytest.approx(torch.zeros(len(noisy)), abs=0.1)
    assert noisy.var((1, 2, 3)) == pytest.approx(torch.ones(len(noisy)), abs=0.15)


@pytest.mark.parametrize(("share", "off"), [(0.0, 0.0), (0.3, 0.03), (1.0, 0.0)])
def test_labels_are_dropped_for_their_share_of_the_images(share, off, batch, base, shown):
    count = 2000
    made = batch(indices=range(count), side=1)
    label = shown(base(global_batch=count, label_dropout=share), made).condition.label
    dropped = label == -1
    assert dropped.double().mean() == pytest.approx(share, abs=off)
    assert torch.equal(label[~dropped], made["label"][~dropped])


def test_which_labels_are_dropped_does_not_depend_on_the_level(batch, recipe, base, shown):
    call = shown(base(global_batch=2000, label_dropout=0.3), batch(indices=range(2000), side=1))
    u = 1 - recipe().noise.schedule.t(call.log_snr)
    assert u[call.condition.label == -1].mean() == pytest.approx(0.5, abs=0.05)


def test_an_unlabelled_stage_is_told_no_label_whatever_the_pictures_are(batch, base, shown):
    made = batch()
    assert shown(base(num_classes=0), made).condition.label is None
    made["label"].fill_(-1)
    assert shown(base(label_dropout=0.0), made).condition.label.tolist() == [-1] * 4


# The base stage


def test_pictures_are_moved_as_the_network_is_told_and_never_in_validation(batch, recipe, shown, scale):
    pipe = AugmentPipe(p=1.0, scale=0, rotation=0, anisotropic_scale=0, translation=0)
    stage, made = BaseStage(scale(), recipe(64), pipe), batch(indices=range(64))
    call = shown(stage, made)
    mirrored = call.condition.augment[:, 0] == 1
    assert 16 < int(mirrored.sum()) < 48
    alpha = call.log_snr.sigmoid().sqrt()[:, None, None, None]
    kept, turned = ((call.x_t - alpha * x).square().sum((1, 2, 3)) for x in (made["image"], made["image"].flip(3)))
    clear = call.log_snr > -1
    assert torch.equal((turned < kept)[clear], mirrored[clear])
    stage.validation_loss(made | {"log_snr": torch.full((64,), 20.0)})
    seen = stage.average.calls[-1]
    assert seen.condition.augment is None
    assert torch.allclose(seen.x_t, made["image"], atol=1e-3)


def test_values_of_the_moves_are_drawn_apart_from_whether_they_are_made(batch, recipe, shown, scale):
    pipe = AugmentPipe(p=0.5, scale=0, rotation=0, anisotropic_scale=0, x_flip=0)
    moved = shown(BaseStage(scale(), recipe(1000), pipe), batch(indices=range(1000))).condition.augment
    made = (moved != 0).all(1)
    assert made.double().mean() == pytest.approx(0.5, abs=0.06)
    assert moved[made].mean() == pytest.approx(0, abs=0.12)
    assert moved[made].var() == pytest.approx(1, abs=0.15)


# Validation


def test_validation_is_the_averages_loss_weighted_and_plain(batch, base):
    stage = base()
    stage.average.weight.fill_(0.25)
    levels = torch.tensor([-3.0, 0.0, 2.0, 4.0], dtype=torch.float64)
    made = batch() | {"log_snr": levels}
    log_snr, weighted, plain = stage.validation_loss(made)
    (seen,), nobody = stage.average.calls, stage.denoiser.calls
    assert nobody == []
    assert torch.equal(log_snr, levels)
    assert torch.equal(seen.log_snr, levels)
    alpha, sigma = (sign.sigmoid().sqrt()[:, None, None, None] for sign in (levels, -levels))
    eps, mean = (seen.x_t - alpha * made["image"]) / sigma, 0.25 * seen.x_t
    error = (eps - (seen.x_t - alpha * mean) / sigma).square().mean((1, 2, 3))
    assert torch.allclose(plain, error, rtol=1e-6)
    assert torch.allclose(weighted, error * (5 * (-levels).exp()).clamp(max=1), rtol=1e-6)
    assert not weighted.requires_grad


def test_validation_noise_depends_on_the_picture_alone(batch, base):
    stage = base()
    made = batch() | {"log_snr": torch.zeros(4)}
    part = {key: value[2:] for key, value in made.items()} | {"step": torch.tensor([5, 5])}
    for whole, half in zip(stage.validation_loss(made), stage.validation_loss(part), strict=True):
        assert torch.equal(whole[2:], half)


def test_the_average_stays_in_evaluation_mode_and_without_gradient(batch, recipe, fit, scale):
    stage = BaseStage(scale(dropout=0.5), recipe(), STILL)
    fit(stage, [batch()])
    stage.train()
    assert stage.denoiser.training
    assert not any(module.training for module in stage.average.modules())
    assert not any(parameter.requires_grad for parameter in stage.average.parameters())
    assert (
        sum(parameter.numel() for group in stage.trainer.optimizers for parameter in group.param_groups[0]["params"])
        == 1
    )
