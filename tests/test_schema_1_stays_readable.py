"""A cascade written by schema 1 loads and samples the pictures it sampled when it was written, now and later."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from cascade import CascadePipeline
from cascade.artifact import load_stage

FIXTURES = Path(__file__).with_name("fixtures")


@pytest.mark.usefixtures("one_thread")
def test_the_kept_cascade_samples_the_kept_pictures() -> None:
    images = CascadePipeline.load(FIXTURES / "cascade_schema_1").sample(classes=["hat", "dress"], seeds=[5, 6])
    for i, image in enumerate(images):
        kept = pil_to_tensor(Image.open(FIXTURES / f"cascade_schema_1_{i}.png"))
        # Another processor may round differently; another formula would move whole pictures.
        assert (image.int() - kept.int()).abs().float().mean() < 0.5


def test_the_kept_stage_says_what_it_said() -> None:
    stage = load_stage(FIXTURES / "cascade_schema_1" / "sr16")
    assert (stage.config.name, stage.config.resolution, stage.config.low_resolution) == ("sr16", 16, 8)
    assert stage.config.class_names == ("dress", "hat", "shoe")
    assert stage.config.augmentation["log_snr_max"] == 6.0
    assert stage.sha256 == "3259a9120086595030bdd62adef4ce7456df5d5b2631ace3ed065ab6e5f568ca"
    assert all(bool(torch.isfinite(value).all()) for value in stage.denoiser.state_dict().values())
