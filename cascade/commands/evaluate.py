"""`cascade evaluate`: figures of a cascade or of a folder of pictures against real pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from cascade.commands.bits_per_dim import JUDGES, BitsPerDim, check_bits_per_dim
from cascade.commands.evaluated_sides import Sides, check_cascade, check_sides
from cascade.commands.evaluation_features import (
    ChooseFeatures,
    check_patches,
    features_of,
    own_device,
    patch_features,
)
from cascade.commands.evaluation_report import (
    MADE_BY,
    REPORT,
    features_record,
    keep_report,
    report_of,
    result_name,
    to_wandb,
    unreadable,
    with_rules,
)
from cascade.commands.evaluation_settings import keep_settings, kept_settings, precisions_of, refuse_other, settings_of
from cascade.commands.named_protocol import protocol_of, ranges_of, under_protocol
from cascade.commands.per_stage import extra_keys
from cascade.commands.reference_side import check_statistics, is_statistics, open_reference
from cascade.commands.reports import refuse_foreign_report
from cascade.commands.team import Team
from cascade.commands.upscaling import Upscaling, check_upscaling
from cascade.commands.written import shell_line, written
from cascade.errors import CascadeError, suggest
from cascade.files import expanded
from cascade.lock import check_place
from cascade.processes import Processes
from cascade.progress import Bars, progress_bars
from cascade.protocol import balance
from cascade.requests import check_logger

if TYPE_CHECKING:
    from rich.table import Table

    from cascade.evaluation.figures import Figure

__all__ = ["extra_keys", "run"]

GENERATED = "pictures to evaluate"


_WITHOUT_SAY = ("out", "batch", "logger")
"""Keys that change no figure, and so are not part of the command that makes a report again."""


def run(config: DictConfig) -> None:
    """Measure, print a table, and keep the figures in `out`/evaluation.json if given. See `conf/evaluate.yaml`."""
    from hydra.core.hydra_config import HydraConfig

    plain = asked(OmegaConf.to_container(config, resolve=True))
    check_evaluation(plain)
    out = None if plain["out"] is None else expanded(plain["out"])
    team = Team(out, Processes.here())
    if out is not None:
        refuse_foreign_report(out / REPORT, MADE_BY)
        if team.processes.is_first:
            check_place(out)
    import torch

    from cascade.commands.figure_table import print_card, print_table, wide_console

    if plain["threads"] is not None:
        torch.set_num_threads(plain["threads"])
    plain["device"] = own_device(plain["device"], team.processes)
    given = written(HydraConfig.get().overrides.task)
    command = shell_line(
        "evaluate", {key: text for key, text in given.items() if key.split(".")[0] not in _WITHOUT_SAY}
    )
    with progress_bars(quiet=not team.processes.is_first) as bars:
        measured, report = evaluated(plain, out, team, bars, command)
    if not measured:
        return
    console = wide_console()
    for part in measured:
        print_table(console, part.figures, part.title)
        for line in part.lines:
            console.print(line, soft_wrap=True, highlight=False, markup=False)
    print_card(console, report)
    if plain["logger"]["wandb"]:
        to_wandb(plain["logger"], out, report)


def evaluated(
    plain: Mapping[str, Any], out: Path | None, team: Team, bars: Bars, command: str
) -> "tuple[list[Measured], dict[str, Any]]":
    """What all processes of the team measure together, and its report, which `out` keeps; the first alone has them.

    `command` is that of the report.
    """
    with team.together() as needed:
        if not needed:
            return [], {}
        agreed = kept_settings(out) if team.processes.is_first else team.hear()
        sides = Sides(plain, out, bars, team, precisions_of(agreed))
        opened = open_metrics(sides, features_of(plain, bars))
        settings = settings_of(sides)
        refuse_other(out, agreed, settings)
        if team.processes.is_first:
            agreed = keep_settings(out, agreed, settings)
            team.say(agreed)
        for wait in (False, True):  # for what others are at only when nothing else is left
            for work in sides.works.values():
                work.make(wait=wait)
        if not team.processes.is_first:
            return [], {}
        measured = [measure() for measure in opened]
        report = {"result": result_name(plain, measured), "command": command, **report_of(plain, measured)}
        if out is not None:
            keep_report(out / REPORT, report)
        return measured, report


def asked(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with what `protocol` and `report` say filled in; `report=NAME` is short for `metrics=[NAME]`."""
    report = plain["report"]
    if report is not None and report not in REPORTS:
        raise CascadeError(f"unknown report '{report}'; {suggest(str(report), REPORTS)}")
    return under_protocol({**plain, "metrics": plain["metrics"] if report is None else [report]})


@dataclass(frozen=True)
class Measured:
    """The figures of one metric, its part of the report, the title of its table and the lines below that."""

    figures: "Sequence[Figure]"
    report: Mapping[str, Any]
    title: str
    lines: "Sequence[str | Table]" = ()


Opened = Callable[[], Measured]
"""A metric whose pictures are open: a call measures them."""


def open_metrics(sides: Sides, choose: ChooseFeatures) -> list[Opened]:
    """Open the pictures of every metric that is asked for."""
    return [METRICS[metric](sides, choose) for metric in METRICS if metric in sides.plain["metrics"]]


def _distances(sides: Sides, choose: ChooseFeatures) -> Opened:
    """Open generated and real pictures and the features, and return what measures them."""
    from cascade.commands.figure_table import named
    from cascade.evaluation.features import BATCH

    plain, generated, features = sides.plain, sides.generated, choose()
    protocol, ranges = protocol_of(plain), plain["seed_ranges"]
    parts = ranges_of(generated, ranges)
    for part in parts:
        protocol.check_classes(part.classes, sides.class_names)
    reference = open_reference(sides, features)
    made = [sides.look(part, features, GENERATED) for part in parts]

    def measure() -> Measured:
        from cascade.evaluation.figures import over_ranges

        reference.save()
        found = [reference.figures(of_range) for of_range in made]
        figures, left_out = over_ranges([of_range for of_range, _ in found]), found[0][1]
        report = {
            "protocol": protocol.record(),
            "features": features_record(features),
            "left_out": left_out,
            "generated": {**generated.report(), "seed_ranges": ranges, "balance": balance(generated.classes)},
            "reference": reference.report(),
            "neighbours": plain["neighbours"],
            "features_batch": BATCH,
        }
        title = f"{named(generated.source)} against {named(report['reference'])}"
        return Measured(
            figures, report, title, [*left_out, *unreadable(generated.bad_files, "to evaluate"), *reference.skipped()]
        )

    return measure


def _judging(metric: str) -> Callable[[Sides, ChooseFeatures], Opened]:
    """What opens the cascade and real pictures, and returns what judges these."""

    def judge(sides: Sides, choose: ChooseFeatures) -> Opened:  # noqa: ARG001
        from cascade.commands.figure_table import named

        opened = BitsPerDim.open(sides, metric)
        works = opened.works(sides)

        def measure() -> Measured:
            figures, record = opened.measure(works)
            return Measured(figures, {metric: record}, f"{sides.plain['cascade']} on {named(record)}")

        return measure

    return judge


def _cas(sides: Sides, choose: ChooseFeatures) -> Opened:
    """Open samples, photographs and the features, and return what teaches classifiers on them."""
    from cascade.commands.cas import ClassificationScores

    opened = ClassificationScores.open(sides, choose())

    def measure() -> Measured:
        figures, record = opened.measure(sides.bars)
        return Measured(figures, {"cas": record}, opened.title(), unreadable(opened.samples.bad_files, "to evaluate"))

    return measure


def _floor(sides: Sides, choose: ChooseFeatures) -> Opened:
    """Open photographs of both splits and the features, and return what compares real with real."""
    from cascade.commands.photographs import Photographs

    opened, features = Photographs.open(sides, wanted=sides.plain["num_images"]), choose()
    looks = [sides.look(side, features, "photographs") for side in (opened.trained, opened.unseen)]

    def measure() -> Measured:
        figures, record, lines = opened.floor(features, *(look.measurement().features for look in looks))
        return Measured(figures, {"floor": record}, opened.title(), lines)

    return measure


def _memorisation(sides: Sides, choose: ChooseFeatures) -> Opened:
    """Open samples, photographs of both splits and the features, and return what looks for copies."""
    from cascade.commands.photographs import Photographs

    opened = Photographs.open(sides)
    seen, looks = opened.looks(sides, choose())

    def measure() -> Measured:
        figures, record = opened.memorisation(seen, looks)
        return Measured(figures, {"memorisation": record}, f"samples beside {opened.title()}")

    return measure


def _patches(sides: Sides, choose: ChooseFeatures) -> Opened:
    """Open generated and real pictures and the features, and return what compares their patches."""
    from cascade.commands.figure_table import named
    from cascade.evaluation.patches import patch_distances

    plain, generated, reference = sides.plain, sides.generated, sides.reference()
    check_patches(plain, sides.side)
    protocol_of(plain).check_classes(generated.classes, sides.class_names)
    features = patch_features(plain, choose().inner, max(generated.count, reference.count))
    looks = [
        sides.look(side, features, name, features.choice)
        for name, side in (("patches of real pictures", reference), ("patches to evaluate", generated))
    ]

    def measure() -> Measured:
        real, made = (look.measurement() for look in looks)
        found, left_out = patch_distances(
            made.features,
            real.features,
            features,
            pictures=generated.count,
            seed=plain["seed"],
            allow_few_images=plain["allow_few_images"],
        )
        report = {
            "protocol": protocol_of(plain).record(),
            "generated": {**generated.report(), "balance": balance(generated.classes)},
            "reference": {**reference.report(), "balance": balance(reference.classes)},
            "patches": {
                **plain["patches"],
                "of each picture": len(made.features) // generated.count,
                "features": features_record(features),
            },
        }
        title = f"patches of {named(generated.source)} against {named(reference.source)}"
        return Measured([with_rules(one.figure, generated, reference) for one in found], report, title, left_out)

    return measure


def _upscaling(sides: Sides, choose: ChooseFeatures) -> Opened:
    """Open a stage, photographs and the features, and return what compares the stage with bicubic."""
    opened = Upscaling.open(sides, choose().inner)

    def measure() -> Measured:
        figures, record, lines = opened.measure()
        return Measured(figures, {"upscaling": record}, opened.title(), lines)

    return measure


def _gap(sides: Sides, choose: ChooseFeatures) -> Opened:
    """Open all stages, photographs of every size and the features, and return what says where quality is lost."""
    from cascade.commands.gap import Gap

    opened = Gap.open(sides, choose())

    def measure() -> Measured:
        figures, record, lines = opened.measure()
        return Measured(figures, {"gap": record}, opened.title(), lines)

    return measure


PHOTOGRAPHS = {"floor": _floor, "memorisation": _memorisation}
METRICS = {
    "distances": _distances,
    "patches": _patches,
    "upscaling": _upscaling,
    **PHOTOGRAPHS,
    "cas": _cas,
    "gap": _gap,
    **{metric: _judging(metric) for metric in JUDGES},
}
REPORTS = ("gap",)


def check_evaluation(plain: Mapping[str, Any]) -> None:
    """Everything that can be said of the command line itself, before torch is imported."""
    if (plain["cascade"] is None) == (plain["images"] is None):
        raise CascadeError("give what to evaluate: either cascade=FOLDER or images=FOLDER")
    for metric in plain["metrics"]:
        if metric not in METRICS:
            raise CascadeError(f"unknown metric '{metric}'; {suggest(str(metric), METRICS)}")
    if not plain["metrics"]:
        raise CascadeError(f"metrics is empty: give one or more of {', '.join(METRICS)}")
    for metric in JUDGES:
        if metric in plain["metrics"]:
            check_bits_per_dim(plain, metric)
    for metric in PHOTOGRAPHS:
        if metric in plain["metrics"]:
            from cascade.commands.photographs import check_photographs

            check_photographs(plain, metric)
    if "cas" in plain["metrics"]:
        from cascade.commands.cas import check_cas

        check_cas(plain)
    if "gap" in plain["metrics"]:
        from cascade.commands.gap import check_gap

        check_gap(plain)
    if "patches" in plain["metrics"]:
        check_patches(plain)
    if "upscaling" in plain["metrics"]:
        check_upscaling(plain)
    check_sides(plain)
    if plain["neighbours"] < 1:
        raise CascadeError(f"neighbours={plain['neighbours']} must be at least 1")
    from cascade.data.listing import refuse_without_pictures
    from cascade.data.source import check_source

    check_statistics(plain)
    for key in ("images",) if is_statistics(plain["reference"]) else ("images", "reference"):
        folder = None if plain[key] is None else expanded(plain[key])
        if folder is not None and not folder.is_dir():
            raise CascadeError(f"{key}={folder} {'is a file' if folder.exists() else 'does not exist'}; give a folder")
        if folder is not None:
            refuse_without_pictures(folder)
    check_logger(plain["logger"])
    check_cascade(plain)
    if plain["reference"] is None:
        check_source(plain["data"])
    if plain["out"] is not None and expanded(plain["out"]).is_file():
        raise CascadeError(f"out={plain['out']} is a file; choose a folder")
    if plain["logger"]["wandb"] and plain["out"] is None:
        raise CascadeError("logger=wandb needs a place for its files: give out=FOLDER")
