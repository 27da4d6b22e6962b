"""What the report of an evaluation says beside its figures, and where else it goes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade import __version__
from cascade.artifact import load_chain
from cascade.commands.reports import read_report, write_report
from cascade.requests import chosen_stages

if TYPE_CHECKING:
    from cascade.commands.evaluate import Measured
    from cascade.commands.evaluated_sides import Pictures
    from cascade.data.folder import BadFile
    from cascade.evaluation.features import Features
    from cascade.evaluation.figures import Figure

REPORT, MADE_BY = "evaluation.json", "cascade evaluate"
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


def result_name(plain: Mapping[str, Any], measured: "Sequence[Measured]") -> str:
    """What is kept beside other results: protocol, metrics, the last stage that runs, features and their resizing."""
    last = "pictures"
    if plain["cascade"] is not None:
        configs = load_chain(plain["cascade"])
        last = configs[chosen_stages(configs, plain["stages"], None)][-1].name
    by = dict.fromkeys(figure.features for part in measured for figure in part.figures if figure.features is not None)
    protocol, resize = plain["protocol"]["name"], plain["features"].get("resize")
    rule = [] if resize is None or protocol != "own" else [resize]  # every other one has its own
    return ", ".join([protocol, "+".join(plain["metrics"]), last, *by, *rule])


def keep_report(file: Path, report: Mapping[str, Any]) -> None:
    """Write the report whole, and in its `others` those of other results that the file has had.

    >>> import json, tempfile; file = Path(tempfile.mkdtemp()) / REPORT
    >>> for name, figures in (("adm", [1]), ("clean", [2]), ("adm", [3])):
    ...     keep_report(file, {"result": name, "figures": figures})
    >>> report = json.loads(file.read_text())
    >>> report["result"], report["figures"], report["others"]
    ('adm', [3], {'clean': {'figures': [2]}})
    """
    there = read_report(file, MADE_BY) or {}
    others = there.pop("others", {})
    if there:
        del there["made_by"]
        others[there.pop("result", "of an earlier version")] = there
    others.pop(report["result"], None)
    write_report(file, {"made_by": MADE_BY, **report, "others": dict(sorted(others.items()))})


def unreadable(bad_files: "Sequence[BadFile]", which: str) -> list[str]:
    """One line that names the first files that could not be read, and counts them."""
    if not bad_files:
        return []
    shown = ", ".join(f"{bad.path} ({bad.reason})" for bad in bad_files[:3])
    shown = shown.encode(errors="backslashreplace").decode()  # a name may be no text
    more = ", ..." if len(bad_files) > 3 else ""
    count = len(bad_files)
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
