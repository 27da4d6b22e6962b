"""`init=STAGE`: the run begins with those weights, counts their images, and refuses another network's."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from cascade.artifact import load_stage, load_stage_config
from cascade.errors import CascadeError
from stages.run import train

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]


def run(folder: Path, name: str, *overrides: str):
    common = [f"runs={folder}", f"name={name}", "network=tiny", "data.size=4", "data.val_size=2", "ema.decay=0.0"]
    common += ["trainer.batch=2", "trainer.workers=0", "trainer.sample_every=0", "trainer.validation_images=2"]
    with initialize_config_module("conf", version_base="1.3"):
        config = OmegaConf.to_container(
            compose("train", overrides=[*common, "trainer.accelerator=cpu", "trainer.precision=fp32", *overrides]),
            resolve=True,
        )
    return train(config, print).folder


def test_weights_go_on_and_images_are_counted(tmp_path):
    first = run(tmp_path, "first", "trainer.max_steps=3")
    # A rate so small that a float32 weight does not feel it.
    still = ["trainer.max_steps=1", "trainer.optimizer.lr=1e-30", "trainer.optimizer.weight_decay=0"]
    second = run(tmp_path, "second", f"init={first}", *still)
    before, after = (load_stage(folder).denoiser.state_dict() for folder in (first, second))
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert load_stage_config(second).images_seen == 3 * 2 + 1 * 2
    third = run(tmp_path, "third", *still)
    assert not all(torch.equal(before[key], value) for key, value in load_stage(third).denoiser.state_dict().items())


def test_another_networks_weights_are_refused_and_nothing_is_written(tmp_path):
    first = run(tmp_path, "first", "trainer.max_steps=1")
    with pytest.raises(CascadeError, match=r"init=.* holds weights of another network"):
        run(tmp_path, "other", f"init={first}", "network.embedding_dim=8")
    assert not (tmp_path / "other").exists()


def test_another_number_of_classes_is_refused_with_the_first_of_them(tmp_path):
    first = run(tmp_path, "first", "trainer.max_steps=1")
    classes = "knows 6 classes, this stage 0: only init=.* has planet, flower, shell, ... \\(6\\)"
    with pytest.raises(CascadeError, match=classes):
        run(tmp_path, "other", f"init={first}", "stage.labelled=false", "guidance=none")
