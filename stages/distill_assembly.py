"""From a configuration to the objects of a distillation: what `assembly` is to stages without a teacher."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightning.pytorch import Callback

from cascade.artifact import StageConfig, find_stage, load_stage, load_stage_config
from cascade.class_tables import refuse_other_table
from cascade.data.dataset import PictureDataset
from cascade.data.views import EvaluationView, TrainingView
from cascade.diffusion import Denoiser
from cascade.diffusion.geometric import AugmentPipe
from cascade.distilled import DDIM, Distilled
from cascade.guidance_settings import NO_GUIDANCE, without_labels
from cascade.registry import build, complete
from cascade.stage_files import checked_sha256
from cascade.stage_sampler import bounded
from cascade.stage_settings import load_sampled_config, teacher_grid
from stages import assembly
from stages.assembly import training_numbers
from stages.diffusion_stage import Recipe
from stages.distill_settings import Rounds
from stages.distill_stage import Course, DistilledBase, DistilledSuperResolution, DistillStage, ExportRounds

Config = Mapping[str, Any]

STILL = AugmentPipe(0.0, x_flip=0.0, scale=0.0, rotation=0.0, anisotropic_scale=0.0, translation=0.0)
"""Pictures are not moved, and no network is told how."""


def stage_config(config: Config, dataset: PictureDataset) -> StageConfig:
    """What the last student will say of itself: all that its teacher does, but for how it is sampled."""
    folder, stage = config["teacher"], config["stage"]
    teacher = load_sampled_config(folder)
    if teacher.class_names:
        refuse_other_table(f"teacher={folder}", teacher.class_names, "the data", dataset.class_names)
    own = teacher.sampling
    distilled = teacher.distilled
    if distilled is None:
        guidance = complete("guidance", config["guidance"])
        guidance = guidance if teacher.class_names else without_labels(guidance)
        distilled = Distilled(stage["teacher_steps"], checked_sha256(find_stage(folder)), guidance)
    grid = teacher_grid(teacher, stage["teacher_steps"], config.get("grid"))
    sampling = replace(
        own,
        sampler=dict(DDIM),
        grid={"name": "strided", "stride": 1, "grid": complete("grid", grid)},
        guidance=dict(NO_GUIDANCE),
        threshold=complete("threshold", config["threshold"]),
        truncated=False,
    )
    student = replace(
        teacher, name=stage["name"], sampling=sampling, distilled=distilled, data_fingerprint=dataset.fingerprint
    )
    return described_at(config, student, Rounds.of(config).total)


def described_at(config: Config, described: StageConfig, step: int) -> StageConfig:
    """What the student says of itself that there is after `step` optimizer steps."""
    rounds = Rounds.of(config)
    number = rounds.after(step)
    grid = {**described.sampling.grid, "stride": rounds.stride(number)}
    return replace(
        described,
        sampling=replace(described.sampling, grid=grid),
        distilled=replace(described.distilled, steps=rounds.student_steps(number)),
    )


def build_stage(config: Config, described: StageConfig) -> DistillStage:
    """The Lightning module: student, average and first teacher with the weights of the stage `teacher`."""
    teacher, rounds = load_stage(config["teacher"]), Rounds.of(config)

    def plain(denoiser: Denoiser) -> Denoiser:
        return bounded(denoiser, described.sampling)

    def guided(denoiser: Denoiser) -> Denoiser:
        return plain(build("guidance", described.distilled.guidance, denoiser=denoiser))

    course = Course(
        rounds=rounds,
        grid=build("grid", described.sampling.grid["grid"]),
        guided=plain if teacher.config.distilled else guided,
        plain=plain,
        weighting=lambda noise: build("weighting", config["weighting"], noise=noise),
    )
    first = course.loss(0, teacher.denoiser).noise
    recipe = Recipe(
        noise=first,
        weighting=course.weighting(first),
        ema=build("ema", config["ema"]),
        num_classes=len(described.class_names),
        label_dropout=config["stage"]["label_dropout"],
        **{**training_numbers(config), "total_steps": rounds.length},
    )
    student = teacher.denoiser.requires_grad_(True)
    if described.low_resolution is None:
        return DistilledBase(student, recipe, STILL, course)
    return DistilledSuperResolution(student, recipe, build("augmentation", described.augmentation), course)


def training_view(config: Config, dataset: PictureDataset) -> TrainingView:
    """Crops and flips, and of them what the teacher is shown."""
    return assembly.training_view(_shown(config), dataset)


def validation_view(config: Config, dataset: PictureDataset) -> EvaluationView:
    """Centre crops, and of them what the teacher is shown."""
    return assembly.validation_view(_shown(config), dataset)


def _shown(config: Config) -> Config:
    return {**config, "condition": load_stage_config(config["teacher"]).condition}


def exporting(config: Config, watching: Sequence[Callback], export: Callable[..., None]) -> list[Callback]:  # noqa: ARG001
    """What writes the students of the rounds."""
    return [ExportRounds(Rounds.of(config), export)]
