"""Every experiment that ships trains: one step of each, with a tiny network, on pictures of classes."""

from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from cascade.artifact import build_denoiser, load_stage_config, save_stage
from cascade.classifier import load_classifier_config
from cascade.data.cache import write_cache
from cascade.data.procedural import ProceduralDataset
from stages.distill_settings import completed
from stages.run import train

EXPERIMENTS = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "conf" / "experiment").glob("*.yaml"))
SIDES = {"base64": (64, None), "sr256": (256, 64), "sr1024": (1024, 256)}


def composed(*words: str):
    with initialize_config_module("conf", version_base="1.3"):
        return compose("train", overrides=list(words))


@pytest.fixture
def tiny(tmp_path, small_configs):
    """tiny(experiment): the words that make its network a tiny one; a student's is its teacher's."""

    def words(experiment: str) -> list[str]:
        config = composed(f"experiment={experiment}")
        if "teacher_steps" not in config.stage:
            return ["classifier=tiny"] if "classifier" in config else ["network=tiny"]
        stage = experiment.rsplit("_", 1)[-1]
        teacher = small_configs[list(SIDES).index(stage)]
        classes = tuple(ProceduralDataset(8, "train", size=1).class_names) if teacher.class_names else ()
        resolution, low_resolution = SIDES[stage]
        teacher = replace(teacher, resolution=resolution, low_resolution=low_resolution, class_names=classes)
        save_stage(tmp_path / stage, teacher, build_denoiser(teacher).state_dict())
        return [f"teacher={tmp_path / stage}"]

    return words


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_one_step_of_each_experiment(experiment: str, tmp_path: Path, tiny) -> None:
    overrides = [f"experiment={experiment}", f"runs={tmp_path / 'runs'}", "trainer.max_steps=1", *tiny(experiment)]
    overrides += ["trainer.batch=2", "trainer.workers=0", "trainer.sample_every=0", "trainer.validation_images=2"]
    overrides += ["trainer.accelerator=cpu", f"data.root={tmp_path / 'cache'}"]
    config = completed(OmegaConf.to_container(composed(*overrides), resolve=True))
    side = config["stage"]["resolution"]
    splits = {
        "train": ProceduralDataset(side, "train", size=2),
        "val": ProceduralDataset(side, "val", val_size=2),
    }
    write_cache(splits, tmp_path / "cache")
    outcome = train(config, print)
    assert outcome.step == 1
    stage = (load_classifier_config if "classifier" in config else load_stage_config)(outcome.folder)
    assert bool(stage.class_names) == config["stage"].get("labelled", "sr1024" not in experiment)
    assert stage.images_seen == 2
