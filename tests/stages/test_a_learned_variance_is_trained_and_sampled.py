"""loss=hybrid and preconditioning.learn_variance=true: a stage that ancestral sampling walks with its own variance."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from cascade.artifact import load_stage
from cascade.data.cache import write_cache
from cascade.data.procedural import ProceduralDataset
from cascade.diffusion import Condition
from cascade.errors import CascadeError
from cascade.stage_sampler import StageSampler
from stages.run import train

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]
LEARNED = ["loss=hybrid", "preconditioning.learn_variance=true", "sampler=ancestral", "sampler.variance=learned"]


def configured(folder: Path, *overrides: str) -> dict[str, Any]:
    """A run of two steps on two pictures of 16 px."""
    write_cache(
        {split: ProceduralDataset(16, split, size=2, val_size=2) for split in ("train", "val")}, folder / "data"
    )
    settings = ["debug=fast", "stage.resolution=16", "trainer.accelerator=cpu", f"runs={folder / 'runs'}"]
    settings += ["grid=uniform_log_snr", "grid.log_snr_min=-4", "grid.log_snr_max=12", "grid.n=5"]
    settings += ["data=cache", f"data.root={folder / 'data'}", *overrides]
    with initialize_config_module("conf", version_base="1.3"):
        return OmegaConf.to_container(compose("train", overrides=settings), resolve=True)


def test_the_trained_stage_samples_with_its_own_variance(tmp_path):
    config = configured(tmp_path, *LEARNED)
    assert config["loss"]["grid"] == config["grid"]
    stage = load_stage(train(config, print).folder)
    assert stage.config.preconditioning["learn_variance"] is True
    assert stage.config.sampling.sampler == {"name": "ancestral", "variance": "learned"}
    sampler = StageSampler.prepare(stage, stage.config.sampling, torch.device("cpu"), "fp32")
    made = sampler.run([(0, 1)], None)
    assert made.shape == (1, 3, 16, 16)
    # Training moved the variance from where it begins, half-way between the two.
    told = stage.denoiser(torch.ones(1, 3, 16, 16), torch.zeros(1), Condition())
    assert not torch.allclose(told.variance_fraction, torch.tensor(0.5), atol=1e-6)
    assert told.variance_fraction.shape == told.mean.shape


def test_the_hybrid_loss_without_a_variance_to_train_is_refused_before_anything_is_written(tmp_path):
    config = configured(tmp_path, "loss=hybrid")
    with pytest.raises(CascadeError, match="learn_variance=true"):
        train(config, print)
    assert not (tmp_path / "runs").exists()
