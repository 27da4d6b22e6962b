"""What a sampling run changes in a stage's defaults: a few numbers and names, checked without torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from cascade.artifact import StageConfig, StageSampling
from cascade.errors import CascadeError, suggest


@dataclass(frozen=True)
class StageSettings:
    """Changes for one stage; None keeps what `cascade.yaml` says.

    guidance_scale  classifier-free guidance, 1 = none; an unlabelled stage ignores it
    steps           length of the sampling grid
    aug_log_snr     conditioning augmentation as a log-SNR, inf = clean; super-resolution stages only
    sampler         registered name of a sampler, with its default parameters
    threshold       registered name of a threshold, with its default parameters
    network_batch   pictures in a call of the network; another number changes the last bits

    >>> StageSettings(steps=0)
    Traceback (most recent call last):
    cascade.errors.CascadeError: steps=0 must be at least 1
    """

    guidance_scale: float | None = None
    steps: int | None = None
    aug_log_snr: float | None = None
    sampler: str | None = None
    threshold: str | None = None
    network_batch: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "network_batch"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise CascadeError(f"{name}={value} must be at least 1")
        if self.guidance_scale is not None and not math.isfinite(self.guidance_scale):
            raise CascadeError(f"guidance_scale={self.guidance_scale} must be finite")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "StageSettings":
        """Read the keys of the fields; another key raises CascadeError with the nearest name."""
        names = [field.name for field in fields(cls)]
        for key in mapping:
            if key not in names:
                raise CascadeError(f"a stage has no setting '{key}'; {suggest(str(key), names)}")
        return cls(**mapping)


def settings_of(per_stage: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, StageSettings]:
    """Read stage → settings; a stage that is not among `names` raises CascadeError with the nearest name."""
    for name in per_stage:
        if name not in names:
            raise CascadeError(f"there is no stage '{name}' in the cascade; {suggest(str(name), names)}")
    return {name: StageSettings.from_mapping(mapping) for name, mapping in per_stage.items()}


def changed(sampling: StageSampling, settings: StageSettings, config: StageConfig) -> StageSampling:
    """Return `sampling` with `settings` applied; an unlabelled stage has no guidance, whatever is asked."""
    guidance = sampling.guidance
    if not config.class_names:
        guidance = {"name": "none"}
    elif settings.guidance_scale is not None:
        kept = {"name": "classifier_free"} if guidance["name"] == "none" else guidance
        guidance = {**kept, "scale": settings.guidance_scale}
    return replace(
        sampling,
        guidance=guidance,
        grid=sampling.grid if settings.steps is None else {**sampling.grid, "n": settings.steps},
        sampler=sampling.sampler if settings.sampler is None else {"name": settings.sampler},
        threshold=sampling.threshold if settings.threshold is None else {"name": settings.threshold},
        aug_log_snr=sampling.aug_log_snr if settings.aug_log_snr is None else settings.aug_log_snr,
        network_batch=sampling.network_batch if settings.network_batch is None else settings.network_batch,
    )
