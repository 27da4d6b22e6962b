"""`cascade plan`: what a training and its sampling cost, and whether they fit, before anything runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.accelerators import check_accelerator
from cascade.commands.plan_cards import CARDS
from cascade.commands.reports import refuse_foreign_report, write_report
from cascade.data.source import check_source
from cascade.errors import CascadeError, suggest
from cascade.files import expanded
from cascade.guidance_settings import guides_of
from cascade.requests import check_precision
from cascade.trained_levels import refuse_untrained

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from cascade.artifact import StageSampling
    from cascade.commands.plan_measure import Costs
    from cascade.commands.plan_stage import PlannedStage

_MADE_BY = "cascade plan"


def run(config: "DictConfig") -> None:
    """Print the table of a stage, and write it to `json` if that is given. See `conf/plan.yaml`."""
    from cascade.commands.configuration import plain_config

    plain: dict[str, Any] = plain_config(config)
    if "teacher" in plain:
        raise CascadeError("a plan is of stages that learn from pictures, and stage=distill has a teacher")
    file = None if plain["json"] is None else expanded(plain["json"])
    _check(plain, file)

    from cascade.commands.figure_table import wide_console
    from cascade.commands.plan_measure import estimated, measured
    from cascade.commands.plan_stage import planned_stage
    from cascade.progress import progress_bars

    with progress_bars() as bars:
        planned = planned_stage(plain)
        if plain["card"] is None:
            costs = measured(planned, plain, bars.at)
        else:
            costs = estimated(planned, plain, CARDS[plain["card"]], plain["utilisation"], bars.at)
    report = _report(planned, plain, costs)
    if file is not None:
        write_report(file, {"made_by": _MADE_BY, **report})
    console = wide_console()
    _print(console, report)


def _check(plain: Mapping[str, Any], file: Path | None) -> None:
    if plain["card"] is not None and plain["card"] not in CARDS:
        raise CascadeError(f"unknown card '{plain['card']}'; {suggest(str(plain['card']), CARDS)}")
    if not 0 < plain["utilisation"] <= 1:
        raise CascadeError(f"utilisation={plain['utilisation']} is a share of the peak, above 0 and at most 1")
    trainer = plain["trainer"]
    for key in ("max_steps", "batch", "accumulate", "devices"):
        if trainer[key] < 1:
            raise CascadeError(f"trainer.{key} must be at least 1, not {trainer[key]}")
    if trainer["batch"] % (trainer["accumulate"] * trainer["devices"]):
        raise CascadeError(f"trainer.batch={trainer['batch']} is no multiple of trainer.accumulate × trainer.devices")
    check_precision(trainer["precision"])
    if plain["card"] is None:
        check_accelerator(trainer["accelerator"])
    _check_stage(plain)
    check_source(plain["data"])
    if file is not None:
        if file.is_dir():
            raise CascadeError(f"json={file} is a folder; name a file")
        if above := [parent for parent in file.parents if parent.exists() and not parent.is_dir()]:
            raise CascadeError(f"json={file} cannot be made: {above[0]} is a file")
        refuse_foreign_report(file, _MADE_BY)


def _check_stage(plain: Mapping[str, Any]) -> None:
    stage = plain["stage"]
    if "low_resolution" not in stage:
        raise CascadeError(f"a plan is of stages that make pictures, and '{stage['name']}' makes none")
    if stage["crop"] is not None and not 1 <= stage["crop"] <= stage["resolution"]:
        raise CascadeError(f"stage.crop={stage['crop']} must be from 1 to the {stage['resolution']} px of the pictures")
    if stage["aug_log_snr"] is not None:
        refuse_untrained(plain["augmentation"], stage["aug_log_snr"])


def _report(planned: "PlannedStage", plain: Mapping[str, Any], costs: "Costs") -> dict[str, Any]:
    """All numbers as plain JSON values: bytes, seconds, FLOP."""
    config, trainer = planned.stage.config, plain["trainer"]
    chunk = config.sampling.network_batch
    return {
        "stage": config.name,
        "resolution": config.resolution,
        "low_resolution": config.low_resolution,
        "network": config.network,
        "parameters": planned.crop_cost.parameters,
        "on": costs.where,
        "estimated": costs.estimated,
        "memory": costs.memory,
        "training": {
            "crop": planned.crop,
            "batch": trainer["batch"],
            "accumulate": trainer["accumulate"],
            "devices": trainer["devices"],
            "max_steps": trainer["max_steps"],
            "flop_of_a_picture": 3 * planned.crop_cost.flop,
            "seconds_of_a_step": costs.step_seconds,
            "hours": costs.step_seconds * trainer["max_steps"] / 3600,
            "memory": costs.training_bytes,
            "fits": _fits(costs.training_bytes, costs.memory),
            "how": costs.notes["training"] + _side_by_side(trainer["devices"]),
        },
        "sampling": {
            "side": config.resolution,
            "network_batch": chunk,
            "steps": planned.steps,
            "network_calls": planned.evaluations,
            "flop_of_a_call": planned.full_cost.flop,
            "flop_of_a_picture": planned.full_cost.flop * planned.evaluations,
            "seconds_of_a_picture": costs.chunk_seconds / chunk,
            "memory": costs.sampling_bytes,
            "fits": _fits(costs.sampling_bytes, costs.memory),
            "how": costs.notes["sampling"] + _without_classifier(config.sampling),
        },
    }


def _side_by_side(devices: int) -> str:
    if devices == 1:
        return ""
    return f"; of one of {devices} processes, each on a device of its own; their exchange of gradients is not in it"


def _without_classifier(sampling: "StageSampling") -> str:
    asked = "classifier" in dict(guides_of(sampling))
    return "; without its classifier, whose forward and gradient each step needs besides" if asked else ""


def _fits(needed: float, there: float | None) -> bool | None:
    return None if there is None else needed <= there


def _print(console: Any, report: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    about = "estimated" if report["estimated"] else "measured"
    table = Table(title=Text(f"{report['stage']} on {report['on']}, {about}"), title_justify="left")
    for heading, justify in (("", "left"), ("training", "right"), ("sampling", "right")):
        table.add_column(heading, justify=justify)
    for row in _rows(report["training"], report["sampling"], report["parameters"]):
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    for line in _lines(report):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _rows(training: Mapping[str, Any], sampling: Mapping[str, Any], parameters: int) -> list[tuple[str, str, str]]:
    return [
        ("parameters", f"{parameters / 1e6:.2f} M", ""),
        ("pictures", f"{training['crop']} px, batch {training['batch']}", f"{sampling['side']} px"),
        ("FLOP of a picture", _flop(training["flop_of_a_picture"]), _flop(sampling["flop_of_a_picture"])),
        ("", "forward and backward", f"{sampling['network_calls']} calls of {_flop(sampling['flop_of_a_call'])}"),
        ("memory", _giga(training["memory"]), _giga(sampling["memory"])),
        (
            "time",
            f"{_time(training['seconds_of_a_step'])} a step",
            f"{_time(sampling['seconds_of_a_picture'])} a picture",
        ),
        ("", f"{_hours(training['hours'])} for {training['max_steps']} steps", f"{sampling['steps']} steps"),
    ]


def _lines(report: Mapping[str, Any]) -> list[str]:
    lines = [f"{key}: {report[key]['how']}" for key in ("training", "sampling")]
    for key in ("training", "sampling"):
        needed, there = report[key]["memory"], report["memory"]
        if there is None:
            lines.append(f"{key} needs {_giga(needed)}; how much memory there is cannot be told here")
        elif report[key]["fits"]:
            lines.append(f"{key} fits: {_giga(needed)} of {_giga(there)}")
        else:
            way = "a smaller trainer.batch, or trainer.accumulate" if key == "training" else "STAGE.tile in sampling"
            lines.append(f"{key} does not fit: it needs {_giga(needed)} of {_giga(there)}; {way} needs less")
    return lines


def _flop(number: float) -> str:
    """FLOP in words.

    >>> _flop(3.9e9), _flop(2.5e12)
    ('3.9 GFLOP', '2.5 TFLOP')
    """
    return f"{number / 1e12:.3g} TFLOP" if number >= 1e12 else f"{number / 1e9:.3g} GFLOP"


def _giga(number: float) -> str:
    return f"{number / 1e9:.2f} GB"


def _time(seconds: float) -> str:
    """Seconds in words.

    >>> _time(0.0123), _time(2.345), _time(200)
    ('12 ms', '2.3 s', '3.3 min')
    """
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms" if seconds < 0.01 else f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _hours(hours: float) -> str:
    return f"{hours:.1f} hours" if hours < 72 else f"{hours / 24:.1f} days"
