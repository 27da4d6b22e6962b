"""Every file of every group is tried as the command in its first comment says: composed, built, and one step taken.

Found by looking, so a new file is tried at once. What is trained is small: `network=tiny` on 32 px, but for networks.
"""

import re
import shlex
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from cascade import registry, rng
from cascade.artifact import StageConfig, StageSampling, save_stage
from cascade.data.procedural import ProceduralDataset
from cascade.diffusion import Condition, GaussianDenoiser
from cascade.evaluation.bits_per_dim import PictureDraws
from cascade.evaluation.inception import WeightsMissingError
from cascade.guidance_settings import with_guides
from stages import assembly
from stages.distill_settings import completed
from stages.draws import Draws
from stages.kinds import kind_of
from stages.parts import check_parts

CONF = Path(__file__).resolve().parents[1] / "conf"
# Students and classifiers are other kinds of stages: tests/stages/test_every_experiment_takes_a_step.py trains them.
OF_OTHER_KINDS = ("_distill_", "_classifier")
FILES = sorted(
    path
    for path in CONF.glob("*/*.yaml")
    if path.parent.name != "experiment" or not any(kind in path.stem for kind in OF_OTHER_KINDS)
)
EXPERIMENTS = sorted(path for path in FILES if path.parent.name == "experiment")


def said(path: Path) -> tuple[str, list[str]]:
    """The command and the settings in the first comment of a file."""
    text = path.read_text(encoding="utf-8")
    first = next(line for line in text.splitlines() if not line.startswith("# @package"))
    words = shlex.split(re.split(r": |:$| — ", first.removeprefix("# "))[0])
    assert words[0] == "cascade", first
    return words[1], [word for word in words[2:] if word != "-m"]


def configured(command: str, *overrides: str) -> dict[str, Any]:
    with initialize_config_module("conf", version_base="1.3"):
        config = compose(command, overrides=list(overrides), return_hydra_config=True)
    choices = dict(config.hydra.runtime.choices)
    plain = OmegaConf.to_container(OmegaConf.masked_copy(config, [k for k in config if k != "hydra"]), resolve=True)
    return {**plain, "choices": choices}


def of_train(path: Path) -> list[Any]:
    """The configs that its command trains, one for each stage that it names."""
    group, name = path.parent.name, path.stem
    _, words = said(path)
    given = dict(word.split("=", 1) for word in words)
    stages = given.pop("stage", "base64").split(",")
    own = group == "network" or "classifier" in path.as_posix() or "teacher" in given  # another network, or none
    small = [] if own else ["network=tiny"]
    settings = [*(f"{key}={value}" for key, value in given.items() if key != "data.root")]
    configs = [configured("train", f"stage={stage}", *settings) for stage in stages]
    assert name in {config["choices"][group] for config in configs}, "it tries something else"
    return [configured("train", f"stage={stage}", *settings, *small) for stage in stages]


def shrunk(config: dict[str, Any]) -> dict[str, Any]:
    """The same stage of 32 px, a quarter of it told, or all that it is shown of pictures of its own size."""
    stage = {**config["stage"], "resolution": 32}
    if stage.get("crop") is not None:
        stage["crop"] = 32
    if stage.get("low_resolution") is not None:
        stage.update(low_resolution=8 if stage["low_resolution"] < config["stage"]["resolution"] else 32, crop=32)
    trainer = {**config["trainer"], "batch": 2}
    return {**config, "stage": stage, "trainer": trainer}


def take_a_step(config: dict[str, Any]) -> None:
    """One of training, and where there is a sampler the first two of sampling."""
    config = shrunk(config)
    if "teacher" in config:
        with TemporaryDirectory() as folder:
            take_a_step_of(taught(config, Path(folder) / "teacher"))
    else:
        take_a_step_of(config)


def taught(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The config with a teacher there, a stage with `network=tiny` of 32 px."""
    trained = shrunk(configured("train", "stage=base64", "network=tiny"))
    described = assembly.stage_config(trained, ProceduralDataset(32, "train", size=4))
    save_stage(folder, described, assembly.build_stage(trained, described).average.state_dict())
    return completed({**config, "teacher": str(folder)})


def take_a_step_of(config: dict[str, Any]) -> None:
    kind = kind_of(config)
    dataset = ProceduralDataset(32, "train", size=4)
    described = kind.stage_config(config, dataset)
    stage = kind.build_stage(config, described)
    view = kind.validation_view(config, dataset)
    batch = {key: torch.stack([torch.as_tensor(view[i][key]) for i in range(2)]) for key in view[0]}
    loss = stage.training_loss(batch, Draws(0, 0, (0, 1), 2))
    loss.backward()
    assert loss.isfinite()
    learning = [p for p in stage.parameters() if p.requires_grad and p.grad is not None]
    assert learning
    assert all(bool(p.grad.isfinite().all()) for p in learning)
    torch.optim.SGD(learning, lr=1e-3).step()
    stage.recipe.ema.update(stage.average, stage.denoiser, 0)
    if "sampler" in config:
        sample_a_step(config, described, stage.average)


def sample_a_step(config: dict[str, Any], described: StageConfig, denoiser: Any) -> None:
    dim = (2, 3, 32, 32)
    noise = lambda step, draw=0: rng.randn("step", step, draw, shape=dim)  # noqa: E731
    label = torch.tensor([0, 1]) if described.class_names else None
    low_res, level = None, described.sampling.aug_log_snr
    if level is not None:
        side = described.low_resolution
        low_res, level = torch.zeros(2, described.shown.channels, side, side), torch.full((2,), float(level))
    condition = Condition(label, low_res, level)
    asked = {"weak": denoiser, "classifier": lambda x_t, log_snr, condition: x_t.flatten(1).sum(1)}
    sampling = StageSampling(config["sampler"], config["grid"], config["guidance"])
    sampling = with_guides(sampling, lambda kind, _: asked[kind])  # objects, where a user names folders
    guided = registry.build("guidance", sampling.guidance, denoiser=denoiser)
    denoiser = registry.build("threshold", config["threshold"], denoiser=guided)
    sampler = registry.build("sampler", sampling.sampler)
    levels = registry.build("grid", config["grid"])[:3]
    with torch.no_grad():
        made = sampler(denoiser, noise(-1), levels, condition, noise)
    assert made.shape == dim
    assert bool(made.isfinite().all())


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_command_of_the_first_comment_takes_a_step(path: Path) -> None:
    command, _ = said(path)
    if command == "train":
        for config in of_train(path):
            take_a_step(config)
    else:
        OTHERS[path.parent.name](path)


def judge(path: Path) -> None:
    bound = registry.build("bound", configured("evaluate", f"bound={path.stem}")["bound"])
    oracle = GaussianDenoiser(torch.zeros(12), torch.eye(12))
    grid = torch.tensor([-9.0, 0.0, 9.0, torch.inf], dtype=torch.float64)
    draws = PictureDraws(0, "base", [1, 2], (3, 2, 2))
    assert bool(bound(oracle, torch.zeros(2, 3, 2, 2), grid, Condition(), draws).total.isfinite().all())


def read_features(path: Path) -> None:
    config = configured("evaluate", f"features={path.stem}")["features"]
    if config["name"] == "auto":  # the command's own choice between two others
        assert set(config) == {"name", "weights", "download", "resize"}
        return
    try:
        given = {key: value for key, value in config.items() if value is not None or key == "weights"}
        features = registry.build("features", {**given, **({"download": False} if "download" in config else {})})
    except WeightsMissingError:
        assert path.stem == "inception"
        return
    pictures = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert features(pictures).shape == (2, features.dim)


def compose_alone(path: Path) -> None:
    assert configured("evaluate", f"{path.parent.name}={path.stem}")["choices"][path.parent.name] == path.stem


def build_candidates(path: Path) -> None:
    """Every candidate composes, and all that it names can be built."""
    listed = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert len(listed["of"]) >= 5
    for words in listed["of"].values():
        config = configured("train", f"stage={path.stem}", *listed["each"].split(), *words.split())
        check_parts(config)
        noise = registry.build("noise", config["noise"])
        assert registry.build("weighting", config["weighting"], noise=noise) is not None


OTHERS = {
    "bound": judge,
    "candidates": build_candidates,
    "features": read_features,
    "logger": compose_alone,
    "protocol": compose_alone,
}


# Experiments


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_chooses_and_sets_no_key_of_a_choice(path: Path) -> None:
    """So that another choice on top of it never meets a key that is not its own: a variant is a file of the group."""
    own = set(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert not own & set(registry.TABLE), "make a variant in the group and choose it"


@pytest.mark.parametrize(
    "choice",
    ["noise=cosine", "ema=power", "grid=adm_respaced", "network=dit", "data=procedural", "noise=ladder weighting=unit"],
)
def test_another_choice_on_top_of_an_experiment_is_the_choice_itself(choice: str) -> None:
    words = choice.split()
    config = configured("train", "experiment=demo_base64", *words)
    for word in words:
        group, name = word.split("=")
        assert config[group] == configured("train", "stage=base64", word)[group], name
        assert config["choices"][group] == name
    take_a_step({**config, "network": configured("train", "network=tiny")["network"]})


def test_the_demos_values_stay_what_they_are() -> None:
    base = configured("train", "experiment=demo_base64")
    assert (base["noise"]["p_mean"], base["network"]["dropout"], base["ema"]["decay"]) == (0.0, 0.0, 0.99)
    assert (base["grid"]["name"], base["grid"]["n"], base["preconditioning"]["name"]) == ("karras", 24, "x0")
    for stage in ("sr256", "sr1024"):
        sr = configured("train", "experiment=demo", f"stage={stage}")
        assert (sr["grid"]["log_snr_min"], sr["grid"]["n"], sr["ema"]["decay"]) == (-6.0, 10, 0.99)
        assert sr["sampler"]["name"] == "heun"
        assert sr["data"] == {"name": "cache", "root": f"runs/train-demo/data/{stage[2:]}", "verify": False}
