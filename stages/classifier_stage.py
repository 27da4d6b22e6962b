"""A classifier of noisy pictures, trained at random log-SNR, to guide a stage of its resolution."""

from typing import ClassVar

import torch
from torch import Tensor

from cascade.diffusion.noisy_classifier import cross_entropy
from cascade.networks.dropout import seeded_dropout
from stages.base_stage import BaseStage
from stages.diffusion_stage import Batch
from stages.draws import Draws


class ClassifierStage(BaseStage):
    """Trains logits(x_t, λ) by the cross entropy of the label, λ stratified over the global batch.

    Optimizer, average, checkpoints and draws are those of the other stages; what they call the denoiser is the
    classifier here. Pictures are moved as a base stage's, and it is not told how: what moves does not change its class.
    Dhariwal & Nichol 2021, section 4.3.
    """

    WHOLE: ClassVar = ("loss", "accuracy")
    BY_BAND: ClassVar = ("cross_entropy", "accuracy")

    def training_loss(self, batch: Batch, draws: Draws) -> Tensor:
        """The mean of −ln p(label | x_t) over a micro-batch, in nats."""
        x, _ = self.examples(batch, draws)
        log_snr = self.recipe.noise.icdf(draws.stratified("log_snr")).to(x)
        eps = draws.normal("eps", tuple(x.shape[1:])).to(x)
        with seeded_dropout(draws.generators("dropout")):
            return cross_entropy(self.denoiser, x, log_snr, eps, batch["label"])[0].mean()

    @torch.no_grad()
    def validation_terms(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return λ, and the cross entropy (it is the loss too) and whether the likeliest class is right, (b,) each."""
        x, log_snr = batch["image"], batch["log_snr"].to(batch["image"])
        eps = self._draws(-1, batch).normal("eps", tuple(x.shape[1:])).to(x)
        loss, logits = cross_entropy(self.average, x, log_snr, eps, batch["label"])
        return log_snr, {"loss": loss, "cross_entropy": loss, "accuracy": (logits.argmax(1) == batch["label"]).float()}
