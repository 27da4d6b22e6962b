"""The checks of a training's settings that need neither torch nor data, so that a mistake is said at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cascade.accelerators import check_accelerator
from cascade.artifact import find_stage
from cascade.data.source import check_source
from cascade.errors import CascadeError
from cascade.guidance_settings import guides_in
from cascade.lock import beside, check_place
from cascade.registry import build
from cascade.requests import check_logger, check_precision, check_seed
from cascade.trained_levels import refuse_untrained
from stages.distill_settings import check_student
from stages.run_folder import SCRATCH, RunFolder

_MOST_WORKERS = 256


def check_settings(config: Mapping[str, Any], processes: int) -> None:
    """Refuse numbers out of range and names that are none, each in one line; `processes` train together."""
    _check_trainer(config["trainer"])
    _check_kind(config)
    check_seed(config["seed"])
    for key, name in (("name", config["name"]), ("stage.name", config["stage"]["name"])):
        if not name or Path(name).name != name or name.startswith("."):
            raise CascadeError(f"{key}='{name}' must be a plain folder name")
    folder = RunFolder.of(config).path
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise CascadeError(f"the run would be in {folder}, but {path} is a file")
    check_logger(config["logger"])
    _check_batch(config["trainer"], processes)


def wanted_splits(trainer: Mapping[str, Any]) -> list[str]:
    """The splits of the pictures that a run reads: none for validation where nothing is measured or shown."""
    shown = trainer["sample_every"] > 0 and trainer["sample_images"] > 0
    return ["train", "val"] if trainer["validation_images"] > 0 or shown else ["train"]


def check_folders(config: Mapping[str, Any]) -> None:
    """Refuse what a glance without torch shows: unfit pictures, no stage at a place that is named, a run of others."""
    check_source(config["data"], config["stage"]["resolution"], wanted_splits(config["trainer"]))
    if config["init"] is not None:
        find_stage(config["init"])
    for group in ("guidance", "sampler"):
        for _, folder in guides_in(config.get(group, {})):
            find_stage(folder)
    if not config["fresh"] and config["name"] != SCRATCH:
        difference = RunFolder.of(config).difference(config, as_written=True)
        if difference is not None:
            raise CascadeError(difference)


def check_place_of(config: Mapping[str, Any]) -> None:
    """Refuse a run's folder that cannot be made, or that another process holds; the run itself holds it for good."""
    check_place(RunFolder.of(config).path, beside)


def _check_trainer(settings: Mapping[str, Any]) -> None:
    for key in ("max_steps", "batch", "accumulate", "log_every", "checkpoint_every", "validate_every", "devices"):
        if settings[key] < 1:
            raise CascadeError(f"trainer.{key} must be at least 1, not {settings[key]}")
    not_negative = ("validation_images", "workers", "warmup_steps", "cooldown_steps", "sample_every", "sample_images")
    for key in (*not_negative, "gradient_clip"):
        if not settings[key] >= 0:
            raise CascadeError(f"trainer.{key} cannot be negative, as {settings[key]} is")
    if settings["workers"] > _MOST_WORKERS:
        raise CascadeError(f"trainer.workers={settings['workers']} must be at most {_MOST_WORKERS}")
    for key in ("checkpoint_minutes", "max_minutes", "max_cpu_minutes"):
        if settings[key] is not None and not settings[key] > 0:
            raise CascadeError(f"trainer.{key} must be above 0, not {settings[key]}")
    check_accelerator(settings["accelerator"])
    try:
        check_precision(settings["precision"])
    except CascadeError as error:
        raise CascadeError(str(error).replace("precision", "trainer.precision", 1)) from None
    _check_optimizer(settings["optimizer"])


def _check_optimizer(settings: Mapping[str, Any]) -> None:
    """The numbers that every optimizer of torch has alike; the others are the optimizer's to check."""
    if "lr" in settings and not 0 < settings["lr"] < float("inf"):
        raise CascadeError(f"trainer.optimizer.lr must be above 0, not {settings['lr']}")
    if "weight_decay" in settings and not 0 <= settings["weight_decay"] < float("inf"):
        raise CascadeError(f"trainer.optimizer.weight_decay cannot be negative, as {settings['weight_decay']} is")
    betas = settings.get("betas")
    if betas is not None and not (len(betas) == 2 and all(0 <= beta < 1 for beta in betas)):
        raise CascadeError(f"trainer.optimizer.betas={betas} must be two numbers, at least 0 and below 1")


OF_DENOISERS = (
    "network", "preconditioning", "weighting", "loss", "sampler", "grid", "guidance", "threshold", "augmentation",
    "condition", "low_res_input",
)  # fmt: skip
"""The groups of a stage that denoises, which one that trains a classifier does not have."""


def _check_kind(config: Mapping[str, Any]) -> None:
    if "teacher" in config:
        check_student(config)
        _check_shown(config["stage"])
    elif "low_resolution" in config["stage"]:
        _check_denoiser(config)
    else:
        _check_classifier(config)


def _check_classifier(config: Mapping[str, Any]) -> None:
    stage = config["stage"]
    for group in OF_DENOISERS:
        if group in config:
            hint = " (debug=fast chooses one, debug=fast_classifier does not)" if group == "network" else ""
            raise CascadeError(f"stage '{stage['name']}' trains a classifier, which has no {group}; leave it out{hint}")
    if stage["resolution"] < 1:
        raise CascadeError(f"stage.resolution must be at least 1, not {stage['resolution']}")


def _check_denoiser(config: Mapping[str, Any]) -> None:
    stage = config["stage"]
    if "classifier" in config:
        raise CascadeError(f"stage '{stage['name']}' trains a denoiser, not a classifier; stage=classifier64 does")
    _check_stage(stage)
    if not config["network"].get("null_label", True) and stage["label_dropout"]:
        raise CascadeError(
            "network.null_label=false has no class 'none' for dropped labels; say stage.label_dropout=0 guidance=none"
        )
    _check_shown_picture(stage, config)
    if stage["low_resolution"] is None and config["augmentation"]["name"] != "none":
        raise CascadeError(f"augmentation={config['augmentation']['name']} is of the low-res picture; a base has none")
    if stage["aug_log_snr"] is not None:
        refuse_untrained(config["augmentation"], stage["aug_log_snr"])


def _check_stage(stage: Mapping[str, Any]) -> None:
    for key in ("resolution", "low_resolution", "network_batch"):
        if stage[key] is not None and stage[key] < 1:
            raise CascadeError(f"stage.{key} must be at least 1, not {stage[key]}")
    resolution, low = stage["resolution"], stage["low_resolution"]
    if low is not None and resolution % low:
        raise CascadeError(f"stage.resolution={resolution} must be a multiple of stage.low_resolution={low}")
    _check_shown(stage)
    if low is None and stage["aug_log_snr"] is not None:
        raise CascadeError(f"stage.aug_log_snr={stage['aug_log_snr']} is of the low-res picture, and a base has none")


def _check_shown_picture(stage: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuse what cannot be shown of a picture of the stage's low resolution."""
    condition, low = build("condition", config["condition"]), stage["low_resolution"]
    if low is not None:
        condition.check(stage["resolution"], low, noised=config["augmentation"]["name"] != "none")
    elif not condition.chained:
        raise CascadeError(
            f"condition={config['condition']['name']} is shown of a picture, and a base starts from noise alone; "
            "say stage=palette64"
        )


def _check_shown(stage: Mapping[str, Any]) -> None:
    """Refuse what no denoiser can be shown of a picture and its label."""
    resolution, low, crop = stage["resolution"], stage["low_resolution"], stage["crop"]
    if crop is not None and crop < 1:
        raise CascadeError(f"stage.crop must be at least 1, not {crop}")
    if crop is not None and crop > resolution:
        raise CascadeError(f"stage.crop={crop} is larger than the pictures of {resolution} px")
    if crop is not None and low is not None and crop % (resolution // low):
        raise CascadeError(f"stage.crop={crop} must be a multiple of the factor {resolution // low}")
    if not 0 <= stage["label_dropout"] <= 1:
        raise CascadeError(f"stage.label_dropout={stage['label_dropout']} must lie in [0, 1]")


def _check_batch(settings: Mapping[str, Any], processes: int) -> None:
    if settings["devices"] != processes:
        raise CascadeError(
            f"trainer.devices={settings['devices']} but {processes} process(es) run; several come from "
            f"`torchrun --no-python --nproc-per-node {max(2, settings['devices'])} cascade train ...` "
            "or, as SLURM's tasks, from `srun cascade train ...`, with trainer.devices set to their number"
        )
    pieces = processes * settings["accumulate"]
    if settings["batch"] % pieces:
        raise CascadeError(
            f"trainer.batch={settings['batch']} is global and cannot be split over {processes} process(es) "
            f"times {settings['accumulate']} micro-batch(es); choose a multiple of {pieces}"
        )
