"""What a stage trains, of whatever kind it is: the levels that are drawn, and what the loss weighs at each."""

from dataclasses import dataclass
from typing import Any

from cascade.diffusion.distillation import student_noise
from cascade.diffusion.noise import NoiseDistribution
from cascade.diffusion.weighting import UnitWeighting, Weighting
from cascade.distilled import DDIM, halvings
from cascade.errors import CascadeError
from cascade.registry import build, complete
from cascade.stage_settings import load_sampled_config, teacher_grid


@dataclass(frozen=True, eq=False)
class Trained:
    """How the levels of a stage's training are drawn and weighed.

    config   the config, with what a student has from its teacher
    drawn    what chooses the levels, in words; `chosen`, what chooses the weight
    on       what the weight is of; `on_x` the same as a distance of pictures, None where it is no distance
    remains  whether what the loss leaves is known: of the exact denoiser of pictures
    note     what is said beside the certificate, which is of the exact denoiser
    """

    config: dict[str, Any]
    noise: NoiseDistribution
    weighting: Weighting
    drawn: str
    chosen: str
    on: str
    on_x: str | None
    remains: bool
    note: str = ""


def trained(config: dict[str, Any]) -> Trained:
    """Build what a config of `cascade train` draws and weighs; raises CascadeError for what is wrong in it."""
    if "teacher" in config:
        return _student(config)
    return _classifier(config) if "classifier" in config else _denoiser(config)


def _denoiser(config: dict[str, Any]) -> Trained:
    noise = build("noise", config["noise"])
    weighting = build("weighting", config["weighting"], noise=noise)
    names = {group: config[group]["name"] for group in ("noise", "weighting", "loss")}
    # What a loss adds is no function of λ alone: scales, a second term, a weight that is learnt.
    around = "" if names["loss"] == "plain" else f",\ninside loss={names['loss']}"
    drawn, chosen = f"noise={names['noise']}", f"weighting={names['weighting']}{around}"
    return Trained(config, noise, weighting, drawn, chosen, "‖ε − ε̂‖²", "‖x − x̂‖²", remains=True)


def _classifier(config: dict[str, Any]) -> Trained:
    """Its loss is the cross entropy as it is, so that w = p: weight 1 at every level that is drawn."""
    if ("sampler" in config) != ("grid" in config):
        raise CascadeError(
            "a classifier is not sampled; for a certificate beside its levels give sampler and grid both"
        )
    noise = build("noise", config["noise"])
    drawn = f"noise={config['noise']['name']}"
    on = "−ln p(class | x_t)"
    return Trained(config, noise, UnitWeighting(), drawn, "cross entropy, weight 1", on, None, remains=False)


def _student(config: dict[str, Any]) -> Trained:
    """The first round of a distillation. Its target is what its teacher does, and not the picture."""
    teacher, stage = load_sampled_config(config["teacher"]), config["stage"]
    halvings(stage["teacher_steps"], stage["steps"])
    walked = complete("grid", teacher_grid(teacher, stage["teacher_steps"], config.get("grid")))
    levels = build("grid", walked)
    if len(levels) - 1 != stage["teacher_steps"]:
        raise CascadeError(
            f"teacher={config['teacher']} makes {len(levels) - 1} steps; say stage.teacher_steps={len(levels) - 1}"
        )
    of_teacher = {
        "name": teacher.name if stage["name"] is None else stage["name"],
        "resolution": teacher.resolution,
        "low_resolution": teacher.low_resolution,
        "aug_log_snr": teacher.sampling.aug_log_snr,
    }
    noise = student_noise(levels)
    own = {
        **config,
        "stage": {**stage, **of_teacher},
        "sampler": dict(DDIM),
        "grid": {"name": "strided", "stride": 2, "grid": walked},
        "augmentation": dict(teacher.augmentation),
    }
    weighting = build("weighting", config["weighting"], noise=noise)
    drawn = f"the {len(noise.levels)} of the first student"
    chosen = f"weighting={config['weighting']['name']}"
    note = f"A student aims at its teacher's {stage['teacher_steps']} steps."
    return Trained(own, noise, weighting, drawn, chosen, "‖ε̃ − ε̂‖²", "‖x̃ − x̂‖²", remains=False, note=note)
