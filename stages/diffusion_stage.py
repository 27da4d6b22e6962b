"""What every stage shares: one loss, an average of the weights, and steps that are exact to repeat."""

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from cascade.diffusion import Condition, Loss, PlainLoss, diffusion_loss
from cascade.diffusion.ema import ExponentialEMA
from cascade.diffusion.noise import NoiseDistribution
from cascade.diffusion.power_ema import PowerEMA
from cascade.diffusion.weighting import Weighting
from cascade.errors import CascadeError
from cascade.networks.dropout import seeded_dropout
from stages.draws import Draws

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Recipe:
    """How a stage is trained, whatever it is given: the loss, the optimizer and the numbers of the run.

    global_batch   images of one optimizer step, over all processes and micro-batches
    num_classes    of the stage; 0: it is unlabelled, whatever the pictures are
    label_dropout  share of the images whose label is dropped, for classifier-free guidance
    warmup_steps   steps over which the learning rate rises linearly to its full value
    total_steps    the steps of the run, over whose last `cooldown_steps` the rate falls linearly to 0
    gradient_clip  the largest norm of the gradient; 0 = no clipping
    loss           what is put around the weighted loss; one that learns is trained with the denoiser
    """

    noise: NoiseDistribution
    weighting: Weighting
    ema: ExponentialEMA | PowerEMA
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    run_seed: int
    global_batch: int
    num_classes: int = 0
    label_dropout: float = 0.1
    warmup_steps: int = 0
    total_steps: int = 1
    cooldown_steps: int = 0
    gradient_clip: float = 1.0
    loss: Loss = field(default_factory=PlainLoss)

    def __post_init__(self) -> None:
        if not 0 <= self.label_dropout <= 1:
            raise CascadeError(f"label_dropout is a share in [0, 1], not {self.label_dropout}")
        for name in ("run_seed", "warmup_steps", "cooldown_steps", "gradient_clip"):
            if getattr(self, name) < 0:
                raise CascadeError(f"{name} cannot be negative, as {getattr(self, name)} is")

    def rate(self, step: int) -> float:
        """The share of the full learning rate at a step, counted from 0.

        >>> parts = dict.fromkeys(("noise", "weighting", "ema", "optimizer"))
        >>> recipe = Recipe(**parts, run_seed=0, global_batch=1, warmup_steps=4, total_steps=10, cooldown_steps=2)
        >>> [recipe.rate(step) for step in (0, 3, 8, 9)]
        [0.25, 1.0, 1.0, 0.5]
        """
        rising = (step + 1) / max(1, self.warmup_steps)
        falling = (self.total_steps - step) / max(1, self.cooldown_steps)
        return max(0.0, min(1.0, rising, falling))


class DiffusionStage(LightningModule):
    """Trains a denoiser by the loss ratio(λ)·‖ε − ε̂‖², λ stratified over the global batch.

    A batch holds `image` (b, 3, H, W) in [−1, 1], `label` (b,), and `step` and `index` (b,), the images' places in the
    run. Subclasses say in `examples` what the network is told. `average` holds the EMA weights, the ones that are
    validated, sampled and exported.

    A step whose loss or gradient is not finite leaves the weights alone and is counted in `skipped_steps`.
    """

    WHOLE: ClassVar = ("loss",)
    """What validation averages over all pictures; the best weights are those of the lowest "loss"."""
    BY_BAND: ClassVar = ("eps_mse",)
    """What it averages over the pictures in each band of log-SNR."""

    def __init__(self, denoiser: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.average = copy.deepcopy(denoiser).eval().requires_grad_(False)
        self.others = nn.ModuleList(copy.deepcopy(self.average) for _ in recipe.ema.others)
        self.recipe = recipe
        self.loss = recipe.loss  # registered here where it has parameters
        # Losses and gradient norms since the last row of metrics; kept in checkpoints, so that the curve of a resumed
        # run is that of an unbroken one. The same on all processes, and no float64: not every device has it.
        self.register_buffer("loss_sum", torch.zeros(()))
        self.register_buffer("norm_sum", torch.zeros(()))
        self.register_buffer("sum_steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("skipped_steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("step_loss", torch.zeros(()), persistent=False)  # of this process, in the current step

    @abstractmethod
    def examples(self, batch: Batch, draws: Draws) -> tuple[Tensor, Condition]:
        """Return the clean images and the condition of a training batch."""

    def validation_examples(self, batch: Batch, draws: Draws) -> tuple[Tensor, Condition]:
        """The same for validation: without what only training wants (geometric augmentation, dropped labels)."""
        return self.examples(batch, draws)

    def labels(self, batch: Batch) -> Tensor | None:
        """The batch's labels, or None in an unlabelled stage."""
        return batch["label"] if self.recipe.num_classes else None

    def train(self, mode: bool = True) -> "DiffusionStage":
        """Training mode for the denoiser only: the average stays in evaluation mode."""
        super().train(mode)
        self.average.eval()
        self.others.eval()
        return self

    def averages(self) -> list[tuple[ExponentialEMA | PowerEMA, nn.Module]]:
        """Each average with the rule by which it moves; the one that is exported first."""
        return list(zip([self.recipe.ema, *self.recipe.ema.others], [self.average, *self.others], strict=True))

    def place(self, step: int) -> int:
        """Where in its training, by which rate and average go, optimizer step `step` of the run is."""
        return step

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """The mean loss of a micro-batch."""
        loss = self.training_loss(batch, self._draws(int(batch["step"][0]), batch))
        self.step_loss += loss.detach() / self.trainer.accumulate_grad_batches
        return loss

    def training_loss(self, batch: Batch, draws: Draws) -> Tensor:
        """The mean of the weighted loss over a micro-batch."""
        x, condition = self.examples(batch, draws)
        condition = condition.drop((draws.uniform("label dropout") < self.recipe.label_dropout).to(x.device))
        log_snr = self.recipe.noise.icdf(draws.stratified("log_snr")).to(x)
        eps = draws.normal("eps", tuple(x.shape[1:])).to(x)
        with seeded_dropout(draws.generators("dropout")):
            return self.loss(self.denoiser, x, log_snr, eps, condition, self.recipe.weighting).mean()

    def validation_terms(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return log_snr (b,) and what is averaged over the pictures: the names of WHOLE and BY_BAND, (b,) each."""
        log_snr, weighted, plain = self.validation_loss(batch)
        return log_snr, {"loss": weighted, "eps_mse": plain}

    @torch.no_grad()
    def validation_loss(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return (log_snr, weighted loss, plain ‖ε − ε̂‖²/CHW), (b,) each, of the averaged weights.

        Levels and noise depend on the picture's index alone, so the figure of two checkpoints differs by the weights.
        `batch` also holds `log_snr` (b,).
        """
        draws = self._draws(-1, batch)
        x, condition = self.validation_examples(batch, draws)
        log_snr = batch["log_snr"].to(x)
        eps = draws.normal("eps", tuple(x.shape[1:])).to(x)
        loss = self.plain_loss(x, log_snr, eps, condition)
        return log_snr, loss, loss * (-self.recipe.weighting.log_ratio(log_snr)).exp()

    def plain_loss(self, x: Tensor, log_snr: Tensor, eps: Tensor, condition: Condition) -> Tensor:
        """The weighted loss of the averaged weights alone, (B,), whatever they are trained with."""
        return diffusion_loss(self.average, x, log_snr, eps, condition, self.recipe.weighting)

    def _draws(self, step: int, batch: Batch) -> Draws:
        return Draws(self.recipe.run_seed, step, tuple(batch["index"].tolist()), self.recipe.global_batch)

    def _learning(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer over all parameters that learn."""
        optimizer = self.recipe.optimizer(self._learning())
        for group in optimizer.param_groups:
            group["full_lr"] = group["lr"]
        return optimizer

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """One step at the rate of its place in the run, then the averages move after it."""
        step = self.place(self.global_step)
        for group in optimizer.param_groups:
            group["lr"] = group["full_lr"] * self.recipe.rate(step)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        for ema, average in self.averages():
            ema.update(average, self.denoiser, step)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,  # noqa: ARG002
        gradient_clip_algorithm: str | None = None,  # noqa: ARG002
    ) -> None:
        """Clip the norm of the gradient; where it or the loss is not finite, the step is none: without gradients.

        On several processes gradients and loss are the means over all of them here, so all decide alike.
        """
        norm = nn.utils.clip_grad_norm_(self._learning(), self.recipe.gradient_clip or math.inf)
        loss = self.trainer.strategy.reduce(self.step_loss.clone(), reduce_op="mean")
        self.step_loss.zero_()
        if not bool(norm.isfinite() & loss.isfinite()):
            optimizer.zero_grad(set_to_none=True)
            self.skipped_steps += 1
            return
        self.loss_sum += loss
        self.norm_sum += norm.detach()
        self.sum_steps += 1

    def take_metrics(self) -> dict[str, float]:
        """Return the mean loss and gradient norm of the steps made since the last call, and begin anew."""
        metrics = {
            "train/lr": float(self.trainer.optimizers[0].param_groups[0]["lr"]),
            "train/skipped_steps": float(self.skipped_steps),
        }
        if steps := int(self.sum_steps):  # else all were skipped, and there is nothing to tell of them
            metrics["train/loss"] = float(self.loss_sum) / steps
            metrics["train/gradient_norm"] = float(self.norm_sum) / steps
        for total in (self.loss_sum, self.norm_sum, self.sum_steps):
            total.zero_()
        return metrics
