"""A loss with weights of its own (EDM2's uncertainty) is trained with the denoiser, resumed, and never exported."""

import logging

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.testing import assert_close

from cascade.diffusion import CosineSchedule, ExponentialEMA, Posterior, ScheduleNoise, UncertaintyLoss, UnitWeighting
from cascade.diffusion.geometric import AugmentPipe
from cascade.rng import randn
from stages.base_stage import BaseStage
from stages.diffusion_stage import Recipe

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning:lightning.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]
RATE = 0.02


class Scale(nn.Module):
    """x̂ = w·x_t."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.levels = []

    def forward(self, x_t, log_snr, condition):
        self.levels.append((x_t.detach(), log_snr))
        return Posterior(self.weight * x_t)


def stage_with(loss: UncertaintyLoss, clip: float = 0.0) -> BaseStage:
    noise = ScheduleNoise(CosineSchedule(-4.0, 4.0))
    recipe = Recipe(
        noise=noise,
        weighting=UnitWeighting(noise),
        ema=ExponentialEMA(decay=0.6, warmup=4.0),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=RATE),
        run_seed=7,
        global_batch=4,
        total_steps=1000,
        gradient_clip=clip,
        loss=loss,
    )
    return BaseStage(Scale(), recipe, AugmentPipe(x_flip=0, scale=0, rotation=0, anisotropic_scale=0, translation=0))


def fit(stage: BaseStage, steps: int) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    batches = [
        {
            "image": torch.stack([randn("picture", step, i, shape=(3, 4, 4)) for i in range(4)]).double(),
            "label": torch.full((4,), -1),
            "step": torch.full((4,), step),
            "index": torch.arange(4),
        }
        for step in range(steps)
    ]
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        precision="64-true",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(stage, torch.utils.data.DataLoader(batches, batch_size=None))


def test_the_head_takes_the_same_steps_as_the_denoiser():
    loss = UncertaintyLoss(channels=8)
    stage = stage_with(loss)
    fit(stage, 1)
    ((x_t, log_snr),) = stage.denoiser.levels
    x = torch.stack([randn("picture", 0, i, shape=(3, 4, 4)) for i in range(4)]).double()
    value = log_snr.exp() * (0.5 * x_t - x).square().mean((1, 2, 3))
    # d/du (e^{−u}·loss + u) = 1 − loss at u = 0, and u = w · features.
    features = torch.stack([unit_head(k, loss)(log_snr) for k in range(8)], 1).detach()
    assert_close(
        loss.log_uncertainty.weight.detach(), -RATE * ((1 - value)[:, None] * features).mean(0), rtol=1e-9, atol=0
    )
    assert stage.denoiser.weight.item() != 0.5


def unit_head(k: int, loss: UncertaintyLoss):
    other = UncertaintyLoss(channels=8).double().log_uncertainty
    other.weight.data.zero_()[k] = 1
    other.frequency.copy_(loss.log_uncertainty.frequency)
    other.phase.copy_(loss.log_uncertainty.phase)
    return other


def test_its_gradient_is_clipped_with_the_denoisers():
    loss = UncertaintyLoss(channels=8)
    stage = stage_with(loss, clip=0.1)
    fit(stage, 1)
    moved = torch.cat([loss.log_uncertainty.weight.detach(), stage.denoiser.weight.detach()[None] - 0.5])
    assert float(moved.norm()) == pytest.approx(0.1 * RATE, rel=1e-4)


def test_it_is_in_the_checkpoint_and_not_in_the_exported_weights():
    stage = stage_with(UncertaintyLoss(channels=8))
    fit(stage, 2)
    assert list(stage.average.state_dict()) == ["weight"]
    assert "loss.log_uncertainty.weight" in stage.state_dict()
    (group,) = stage.trainer.optimizers[0].param_groups
    assert [p.numel() for p in group["params"]] == [1, 8]
