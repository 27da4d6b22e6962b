"""A step of training by hand: what the denoiser is shown, how the weights and their average move, what is counted."""

import logging
import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from cascade.diffusion import Condition, CosineSchedule, Posterior, ScheduleNoise
from cascade.diffusion.augmentation import CLEAN, GaussianAugmentation
from cascade.diffusion.ema import ExponentialEMA
from cascade.diffusion.geometric import AugmentPipe
from cascade.diffusion.weighting import MinSNRWeighting
from cascade.networks.dropout import Dropout
from cascade.rng import randn
from stages.base_stage import BaseStage
from stages.diffusion_stage import DiffusionStage, Recipe
from stages.super_resolution_stage import SuperResolutionStage

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Lightning's advice on workers, and its use of what torch has deprecated.
    pytest.mark.filterwarnings("ignore::UserWarning:lightning.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]

NOISE = ScheduleNoise(CosineSchedule())
RATE = 0.02
STILL = AugmentPipe(x_flip=0, scale=0, rotation=0, anisotropic_scale=0, translation=0)


@dataclass
class Call:
    """What a denoiser was shown."""

    x_t: Tensor
    log_snr: Tensor
    condition: Condition


class Scale(nn.Module):
    """x̂ = w·x_t, the smallest denoiser that learns; it remembers what it was shown."""

    def __init__(self, weight: float = 0.5, dropout: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        self.dropout = Dropout(dropout)
        self.calls: list[Call] = []

    def forward(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        shown = self.dropout(x_t)
        self.calls.append(Call(shown.detach(), log_snr, condition))
        return Posterior(self.weight * shown)


def recipe(global_batch: int = 4, **changes) -> Recipe:
    made = Recipe(
        noise=NOISE,
        weighting=MinSNRWeighting(NOISE),
        ema=ExponentialEMA(decay=0.6, warmup=4.0),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=RATE),
        run_seed=7,
        global_batch=global_batch,
        num_classes=3,
        total_steps=1000,
        gradient_clip=0.0,
    )
    return replace(made, **changes)


def batch(
    step: int = 0, indices: range = range(4), side: int = 4, factor: int = 0, classes: int = 3
) -> dict[str, Tensor]:
    """Pictures that depend on their place in the global batch, so that it can be split."""
    images = torch.stack([randn("picture", step, i, shape=(3, side, side)) for i in indices]).double()
    made = {
        "image": images,
        "label": torch.tensor([i % classes for i in indices]),
        "step": torch.full((len(indices),), step),
        "index": torch.tensor(list(indices)),
    }
    return made | ({"low_res": images[..., : side // factor, : side // factor]} if factor else {})


@dataclass
class History(Callback):
    """The state after each optimizer step."""

    weights: list[float] = field(default_factory=list)
    averages: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    every: int = 1

    def on_train_batch_end(self, trainer: Trainer, stage: DiffusionStage, outputs, batch, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.weights.append(stage.denoiser.weight.item())
            self.averages.append(stage.average.weight.item())
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
            if trainer.global_step % self.every == 0:
                self.metrics.append(stage.take_metrics())


def fit(stage: DiffusionStage, batches: list[dict[str, Tensor]], accumulate: int = 1, every: int = 1) -> History:
    """Train on these micro-batches, once each; take the metrics at each `every`-th step."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    history = History(every=every)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        precision="64-true",
        max_epochs=1,
        accumulate_grad_batches=accumulate,
        callbacks=[history],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(stage, torch.utils.data.DataLoader(batches, batch_size=None))
    return history


def base(**changes) -> BaseStage:
    return BaseStage(Scale(), recipe(**changes), STILL)


def shown(stage: DiffusionStage, made: dict[str, Tensor]) -> Call:
    """What the denoiser is shown of one micro-batch."""
    fit(stage, [made])
    return stage.denoiser.calls[-1]


def gradient(call: Call, x: Tensor, weight: float) -> float:
    """d/dw of mean ratio·e^λ·(w·x_t − x)², the loss by hand; ratio = min(1, 5e^{−λ})."""
    level = call.log_snr[:, None, None, None]
    factor = level.exp() * (5 * (-level).exp()).clamp(max=1)
    return float((factor * 2 * (weight * call.x_t - x) * call.x_t).detach().mean())


# The steps


def test_a_run_is_its_recursion_by_hand():
    stage, batches = base(warmup_steps=4), [batch(step) for step in range(7)]
    history = fit(stage, batches)
    weight = average = 0.5
    for step, (call, made) in enumerate(zip(stage.denoiser.calls, batches, strict=True)):
        weight -= RATE * min(1, (step + 1) / 4) * gradient(call, made["image"], weight)
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
def test_the_rate_rises_linearly_over_the_warm_up_and_falls_over_the_cool_down(plan, rates):
    history = fit(base(**plan), [batch(step) for step in range(6)])
    assert history.rates == pytest.approx([RATE * rate for rate in rates])
    assert [row["train/lr"] for row in history.metrics] == history.rates


def test_a_large_gradient_is_cut_to_its_largest_norm_and_a_small_one_left_alone():
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
        assert moved == pytest.approx(-RATE * max(-clip, min(clip, slope)), rel=1e-4)


@pytest.mark.parametrize("spoilt", [math.nan, math.inf])
def test_a_step_that_is_not_finite_leaves_weights_and_optimizer_alone_and_is_counted(spoilt):
    batches = [batch(step) for step in range(4)]
    batches[1]["image"][2, 0, 0, 0] = spoilt
    stage = BaseStage(Scale(), recipe(optimizer=lambda p: torch.optim.AdamW(p, lr=RATE, weight_decay=0.1)), STILL)
    history = fit(stage, batches)
    start, spoilt_step, third, fourth = history.weights
    assert start == spoilt_step
    assert len({start, third, fourth}) == 3
    assert all(math.isfinite(number) for number in history.weights + history.averages)
    assert [row["train/skipped_steps"] for row in history.metrics] == [0, 1, 1, 1]
    assert all(math.isfinite(row["train/loss"]) for row in history.metrics)
    # As if that batch had not been there, but for the step's number in the draws.
    (state,) = stage.trainer.optimizers[0].state_dict()["state"].values()
    assert int(state["step"]) == 3


def test_one_spoilt_micro_batch_takes_the_whole_step_away():
    pieces = [batch(step, range(first, first + 2)) for step in range(2) for first in (0, 2)]
    pieces[0]["image"][0, 0, 0, 0] = math.nan
    history = fit(base(), pieces, accumulate=2)
    assert history.weights[0] == 0.5 != history.weights[1]
    assert history.metrics[-1]["train/skipped_steps"] == 1


def test_metrics_are_the_mean_loss_since_they_were_last_taken():
    stage, batches = base(), [batch(step) for step in range(3)]
    history = fit(stage, batches)
    for call, made, weight, row in zip(
        stage.denoiser.calls, batches, [0.5, *history.weights[:-1]], history.metrics, strict=True
    ):
        level = call.log_snr[:, None, None, None]
        ratio = (5 * (-level).exp()).clamp(max=1)
        loss = (ratio * level.exp() * (weight * call.x_t - made["image"]).square()).mean()
        assert row["train/loss"] == pytest.approx(float(loss), rel=1e-9)


def test_metrics_of_several_steps_are_their_means():
    batches = [batch(step) for step in range(6)]
    single, triple = fit(base(), batches).metrics, fit(base(), batches, every=3).metrics
    assert len(triple) == 2
    for key in ("train/loss", "train/gradient_norm"):
        means = [sum(row[key] for row in rows) / 3 for rows in (single[:3], single[3:])]
        assert [row[key] for row in triple] == pytest.approx(means, rel=1e-9)


# What the denoiser is shown


@pytest.mark.parametrize("factor", [0, 2])
def test_micro_batches_are_shown_what_the_whole_batch_is(factor):
    def stage() -> DiffusionStage:
        plan = recipe(6, label_dropout=0.5)
        if factor:
            return SuperResolutionStage(Scale(dropout=0.5), plan, GaussianAugmentation(0.0, 5.0, 2.0, 0.5))
        return BaseStage(Scale(dropout=0.5), plan, AugmentPipe(p=0.5))

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


def test_levels_are_the_quantiles_of_the_noise_one_in_each_stratum():
    call = shown(base(global_batch=64), batch(indices=range(64)))
    strata = (1 - NOISE.schedule.t(call.log_snr)) * 64
    assert sorted(strata.floor().int().tolist()) == list(range(64))


def test_the_noisy_picture_holds_standard_noise_of_its_level():
    made = batch(indices=range(16), side=32)
    call = shown(base(global_batch=16), made)
    alpha, sigma = (sign.sigmoid().sqrt()[:, None, None, None] for sign in (call.log_snr, -call.log_snr))
    eps = (call.x_t - alpha * made["image"]) / sigma
    noisy = eps[call.log_snr < 5]
    assert len(noisy) > 8
    assert noisy.mean((1, 2, 3)) == pytest.approx(torch.zeros(len(noisy)), abs=0.1)
    assert noisy.var((1, 2, 3)) == pytest.approx(torch.ones(len(noisy)), abs=0.15)


@pytest.mark.parametrize(("share", "off"), [(0.0, 0.0), (0.3, 0.03), (1.0, 0.0)])
def test_labels_are_dropped_for_their_share_of_the_images(share, off):
    count = 2000
    made = batch(indices=range(count), side=1)
    label = shown(base(global_batch=count, label_dropout=share), made).condition.label
    dropped = label == -1
    assert dropped.double().mean() == pytest.approx(share, abs=off)
    assert torch.equal(label[~dropped], made["label"][~dropped])


def test_which_labels_are_dropped_does_not_depend_on_the_level():
    call = shown(base(global_batch=2000, label_dropout=0.3), batch(indices=range(2000), side=1))
    u = 1 - NOISE.schedule.t(call.log_snr)
    assert u[call.condition.label == -1].mean() == pytest.approx(0.5, abs=0.05)


def test_an_unlabelled_stage_is_told_no_label_whatever_the_pictures_are():
    made = batch()
    assert shown(base(num_classes=0), made).condition.label is None
    made["label"].fill_(-1)
    assert shown(base(label_dropout=0.0), made).condition.label.tolist() == [-1] * 4


# The base stage


def test_pictures_are_moved_as_the_network_is_told_and_never_in_validation():
    pipe = AugmentPipe(p=1.0, scale=0, rotation=0, anisotropic_scale=0, translation=0)
    stage, made = BaseStage(Scale(), recipe(64), pipe), batch(indices=range(64))
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


def test_values_of_the_moves_are_drawn_apart_from_whether_they_are_made():
    pipe = AugmentPipe(p=0.5, scale=0, rotation=0, anisotropic_scale=0, x_flip=0)
    moved = shown(BaseStage(Scale(), recipe(1000), pipe), batch(indices=range(1000))).condition.augment
    made = (moved != 0).all(1)
    assert made.double().mean() == pytest.approx(0.5, abs=0.06)
    assert moved[made].mean() == pytest.approx(0, abs=0.12)
    assert moved[made].var() == pytest.approx(1, abs=0.15)


# The super-resolution stage


def sr(augmentation: GaussianAugmentation, made: dict[str, Tensor]) -> Call:
    return shown(SuperResolutionStage(Scale(), recipe(len(made["image"])), augmentation), made)


def noise_in(call: Call, low_res: Tensor) -> Tensor:
    """The ε in α_a·low + σ_a·ε at the levels that the network is told."""
    level = call.condition.aug_log_snr
    alpha, sigma = (sign.sigmoid().sqrt()[:, None, None, None] for sign in (level, -level))
    return (call.condition.low_res - alpha * low_res) / sigma


def test_the_level_told_is_the_level_applied():
    made = batch(indices=range(6), side=32, factor=2)
    one, two = (sr(GaussianAugmentation(*ends, ends[0]), made) for ends in ((-1.0, 1.0), (2.0, 6.0)))
    eps, again = (noise_in(call, made["low_res"]) for call in (one, two))
    assert len(one.condition.aug_log_snr.unique()) == 6
    assert torch.allclose(eps, again, atol=1e-5)
    assert eps.mean((1, 2, 3)) == pytest.approx(torch.zeros(6), abs=0.18)
    assert eps.var((1, 2, 3)) == pytest.approx(torch.ones(6), abs=0.26)


def test_noise_of_the_small_picture_is_not_that_of_the_large_one():
    made = batch(indices=range(4), side=16, factor=1)
    call = sr(GaussianAugmentation(-1.0, 1.0, 0.0), made)
    alpha, sigma = (sign.sigmoid().sqrt()[:, None, None, None] for sign in (call.log_snr, -call.log_snr))
    large = ((call.x_t - alpha * made["image"]) / sigma)[call.log_snr < 5]
    small = noise_in(call, made["low_res"])[call.log_snr < 5]
    assert abs(float(torch.corrcoef(torch.stack([large.flatten(), small.flatten()]))[0, 1])) < 0.12


def test_levels_are_uniform_over_the_range_and_not_tied_to_the_noise_level():
    call = sr(GaussianAugmentation(-2.0, 6.0, 0.0), batch(indices=range(2000), side=2, factor=2))
    told, level = call.condition.aug_log_snr, call.log_snr
    assert told.mean() == pytest.approx(2.0, abs=0.25)
    assert told.var() == pytest.approx(64 / 12, rel=0.1)
    ranks = NOISE.schedule.t(level)
    assert abs(float(torch.corrcoef(torch.stack([told, ranks]))[0, 1])) < 0.1


def test_pictures_are_blurred_before_they_are_noised():
    made = batch(indices=range(6), side=32, factor=2)
    sharp = GaussianAugmentation(-1.0, 3.0, 0.0)
    blurred = replace(sharp, blur_probability=1.0, blur_sigma_min=0.5, blur_sigma_max=0.5)
    soft = sharp.blur(made["low_res"], torch.full((6,), 0.5))
    assert not torch.allclose(soft, made["low_res"], atol=0.1)
    eps, again = noise_in(sr(sharp, made), made["low_res"]), noise_in(sr(blurred, made), soft)
    assert torch.allclose(eps, again, atol=1e-5)


@dataclass(frozen=True)
class Watched(GaussianAugmentation):
    """Remembers the blurs it is asked for."""

    sigmas: list[Tensor] = field(default_factory=list)

    def blur(self, low_res: Tensor, sigma: Tensor) -> Tensor:
        self.sigmas.append(sigma)
        return super().blur(low_res, sigma)


def test_blurs_have_their_share_and_their_sigmas_do_not_depend_on_it():
    watched = Watched(0.0, 6.0, 0.0, blur_probability=0.3)
    sr(watched, batch(indices=range(2000), side=2, factor=1))
    (sigma,) = watched.sigmas
    assert (sigma > 0).double().mean() == pytest.approx(0.3, abs=0.04)
    assert sigma[sigma > 0].mean() == pytest.approx(0.5, abs=0.01)
    assert (sigma[sigma > 0].min(), sigma.max()) == (pytest.approx(0.4, abs=0.01), pytest.approx(0.6, abs=0.01))


def test_clean_images_are_shown_their_low_res_picture_bit_for_bit():
    made = batch(indices=range(200), side=4, factor=2)
    told = sr(GaussianAugmentation(0.0, 6.0, 3.0, include_clean=0.4), made).condition
    clean = told.aug_log_snr == CLEAN
    assert clean.double().mean() == pytest.approx(0.4, abs=0.12)
    assert torch.equal(told.low_res[clean], made["low_res"][clean])
    assert not (told.low_res[~clean] == made["low_res"][~clean]).any()


# Validation


def test_validation_is_the_averages_loss_weighted_and_plain():
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


def test_validation_noise_depends_on_the_picture_alone():
    stage = base()
    made = batch() | {"log_snr": torch.zeros(4)}
    part = {key: value[2:] for key, value in made.items()} | {"step": torch.tensor([5, 5])}
    for whole, half in zip(stage.validation_loss(made), stage.validation_loss(part), strict=True):
        assert torch.equal(whole[2:], half)


def test_the_average_stays_in_evaluation_mode_and_without_gradient():
    stage = BaseStage(Scale(dropout=0.5), recipe(), STILL)
    fit(stage, [batch()])
    stage.train()
    assert stage.denoiser.training
    assert not any(module.training for module in stage.average.modules())
    assert not any(parameter.requires_grad for parameter in stage.average.parameters())
    assert (
        sum(parameter.numel() for group in stage.trainer.optimizers for parameter in group.param_groups[0]["params"])
        == 1
    )
