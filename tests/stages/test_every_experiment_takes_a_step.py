"""Every experiment that ships trains: one step of each, with a tiny network, on pictures of classes."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from cascade.artifact import load_stage_config
from cascade.data.cache import write_cache
from cascade.data.procedural import ProceduralDataset
from stages.run import train

EXPERIMENTS = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "conf" / "experiment").glob("*.yaml"))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_one_step_of_each_experiment(experiment: str, tmp_path: Path) -> None:
    overrides = [f"experiment={experiment}", f"runs={tmp_path / 'runs'}", "network=tiny", "trainer.max_steps=1"]
    overrides += ["trainer.batch=2", "trainer.workers=0", "trainer.sample_every=0", "trainer.validation_images=2"]
    overrides += ["trainer.accelerator=cpu", f"data.root={tmp_path / 'cache'}"]
    with initialize_config_module("conf", version_base="1.3"):
        config = OmegaConf.to_container(compose("train", overrides=overrides), resolve=True)
    side = config["stage"]["resolution"]
    splits = {
        "train": ProceduralDataset(side, "train", size=2),
        "val": ProceduralDataset(side, "val", val_size=2),
    }
    write_cache(splits, tmp_path / "cache")
    outcome = train(config, print)
    assert outcome.step == 1
    stage = load_stage_config(outcome.folder)
    assert stage.images_seen == 2
    assert bool(stage.class_names) == config["stage"]["labelled"]
