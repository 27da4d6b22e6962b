"""The parts of a training built once without data and without Lightning, whose import is what takes time."""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import torch

from cascade.diffusion.ladder import GridNoise
from cascade.errors import CascadeError, suggest
from cascade.guidance_settings import asks_guides
from cascade.ranges import OPTIMIZER, OPTIMIZERS
from cascade.registry import build
from cascade.stage_settings import with_steps


def check_parts(config: Mapping[str, Any]) -> None:
    """Build every part that needs no data, and raise CascadeError for the first that cannot be built."""
    build("ema", config["ema"])
    if "teacher" in config:
        _check_student(config)
    elif "classifier" in config:
        _check_classifier(config)
    else:
        _check_denoiser(config)
    optimizer_factory(config["trainer"]["optimizer"])


def _check_student(config: Mapping[str, Any]) -> None:
    build("weighting", config["weighting"], noise=GridNoise((0.0,)))
    for group in ("guidance", "threshold"):
        if group in config:
            build(group, config[group], denoiser=None)
    if "grid" in config:
        build("grid", with_steps(config["grid"], config["stage"]["teacher_steps"]))


def _check_classifier(config: Mapping[str, Any]) -> None:
    for group in ("noise", "geometric"):
        build(group, config[group])
    side = config["stage"]["resolution"]
    _check_network("classifier", config["classifier"], in_channels=3, num_classes=2, size=side)


def _check_denoiser(config: Mapping[str, Any]) -> None:
    stage = config["stage"]
    build("weighting", config["weighting"], noise=build("noise", config["noise"]))
    for group in ("geometric", "loss", "sampler", "grid", "condition"):
        build(group, config[group])
    build("preconditioning", config["preconditioning"], network=None)
    build("threshold", config["threshold"], denoiser=None)
    if not asks_guides(config["guidance"]):
        build("guidance", config["guidance"], denoiser=None)
    if stage["low_resolution"] is not None:
        augmentation = build("augmentation", config["augmentation"])
        if stage["aug_log_snr"] is not None:
            augmentation.check(stage["aug_log_snr"])
    channels = 3 if stage["low_resolution"] is None else 3 + build("condition", config["condition"]).channels
    _check_network("network", config["network"], in_channels=channels, out_channels=3, num_classes=1, augment_dim=0)


def optimizer_factory(config: Mapping[str, Any]) -> Callable[[Any], torch.optim.Optimizer]:
    """Parameters → the optimizer that `_target_` names; raise CascadeError for a name or number that is wrong."""
    parameters = {key: value for key, value in config.items() if key != "_target_"}
    target = config["_target_"]
    module, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CascadeError(f"{OPTIMIZER}: there is no '{target}'; {suggest(name, OPTIMIZERS)}") from error
    factory = partial(found, **parameters)
    try:
        factory([torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        raise CascadeError(f"trainer.optimizer: {error}") from error
    return factory


def _check_network(group: str, config: Mapping[str, Any], **context: int) -> None:
    try:
        with torch.device("meta"):  # shapes alone, no weights
            build(group, config, **context)
    except RuntimeError as error:  # NotImplementedError is one
        # Not every initialiser can do without numbers; a shape that cannot be is told by torch in these words.
        if "size" in str(error) or "dimension" in str(error):
            raise CascadeError(f"{group} '{config['name']}': {str(error).splitlines()[0]}") from error
