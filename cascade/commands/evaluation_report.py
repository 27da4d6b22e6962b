"""What the report of an evaluation says beside its figures, and where else it goes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade import __version__

if TYPE_CHECKING:
    from cascade.commands.evaluate import Measured
    from cascade.commands.evaluated_sides import Pictures
    from cascade.evaluation.features import Features
    from cascade.evaluation.figures import Figure

_VERSIONS = ("torch", "torchvision", "torchmetrics", "torch-fidelity", "numpy", "pillow")


def features_record(features: "Features") -> dict[str, Any]:
    """What the features are, as plain JSON values."""
    return {key: getattr(features, key) for key in ("name", "dim", "sha256", "resize")}


def report_of(plain: Mapping[str, Any], measured: "Sequence[Measured]") -> dict[str, Any]:
    """The report of all metrics, as plain JSON values."""
    return {
        "figures": [figure.to_json() for part in measured for figure in part.figures],
        **{key: value for part in measured for key, value in part.report.items()},
        "seed": plain["seed"],
        "versions": {"cascade": __version__, **{name: version(name) for name in _VERSIONS}},
    }


def skipped(side: "Pictures", which: str) -> list[str]:
    """One line that names the first files that could not be read, and counts them."""
    if not side.bad_files:
        return []
    shown = ", ".join(f"{bad.path} ({bad.reason})" for bad in side.bad_files[:3])
    shown = shown.encode(errors="backslashreplace").decode()  # a name may be no text
    more = ", ..." if len(side.bad_files) > 3 else ""
    count = len(side.bad_files)
    were = "1 picture" if count == 1 else f"{count} pictures"
    return [f"{were} {which} could not be read and {'was' if count == 1 else 'were'} skipped: {shown}{more}"]


def with_rules(figure: "Figure", generated: "Pictures", reference: "Pictures | None") -> "Figure":
    """Put the pictures' own resizing in front of the features'; None: the reference is no pictures."""
    sides = [("", generated)] + ([] if figure.num_reference is None or reference is None else [("real ", reference)])
    rules = [f"{which}pictures: {side.rule}" for which, side in sides if side.rule is not None]
    return replace(figure, resize="; ".join([*rules, figure.resize]))


def to_wandb(settings: Mapping[str, Any], out: Path | None, report: Mapping[str, Any]) -> None:
    """Keep the figures as the summary of a run of W&B."""
    import wandb

    if out is None:
        return
    silent = wandb.Settings(silent=True, console="off")
    config = {key: value for key, value in report.items() if key != "figures"}
    run = wandb.init(
        project=settings["project"], job_type="evaluate", mode=settings["mode"], dir=out, config=config, settings=silent
    )
    for figure in report["figures"]:
        run.summary[figure["name"]] = figure["value"]
        if figure["standard_error"] is not None:
            run.summary[f"{figure['name']} error"] = figure["standard_error"]
    run.finish()
