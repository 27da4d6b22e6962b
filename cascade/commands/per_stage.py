"""STAGE.key=value on the command line: the settings of one stage of a cascade, whose stages only its folder knows."""

from collections.abc import Iterable

from cascade.commands.values import Kind

PER_STAGE = {
    "guidance_scale": (Kind("float"), "guidance of one stage, by its name: sr256.guidance_scale=1.5"),
    "steps": (Kind("int"), "sampling steps of one stage"),
    "aug_log_snr": (Kind("float"), "augmentation level of one super-resolution stage, as a log-SNR (inf: clean)"),
    "sampler": (Kind("text"), "sampler of one stage, by its registered name"),
    "threshold": (Kind("text"), "threshold of one stage, by its registered name"),
    "network_batch": (Kind("int"), "pictures in a call of one stage's network; another number changes the last bits"),
}
"""The settings of a stage → kind and explanation; the fields of `cascade.stage_settings.StageSettings`."""


def stage_keys(names: Iterable[str]) -> dict[str, Kind]:
    """The keys STAGE.setting of these stages, with their kinds.

    >>> stage_keys(["sr256"])["sr256.steps"].name
    'int'
    """
    return {f"{name}.{key}": kind for name in names for key, (kind, _) in PER_STAGE.items()}
