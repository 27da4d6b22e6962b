"""From a configuration to the objects of a training run: the leaves are built here, no class reads configs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from cascade.artifact import (
    NETWORK_CONTEXT,
    StageConfig,
    StageSampling,
    build_denoiser,
    check_aug_level,
    load_stage,
)
from cascade.class_tables import refuse_other_number
from cascade.data.dataset import PictureDataset
from cascade.data.views import EvaluationView, TrainingView
from cascade.errors import CascadeError
from cascade.guidance_settings import classifier_free_scale, without_labels
from cascade.registry import build, complete
from cascade.stage_files import check_weights
from stages.base_stage import BaseStage
from stages.diffusion_stage import DiffusionStage, Recipe
from stages.parts import optimizer_factory
from stages.super_resolution_stage import SuperResolutionStage
from stages.validation import ExportBest, Validation

Config = Mapping[str, Any]
Described = TypeVar("Described")

GEOMETRIC_SIZES = ("scale_std", "anisotropic_std", "translation_std")


def stage_config(config: Config, dataset: PictureDataset) -> StageConfig:
    """What the exported stage will say of itself (images seen: none yet)."""
    stage = config["stage"]
    classes = tuple(dataset.class_names) if stage["labelled"] else ()
    base = stage["low_resolution"] is None
    if not base and any(value for key, value in config["geometric"].items() if key not in ("name", *GEOMETRIC_SIZES)):
        raise CascadeError("geometric augmentation is for base stages; say geometric=none")
    augmentation = {"name": "none"} if base else complete("augmentation", config["augmentation"])
    level = stage["aug_log_snr"]
    if not base and level is None:
        level = build("augmentation", augmentation).default
    guidance = complete("guidance", config["guidance"])
    result = StageConfig(
        name=stage["name"],
        resolution=stage["resolution"],
        low_resolution=stage["low_resolution"],
        class_names=classes,
        network={
            key: value for key, value in complete("network", config["network"]).items() if key not in NETWORK_CONTEXT
        },
        preconditioning=complete("preconditioning", config["preconditioning"]),
        augmentation=augmentation,
        low_res=complete("low_res_input", config["low_res_input"]),
        condition=complete("condition", config["condition"]),
        augment_dim=build("geometric", config["geometric"]).dim if base else 0,
        data_fingerprint=dataset.fingerprint,
        sampling=StageSampling(
            sampler=complete("sampler", config["sampler"]),
            grid=complete("grid", config["grid"]),
            guidance=guidance if classes else without_labels(guidance),
            threshold=complete("threshold", config["threshold"]),
            aug_log_snr=None if base else level,
            network_batch=stage["network_batch"],
        ),
    )
    check_aug_level(result, result.sampling.aug_log_snr)
    scale = classifier_free_scale(result.sampling.guidance)
    if scale != 1 and stage["label_dropout"] == 0:
        raise CascadeError(
            f"classifier-free guidance of scale {scale} needs labels that were dropped in training, but "
            "stage.label_dropout is 0; say guidance=none"
        )
    return result


def build_stage(config: Config, described: StageConfig) -> DiffusionStage:
    """The Lightning module, with weights that depend on the run's seed alone."""
    denoiser = seeded(config["seed"], lambda: build_denoiser(described))
    noise = build("noise", config["noise"])
    recipe = Recipe(
        noise=noise,
        weighting=build("weighting", config["weighting"], noise=noise),
        loss=build("loss", config["loss"]),
        ema=build("ema", config["ema"]),
        num_classes=len(described.class_names),
        label_dropout=config["stage"]["label_dropout"],
        **training_numbers(config),
    )
    if described.low_resolution is None:
        return BaseStage(denoiser, recipe, build("geometric", config["geometric"]))
    return SuperResolutionStage(denoiser, recipe, build("augmentation", described.augmentation))


def seeded(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    """What `make` makes, with weights that depend on the seed alone."""
    # The layers' initialisers know only the global generator: it is forked, seeded and given back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def training_numbers(config: Config) -> dict[str, Any]:
    """What a recipe takes from the run and its trainer, whatever is trained."""
    trainer = config["trainer"]
    return {
        "optimizer": optimizer_factory(trainer["optimizer"]),
        "run_seed": config["seed"],
        "global_batch": trainer["batch"],
        "warmup_steps": trainer["warmup_steps"],
        "total_steps": trainer["max_steps"],
        "cooldown_steps": trainer["cooldown_steps"],
        "gradient_clip": trainer["gradient_clip"],
    }


def begin_with(stage: DiffusionStage, folder: str, class_names: Sequence[str]) -> int:
    """Put the weights of the stage (or run) at `folder` into a new one and its average; return the images it has seen.

    Optimizer and warm-up begin anew. Raises CascadeError where it is no stage of this network, or for another number of
    classes than `class_names`.
    """
    other = load_stage(folder)
    take_weights(stage, other.denoiser.state_dict(), folder, other.config.class_names, class_names)
    return other.config.images_seen


def take_weights(
    stage: DiffusionStage, state: Mapping[str, Tensor], folder: str, theirs: Sequence[str], class_names: Sequence[str]
) -> None:
    """Load weights, of classes `theirs`, into a new stage and its average; refuse another network or class count."""
    refuse_other_number(f"init={folder}", theirs, "this stage", class_names)
    check_weights(stage.denoiser, state, f"init={folder}")
    for module in (stage.denoiser, stage.average, *stage.others):
        module.load_state_dict(state)


def described_at(config: Config, described: Described, step: int) -> Described:  # noqa: ARG001
    """What the stage says of itself after `step` optimizer steps, but for the images seen: always the same."""
    return described


def exporting(config: Config, watching: Sequence[Callback], export: Callable[[int], None]) -> list[Callback]:  # noqa: ARG001
    """What writes the stage in the course of the run, by those that watch it."""
    return [ExportBest(callback, export) for callback in watching if isinstance(callback, Validation)]


def training_view(config: Config, dataset: PictureDataset) -> TrainingView:
    """Random crops (aligned to whole patches of the low-res picture) and flips."""
    stage = config["stage"]
    return TrainingView(
        dataset,
        config["seed"],
        crop=stage["crop"],
        factor=_factor(stage),
        flip=stage["flip"],
        condition=build("condition", config["condition"]),
    )


def validation_view(config: Config, dataset: PictureDataset) -> EvaluationView:
    """Centre crops of the training size."""
    stage = config["stage"]
    condition = build("condition", config["condition"])
    return EvaluationView(dataset, factor=_factor(stage), crop=stage["crop"], condition=condition)


def word(described: StageConfig) -> str:
    """What it is in a word."""
    if described.low_resolution is None:
        return "base"
    sizes = f"{described.low_resolution}→{described.resolution}"
    return sizes if described.shown.chained else f"{described.condition['name']}, {sizes}"


def _factor(stage: Config) -> int | None:
    return None if stage["low_resolution"] is None else stage["resolution"] // stage["low_resolution"]
