"""Every noise with every weighting and every loss that `conf/` names: one finite step of a denoiser."""

from itertools import product
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from cascade import rng
from cascade.diffusion import Condition, EDMPreconditioning
from cascade.registry import build

CONF = Path(__file__).resolve().parents[2] / "conf"
# The hybrid loss is for networks that also predict a variance, and is tested with them.
CHOICES = {
    group: sorted(path.stem for path in (CONF / group).glob("*.yaml") if path.stem != "hybrid")
    for group in ("noise", "weighting", "loss")
}


class Layer(nn.Module):
    """One convolution that is told nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)
        for number, parameter in enumerate(self.parameters()):
            parameter.data = 0.2 * rng.randn("layer", number, shape=parameter.shape)

    def forward(self, x_in, log_snr, **condition):
        return self.layer(x_in)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("noise_name", "loss_name"), list(product(CHOICES["noise"], CHOICES["loss"])))
def test_a_step_is_finite_and_moves_every_weight(noise_name, loss_name):
    x, eps = rng.randn("x", shape=(4, 3, 64, 64)) / 2, rng.randn("eps", shape=(4, 3, 64, 64))
    for weighting_name in CHOICES["weighting"]:
        names = {"noise": noise_name, "weighting": weighting_name, "loss": loss_name}
        files = {group: OmegaConf.load(CONF / group / f"{name}.yaml") for group, name in names.items()}
        # Its only key that asks for the rest of the configuration is a stage's resolution.
        whole = OmegaConf.create({**files, "stage": {"resolution": 64}})
        config = OmegaConf.to_container(whole, resolve=True)
        noise = build("noise", config["noise"])
        weighting, loss = build("weighting", config["weighting"], noise=noise), build("loss", config["loss"])
        denoiser = EDMPreconditioning(Layer())
        learning = [*denoiser.parameters(), *(loss.parameters() if isinstance(loss, nn.Module) else ())]
        levels = noise.icdf((torch.arange(4) + 0.5) / 4)
        value = loss(denoiser, x, levels, eps, Condition(), weighting)
        assert value.shape == (4,)
        value.mean().backward()
        assert bool(value.isfinite().all()), names
        assert all(bool(p.grad.isfinite().all()) and bool((p.grad != 0).any()) for p in learning), names
