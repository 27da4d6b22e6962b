"""A step of training by hand: the smallest denoiser that learns, pictures, a recipe, and Lightning around them."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from cascade.diffusion import Condition, CosineSchedule, Posterior, ScheduleNoise
from cascade.diffusion.ema import ExponentialEMA
from cascade.diffusion.weighting import MinSNRWeighting
from cascade.networks.dropout import Dropout
from cascade.rng import randn
from stages.diffusion_stage import DiffusionStage, Recipe

NOISE = ScheduleNoise(CosineSchedule())
RATE = 0.02


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


@pytest.fixture
def rate() -> float:
    """The full learning rate of the recipe."""
    return RATE


@pytest.fixture(name="scale")
def _scale() -> type[Scale]:
    """scale(weight, dropout): the smallest denoiser that learns."""
    return Scale


@pytest.fixture(name="recipe")
def _recipe() -> Callable[..., Recipe]:
    """recipe(global_batch, **changes): plain gradient descent on a min-SNR loss."""
    return recipe


@pytest.fixture(name="batch")
def _batch() -> Callable[..., dict[str, Tensor]]:
    """batch(step, indices, side, factor, classes): a micro-batch; a factor adds the low-res pictures."""
    return batch


@pytest.fixture(name="fit")
def _fit() -> Callable[..., History]:
    """fit(stage, batches, accumulate, every): train on these micro-batches, once each."""
    return fit


@pytest.fixture
def shown() -> Callable[[DiffusionStage, dict[str, Tensor]], Call]:
    """shown(stage, made): what the denoiser is shown of one micro-batch."""

    def call(stage: DiffusionStage, made: dict[str, Tensor]) -> Call:
        fit(stage, [made])
        return stage.denoiser.calls[-1]

    return call
