"""What a trained stage stores of its guidance, with labels and without, and when labels must have been dropped."""

from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from cascade.errors import CascadeError
from stages.assembly import stage_config

WEAK = ("guidance=autoguidance", "guidance.weak=runs/small/base64")
INSIDE = ("guidance=interval_autoguidance", "guidance.guided.weak=runs/small/base64")


def guidance_of(*overrides, classes=("dress", "hat")):
    with initialize_config_module("conf", version_base="1.3"):
        config = OmegaConf.to_container(compose("train", overrides=list(overrides)), resolve=True)
    dataset = SimpleNamespace(class_names=classes, fingerprint="test")
    return stage_config(config, dataset).sampling.guidance


def test_guidance_is_stored_complete():
    assert guidance_of("guidance=interval", "guidance.lo=-inf", "guidance.guided.scale=3.0") == {
        "name": "interval",
        "lo": float("-inf"),
        "hi": 2.55,
        "guided": {"name": "classifier_free", "scale": 3.0},
    }
    assert guidance_of(*WEAK) == {"name": "autoguidance", "scale": 2.0, "weak": "runs/small/base64"}


@pytest.mark.parametrize("unlabelled", [{"classes": ()}, {"labelled": "false"}])
def test_without_labels_classifier_free_guidance_is_none_and_autoguidance_stays(unlabelled):
    overrides = ["stage.labelled=false"] if "labelled" in unlabelled else []
    classes = unlabelled.get("classes", ("dress", "hat"))
    for chosen in ("classifier_free", "interval", "none"):
        assert guidance_of(f"guidance={chosen}", *overrides, classes=classes) == {"name": "none"}
    assert guidance_of(*WEAK, *overrides, classes=classes)["name"] == "autoguidance"
    assert guidance_of(*INSIDE, *overrides, classes=classes)["guided"]["weak"] == "runs/small/base64"


def test_only_classifier_free_guidance_needs_labels_that_were_dropped():
    for chosen in ("classifier_free", "interval"):
        with pytest.raises(CascadeError, match=r"scale 2.0 needs labels that were dropped in training"):
            guidance_of(f"guidance={chosen}", "stage.label_dropout=0.0")
    assert (
        guidance_of("guidance=interval", "guidance.guided.scale=1.0", "stage.label_dropout=0.0")["name"] == "interval"
    )
    for chosen in (WEAK, INSIDE, ("guidance=none",)):
        assert guidance_of(*chosen, "stage.label_dropout=0.0")
