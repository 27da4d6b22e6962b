"""A distilled stage: what it says of its distillation, and the one way in which it samples. Told without torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cascade.errors import CascadeError
from cascade.guidance_settings import NO_GUIDANCE, asks_guides, classifier_free_scale

if TYPE_CHECKING:
    from cascade.artifact import StageConfig, StageSampling

DDIM: dict[str, Any] = {"name": "ddim", "eta": 0.0}
"""The sampler that a student has learned the steps of."""


@dataclass(frozen=True)
class Distilled:
    """Of a stage that was distilled: its steps, the SHA-256 of its first teacher's weights, and what guided that one.

    >>> Distilled(4, "ab12", {"name": "classifier_free", "scale": 2.0}).baked
    ' with classifier_free guidance of scale 2 in it'
    """

    steps: int
    teacher: str
    guidance: dict[str, Any]

    @property
    def baked(self) -> str:
        """What guidance it makes by itself, in words; empty if none."""
        if is_unguided(self.guidance):
            return ""
        inner = self.guidance.get("guided", self.guidance)
        return f" with {self.guidance['name']} guidance of scale {inner['scale']:g} in it"


def is_unguided(guidance: Mapping[str, Any]) -> bool:
    """Whether a guidance leaves a denoiser as it is.

    >>> is_unguided({"name": "classifier_free", "scale": 1.0}), is_unguided({"name": "autoguidance", "scale": 1.0})
    (True, False)
    >>> is_unguided({"name": "classifier_around", "classifier": "folder", "guided": {"name": "none"}})
    False
    """
    if asks_guides(guidance):
        return False
    own = guidance.get("guided", guidance)
    return own["name"] == NO_GUIDANCE["name"] or (
        own["name"] == "classifier_free" and classifier_free_scale(guidance) == 1
    )


def halvings(teacher_steps: int, steps: int) -> int:
    """Return how often `teacher_steps` is halved down to `steps`; CascadeError unless that is once or more, exactly.

    >>> halvings(32, 4)
    3
    """
    count = round(math.log2(teacher_steps / steps)) if 0 < steps < teacher_steps else 0
    if count < 1 or steps << count != teacher_steps:
        raise CascadeError(
            f"{teacher_steps} steps cannot be halved to {steps}; choose a number of steps that doubled some times "
            "is the teacher's, like 32 and 4"
        )
    return count


def check_distilled_sampling(config: "StageConfig", sampling: "StageSampling") -> None:
    """Refuse another sampler, grid or guidance than those a stage was distilled for, if it was.

    Its guidance is in its weights: guided again, it would be so twice. Raises CascadeError.
    """
    distilled = config.distilled
    if distilled is None:
        return
    for key, chosen in (("sampler", {**DDIM, **sampling.sampler}), ("grid", sampling.grid)):
        if chosen != getattr(config.sampling, key):
            raise CascadeError(
                f"stage '{config.name}' was distilled to {distilled.steps} steps of its own, and has no other {key}; "
                f"leave {'its grid and steps' if key == 'grid' else 'its sampler'} out"
            )
    if not is_unguided(sampling.guidance):
        raise CascadeError(
            f"stage '{config.name}' was distilled{distilled.baked}, and cannot be guided; leave its guidance out"
        )


def refuse_distilled(config: "StageConfig", what: str) -> None:
    """Raise CascadeError where a stage was distilled: `what` asks for the posterior mean, which its x̂ is not."""
    if config.distilled is not None:
        raise CascadeError(
            f"stage '{config.name}' was distilled to {config.distilled.steps} steps, and {what} is of stages that "
            "were not"
        )
