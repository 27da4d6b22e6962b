"""The kinds of stages that are trained, and what `run` asks of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lightning.pytorch import Callback

from cascade.artifact import StageConfig
from cascade.classifier import ClassifierConfig
from cascade.data.views import EvaluationView, TrainingView
from stages import assembly, classifier_assembly, distill_assembly
from stages.diffusion_stage import DiffusionStage
from stages.rehearsal import rehearse

Described = StageConfig | ClassifierConfig


@dataclass(frozen=True)
class Kind:
    """What is done for one kind of stage in its own way.

    stage_config     (config, dataset) → what the exported stage will say of itself
    described_at     (config, described, step) → what it says of itself after `step` optimizer steps
    build_stage      (config, described) → the Lightning module
    begin_with       (stage, folder, class_names): takes the weights at `folder` → the images that they have seen
    training_view    (config, dataset) → the pictures as it is trained on them
    validation_view  (config, dataset) → the pictures as it is measured on them
    rehearse         (config, described, stage, view): meets before the run what would else fail in it
    exporting        (config, watching, export) → what writes the stage in the course of the run
    word             (described) → what it is in a word
    ranked           whether the exported weights are those of the lowest validation loss, and not the last
    """

    stage_config: Callable[..., Described]
    described_at: Callable[..., Described]
    build_stage: Callable[..., DiffusionStage]
    begin_with: Callable[..., int]
    training_view: Callable[..., TrainingView]
    validation_view: Callable[..., EvaluationView]
    rehearse: Callable[..., None]
    exporting: Callable[..., list[Callback]]
    word: Callable[..., str]
    ranked: bool = True


DENOISER = Kind(
    stage_config=assembly.stage_config,
    described_at=assembly.described_at,
    build_stage=assembly.build_stage,
    begin_with=assembly.begin_with,
    training_view=assembly.training_view,
    validation_view=assembly.validation_view,
    rehearse=rehearse,
    exporting=assembly.exporting,
    word=assembly.word,
)
CLASSIFIER = replace(
    DENOISER,
    stage_config=classifier_assembly.stage_config,
    build_stage=classifier_assembly.build_stage,
    begin_with=classifier_assembly.begin_with,
    training_view=classifier_assembly.training_view,
    validation_view=classifier_assembly.validation_view,
    rehearse=classifier_assembly.rehearse,
    word=classifier_assembly.word,
)
STUDENT = replace(
    DENOISER,
    stage_config=distill_assembly.stage_config,
    described_at=distill_assembly.described_at,
    build_stage=distill_assembly.build_stage,
    training_view=distill_assembly.training_view,
    validation_view=distill_assembly.validation_view,
    exporting=distill_assembly.exporting,
    ranked=False,  # losses of two rounds do not compare
)


def kind_of(config: Mapping[str, Any]) -> Kind:
    """The kind of what `config` describes, checked: of a student, of a classifier, or of a denoiser."""
    if "teacher" in config:
        return STUDENT
    return CLASSIFIER if "classifier" in config else DENOISER
