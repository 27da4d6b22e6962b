"""Every yaml composes, builds what it names, and leaves no parameter of it out: every number can be overridden."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from cascade import registry, rng
from cascade.artifact import NETWORK_CONTEXT, StageSampling
from cascade.classifier import CLASSIFIER_CONTEXT
from cascade.diffusion import Condition
from cascade.diffusion.noise import LogNormalNoise
from cascade.diffusion.oracle import MixtureDenoiser
from cascade.errors import CascadeError
from cascade.guidance_settings import with_guides
from cascade.networks import EfficientUNet
from cascade.sampling import LabelLogProb

CONF = Path(__file__).resolve().parents[1] / "conf"
CHOICES = sorted(str(p.relative_to(CONF).with_suffix("")) for p in CONF.glob("*/*.yaml"))
OF_EVALUATE = {"features", "bound", "protocol"}  # groups of `cascade evaluate`, which `cascade train` does not have
OWN = {"features/auto"}  # a choice of the command's, between two that are registered
REGISTERED = [c for c in CHOICES if c.split("/")[0] in registry.TABLE and c not in OWN]

# What the caller of a class supplies, and a config therefore does not hold.
CONTEXT: dict[str, set[str]] = {
    "network": set(NETWORK_CONTEXT),
    "classifier": set(CLASSIFIER_CONTEXT),
    "low_res_input": {"network"},
    "preconditioning": {"network"},
    "weighting": {"noise"},
    "guidance": {"denoiser"},
    "threshold": {"denoiser"},
    "data": {"resolution", "split", "progress"},
    "features": {"batch", "device", "sha256"},
}


def composed(*overrides: str, command: str = "train") -> dict[str, Any]:
    with initialize_config_module("conf", version_base="1.3"):
        config = compose(command, overrides=list(overrides))
    return OmegaConf.to_container(config, resolve=True)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_with_a_comment_that_explains_it(choice: str) -> None:
    text = (CONF / f"{choice}.yaml").read_text(encoding="utf-8")
    first = next(line for line in text.splitlines() if not line.startswith("# @package"))
    assert first.startswith("# cascade "), "the first comment is the command"
    group, name = choice.split("/")
    if group in OF_EVALUATE:
        assert composed(f"{group}={name}", command="evaluate")[group]["name"]
    elif group == "candidates":  # those of a stage go with it
        assert composed(f"stage={name}", command="candidates")[group]["of"]
    else:
        assert composed(f"{group}={name}")["name"]


@pytest.mark.parametrize("choice", REGISTERED)
def test_every_choice_names_all_parameters_and_no_other(choice: str) -> None:
    group = choice.split("/", maxsplit=1)[0]
    config = OmegaConf.to_container(OmegaConf.load(CONF / f"{choice}.yaml"), resolve=False)
    target = registry.resolve(group, config["name"])
    accepted = set(inspect.signature(target).parameters) - CONTEXT.get(group, set())
    assert set(config) - {"name"} == accepted


@pytest.mark.parametrize("choice", [c for c in REGISTERED if c.split("/")[0] not in {"data", *OF_EVALUATE}])
def test_every_choice_builds(choice: str) -> None:
    group, name = choice.split("/")
    config = composed(f"{group}={name}")[group]
    context: dict[str, Any] = {
        "network": {"in_channels": 3, "out_channels": 3, "num_classes": 2, "augment_dim": 0},
        "classifier": {"in_channels": 3, "num_classes": 2, "size": 64},
        "low_res_input": {"network": EfficientUNet(in_channels=6)},
        "preconditioning": {"network": None},
        "weighting": {"noise": LogNormalNoise()},
        "guidance": {"denoiser": None},
        "threshold": {"denoiser": None},
    }.get(group, {})
    assert registry.build(group, config, **context) is not None


SAMPLED = ("sampler", "grid", "guidance", "threshold")
ORACLE = MixtureDenoiser(torch.ones(2), torch.tensor([[-1.0, 0.5], [1.0, -0.5]]), 0.1 * torch.eye(2).expand(2, 2, 2))


@pytest.mark.parametrize("choice", [c for c in REGISTERED if c.split("/")[0] in SAMPLED])
def test_every_choice_of_sampling_takes_a_step(choice: str) -> None:
    """Each in the place of the default of its group, with an exact denoiser of two classes for a network."""
    group, name = choice.split("/")
    config = {**composed("grid=karras", "grid.n=3"), group: composed(f"{group}={name}")[group]}
    if group == "grid":
        config["sampler"] = {"name": "ddim"}
    # The oracle is asked where a user names the folder of a weak stage or a classifier.
    asked = {"weak": ORACLE, "classifier": LabelLogProb(ORACLE.log_class)}
    sampling = with_guides(StageSampling(**{key: config[key] for key in SAMPLED}), lambda kind, _: asked[kind])
    guided = registry.build("guidance", sampling.guidance, denoiser=ORACLE)
    denoiser = registry.build("threshold", config["threshold"], denoiser=guided)
    sampler = registry.build("sampler", sampling.sampler)
    grid = registry.build("grid", config["grid"])
    noise = rng.ImageNoise([1, 2], "stage", (2,))
    out = sampler(denoiser, noise(-1), grid, Condition(label=torch.tensor([0, 1])), noise)
    assert out.shape == (2, 2)
    assert out.isfinite().all()


def test_every_registered_name_has_a_config() -> None:
    for group in set(registry.TABLE) - {"schedule"}:
        named = {OmegaConf.load(p)["name"] for p in (CONF / group).glob("*.yaml")}
        assert set(registry.TABLE[group]) <= named, group


def test_what_is_completed_is_complete_to_the_bottom() -> None:
    short = {"name": "uniform_t", "n": 4, "schedule": {"name": "shifted", "shift": -2.0, "base": {"name": "cosine"}}}
    schedule = registry.complete("grid", short)["schedule"]
    assert schedule["base"] == {"name": "cosine", "log_snr_min": -20.0, "log_snr_max": 20.0}
    assert schedule == registry.complete("schedule", schedule)
    assert registry.build("grid", registry.complete("grid", short)).equal(registry.build("grid", short))


def test_a_named_config_where_a_value_belongs_is_refused() -> None:
    with pytest.raises(CascadeError, match="'n' is nothing that has a name"):
        registry.complete("grid", {"name": "karras", "n": {"name": "cosine"}})
    with pytest.raises(CascadeError, match="unknown grid"):
        registry.build("grid", {"name": ["karras"]})
