"""The parts of a training built once without data and without Lightning, whose import is what takes time."""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import torch

from cascade.errors import CascadeError, suggest
from cascade.guidance_settings import weak_stages
from cascade.registry import build


def check_parts(config: Mapping[str, Any]) -> None:
    """Build every part that needs no data, and raise CascadeError for the first that cannot be built."""
    stage = config["stage"]
    noise = build("noise", config["noise"])
    build("weighting", config["weighting"], noise=noise)
    for group in ("loss", "ema", "geometric", "sampler", "grid"):
        build(group, config[group])
    build("threshold", config["threshold"], denoiser=None)
    if not weak_stages(config["guidance"]):
        build("guidance", config["guidance"], denoiser=None)
    if stage["low_resolution"] is not None:
        augmentation = build("augmentation", config["augmentation"])
        if stage["aug_log_snr"] is not None:
            augmentation.check(stage["aug_log_snr"])
    _check_network(config["network"], base=stage["low_resolution"] is None)
    optimizer_factory(config["trainer"]["optimizer"])


def optimizer_factory(config: Mapping[str, Any]) -> Callable[[Any], torch.optim.Optimizer]:
    """Parameters → the optimizer that `_target_` names; raise CascadeError for a name or number that is wrong."""
    parameters = {key: value for key, value in config.items() if key != "_target_"}
    target = config["_target_"]
    module, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        known = [n for n in dir(torch.optim) if isinstance(getattr(torch.optim, n), type)]
        raise CascadeError(f"trainer.optimizer._target_: there is no '{target}'; {suggest(name, known)}") from error
    factory = partial(found, **parameters)
    try:
        factory([torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        raise CascadeError(f"trainer.optimizer: {error}") from error
    return factory


def _check_network(config: Mapping[str, Any], *, base: bool) -> None:
    try:
        with torch.device("meta"):  # shapes alone, no weights
            build("network", config, in_channels=3 if base else 6, out_channels=3, num_classes=1, augment_dim=0)
    except (RuntimeError, NotImplementedError) as error:
        # Not every initialiser can do without numbers; a shape that cannot be is told by torch in these words.
        if "size" in str(error) or "dimension" in str(error):
            raise CascadeError(f"network '{config['name']}': {str(error).splitlines()[0]}") from error
