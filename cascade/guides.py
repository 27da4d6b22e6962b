"""What guides a stage from outside: a weaker stage, or a classifier; read from its folder, checked, made a function."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from cascade.arithmetic import Arithmetic
from cascade.artifact import Stage, StageConfig, StageSampling, check_aug_level, load_stage
from cascade.class_tables import table_difference
from cascade.classifier import Classifier, ClassifierConfig, load_classifier
from cascade.diffusion import Denoiser
from cascade.errors import CascadeError
from cascade.sampling import LabelLogProb, Unconditional
from cascade.stage_denoiser import Autocast, stage_denoiser

if TYPE_CHECKING:
    from cascade.sampling.classifier_guidance import LogProb


def load_guide(kind: str, folder: str, device: torch.device | str = "cpu") -> Stage | Classifier:
    """Read a guide of that kind: a key of a guidance config that names a folder, "weak" or "classifier"."""
    load: Callable[..., Stage | Classifier] = {"weak": load_stage, "classifier": load_classifier}[kind]
    return load(folder, device)


def check_guide(guide: Stage | Classifier, config: StageConfig, sampling: StageSampling) -> None:
    """Refuse, by its name, a guide that cannot answer what the stage of `config` is asked."""
    if isinstance(guide, Classifier):
        _check_classifier(guide.config, config)
    else:
        _check_weak(guide.config, config, sampling.aug_log_snr)


def as_function(
    guide: Stage | Classifier, device: torch.device, arithmetic: Arithmetic, tile: int | None
) -> "Denoiser | LogProb":
    """What the guidance calls: a weak stage's denoiser, or ln p(c | x_t) of a classifier, which sees whole pictures."""
    if isinstance(guide, Classifier):
        bf16 = arithmetic.bf16
        return LabelLogProb(Autocast(guide.network, device.type, torch.bfloat16) if bf16 else guide.network)
    return denoiser_of(guide, device, arithmetic, tile)


def denoiser_of(stage: Stage, device: torch.device, arithmetic: Arithmetic, tile: int | None) -> Denoiser:
    """The stage's denoiser in its arithmetic, by tiles or not; one that knows no classes is told none."""
    denoiser = stage_denoiser(stage, device, arithmetic, tile)
    return denoiser if stage.config.class_names else Unconditional(denoiser)


def _check_weak(guide: StageConfig, config: StageConfig, aug_log_snr: float | None) -> None:
    if (guide.resolution, guide.low_resolution) != (config.resolution, config.low_resolution):
        raise CascadeError(f"the weak stage '{guide.name}' is {_sizes(guide)}, not {_sizes(config)}")
    if guide.condition != config.condition:
        raise CascadeError(f"the weak stage '{guide.name}' is shown another part of a picture than '{config.name}'")
    if guide.class_names and config.class_names and guide.class_names != config.class_names:
        raise CascadeError(f"the weak stage '{guide.name}' has another class table: {_difference(guide, config)}")
    check_aug_level(guide, aug_log_snr)


def _check_classifier(guide: ClassifierConfig, config: StageConfig) -> None:
    if guide.resolution != config.resolution:
        raise CascadeError(f"the classifier '{guide.name}' is of {guide.resolution} px, not {config.resolution} px")
    if config.class_names and guide.class_names != config.class_names:
        raise CascadeError(f"the classifier '{guide.name}' has another class table: {_difference(guide, config)}")


def _difference(guide: StageConfig | ClassifierConfig, config: StageConfig) -> str:
    return table_difference(f"'{guide.name}'", guide.class_names, f"'{config.name}'", config.class_names)


def _sizes(config: StageConfig) -> str:
    before = "" if config.low_resolution is None else f"{config.low_resolution} -> "
    return f"{before}{config.resolution} px"
