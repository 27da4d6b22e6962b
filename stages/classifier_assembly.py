"""From a configuration to the objects of a classifier's training: what `assembly` is to stages that denoise."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from cascade.classifier import CLASSIFIER_CONTEXT, ClassifierConfig, build_classifier, load_classifier
from cascade.data.dataset import PictureDataset
from cascade.data.views import EvaluationView, TrainingView
from cascade.diffusion.weighting import UnitWeighting
from cascade.errors import CascadeError
from cascade.registry import build, complete
from stages.assembly import seeded, take_weights, training_numbers
from stages.classifier_stage import ClassifierStage
from stages.diffusion_stage import Recipe

Config = Mapping[str, Any]


def stage_config(config: Config, dataset: PictureDataset) -> ClassifierConfig:
    """What the exported classifier will say of itself (images seen: none yet)."""
    stage, classes = config["stage"], tuple(dataset.class_names)
    if len(classes) < 2:
        found = f"only '{classes[0]}'" if classes else "none"
        raise CascadeError(f"stage '{stage['name']}' tells classes apart, and the pictures have {found}")
    network = complete("classifier", config["classifier"])
    return ClassifierConfig(
        name=stage["name"],
        resolution=stage["resolution"],
        class_names=classes,
        network={key: value for key, value in network.items() if key not in CLASSIFIER_CONTEXT},
        data_fingerprint=dataset.fingerprint,
    )


def build_stage(config: Config, described: ClassifierConfig) -> ClassifierStage:
    """The Lightning module, with weights that depend on the run's seed alone."""
    classifier = seeded(config["seed"], lambda: build_classifier(described))
    recipe = Recipe(
        noise=build("noise", config["noise"]),
        weighting=UnitWeighting(),
        ema=build("ema", config["ema"]),
        num_classes=len(described.class_names),
        label_dropout=0.0,
        **training_numbers(config),
    )
    return ClassifierStage(classifier, recipe, build("geometric", config["geometric"]))


def begin_with(stage: ClassifierStage, folder: str, class_names: Sequence[str]) -> int:
    """Put the weights of the classifier (or run) at `folder` into a new one; return the images it has seen."""
    other = load_classifier(folder)
    take_weights(stage, other.network.state_dict(), folder, other.config.class_names, class_names)
    return other.config.images_seen


def training_view(config: Config, dataset: PictureDataset) -> TrainingView:
    """Whole pictures, half of them mirrored."""
    return TrainingView(dataset, config["seed"], flip=config["stage"]["flip"])


def validation_view(config: Config, dataset: PictureDataset) -> EvaluationView:  # noqa: ARG001
    """Whole pictures as they are."""
    return EvaluationView(dataset)


def rehearse(config: Config, described: ClassifierConfig, stage: ClassifierStage, view: TrainingView) -> None:  # noqa: ARG001
    """Meet before the run what would else fail in it: the size of its pictures."""
    side = described.resolution
    stage.validation_terms(
        {
            "image": torch.zeros(1, 3, side, side),
            "label": torch.zeros(1, dtype=torch.long),
            "index": torch.zeros(1, dtype=torch.long),
            "log_snr": stage.recipe.noise.icdf(torch.full((1,), 0.5)),
        }
    )


def word(described: ClassifierConfig) -> str:  # noqa: ARG001
    """What it is in a word."""
    return "classifier"
