"""`cascade candidates`: the table by which the network of a stage is chosen, made again by one command."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade import __version__
from cascade.commands.candidate_rows import Candidate, Failed, Row
from cascade.commands.reports import check_out, write_report
from cascade.commands.written import shell_line, written
from cascade.errors import CascadeError, suggest
from cascade.files import expanded, write_whole
from cascade.lock import exclusive

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from cascade.evaluation.denoising_error import DenoisingError
    from cascade.progress import Bars

REPORT, FIGURE = "candidates.json", "candidates.png"
_MADE_BY = "cascade candidates"
_OWN = ("out", "minutes", "only", "num_validation", "levels", "candidates")
_RUNS = ("name", "runs", "fresh", "trainer.max_cpu_minutes")


def run(config: "DictConfig") -> None:
    """Train and judge what is missing; write table, figure and report. See `conf/candidates.yaml`."""
    from hydra.core.hydra_config import HydraConfig

    from cascade.commands.configuration import plain_config

    plain: dict[str, Any] = plain_config(config)
    out = expanded(plain["out"])
    given = written(HydraConfig.get().overrides.task)
    candidates = _checked(plain, out, given)

    from cascade.commands.candidates_figure import draw_candidates
    from cascade.commands.figure_table import wide_console
    from cascade.commands.plan_measure import busy
    from cascade.progress import progress_bars

    rows: list[Row | Failed] = []
    with exclusive(out), progress_bars() as bars:
        judge, common = _judge(plain, bars)
        if warning := busy():
            bars.console.print(warning.removeprefix("; "), soft_wrap=True, highlight=False, markup=False)
        for number, candidate in enumerate(candidates):
            bars.at("candidates", number, len(candidates))
            rows.append(candidate.row(judge, common, bars))
        bars.at("candidates", len(candidates), len(candidates))
        report = {
            "made_by": _MADE_BY,
            "command": shell_line("candidates", given),
            "stage": plain["stage"]["name"],
            "minutes": plain["minutes"],
            **common,
            "candidates": [row.to_json() for row in rows],
            "version": __version__,
        }
        write_report(out / REPORT, report)
        ranked = sorted((row for row in rows if isinstance(row, Row)), key=lambda row: row.loss)
        title = f"{plain['stage']['name']}: {plain['minutes']:g} CPU minutes each, {judge.count} validation pictures"
        if ranked:
            write_whole(out / FIGURE, draw_candidates(ranked, title))
    console = wide_console()
    if ranked:
        console.print(_table(ranked, title))
    for row in rows:
        if isinstance(row, Failed):
            console.print(f"{row.label} failed: {row.reason}", soft_wrap=True, highlight=False, markup=False)
    print(f"{out / FIGURE}\n{out / REPORT}" if ranked else out / REPORT)


def _checked(plain: Mapping[str, Any], out: Path, asked: Mapping[str, str]) -> list[Candidate]:
    """The candidates; everything that can be said of the command line without torch."""
    from cascade.data.source import check_source

    stage, listed = plain["stage"], plain["candidates"]["of"]
    for key in ("num_validation", "levels"):
        if plain[key] < 1:
            raise CascadeError(f"{key}={plain[key]} must be at least 1")
    if not plain["minutes"] > 0:
        raise CascadeError(f"minutes={plain['minutes']} must be above 0")
    only = plain["only"]
    wanted = list(listed) if only is None else [only] if isinstance(only, str) else list(only)
    if not wanted or len(set(wanted)) < len(wanted):
        raise CascadeError(f"only={only}: name one or more, each once")
    for label in wanted:
        if label not in listed:
            raise CascadeError(f"unknown candidate '{label}'; {suggest(str(label), listed)}")
    check_source(plain["data"], stage["resolution"], ["train", "val"])
    given = {key: text for key, text in asked.items() if key.split(".")[0] not in _OWN}
    if taken := [key for key in _RUNS if key in given]:
        raise CascadeError(f"{taken[0]} is this command's to choose: the runs lie in out, for so many minutes=")
    each = _settings("each", plain["candidates"]["each"])
    candidates = []
    for label in wanted:
        own = _settings(f"of.{label}", listed[label])
        if varied := [key for key in own if key in given]:
            raise CascadeError(f"{varied[0]} is what varies here: candidate '{label}' has {varied[0]}={own[varied[0]]}")
        candidates.append(Candidate(label, {**each, **given, **own}, out, plain["minutes"]))
    check_out(out, REPORT, _MADE_BY, [FIGURE])
    return candidates


def _settings(key: str, line: str) -> dict[str, str]:
    """key=value words as a mapping."""
    try:
        words = shlex.split(line)
    except ValueError as error:  # a quotation without its end
        raise CascadeError(f"candidates.{key}={line}: {error}") from None
    for word in words:
        if "=" not in word:
            raise CascadeError(f"a candidate is written as key=value words of 'cascade train', which '{word}' is not")
    return {key: value for key, _, value in (word.partition("=") for word in words)}


def _judge(plain: Mapping[str, Any], bars: "Bars") -> "tuple[DenoisingError, dict[str, Any]]":
    """The loss that is common to all: the stage's own noise and weighting; and what it is in words."""
    from cascade.data.source import open_dataset
    from cascade.data.views import EvaluationView
    from cascade.evaluation.denoising_error import DenoisingError
    from cascade.registry import build

    stage = plain["stage"]
    side, low = stage["resolution"], stage["low_resolution"]
    dataset = open_dataset(plain["data"], side, "val", lambda done, total: bars.at("validation pictures", done, total))
    view = EvaluationView(
        dataset,
        factor=None if low is None else side // low,
        crop=stage["crop"],
        condition=build("condition", plain["condition"]),
    )
    noise = build("noise", plain["noise"])
    augmentation = None if low is None else build("augmentation", plain["augmentation"])
    level = stage["aug_log_snr"]
    if augmentation is not None and level is None:
        level = augmentation.default
    judge = DenoisingError(
        view,
        noise,
        build("weighting", plain["weighting"], noise=noise),
        count=min(plain["num_validation"], len(view)),
        levels=plain["levels"],
        augmentation=augmentation,
        aug_log_snr=level,
        labelled=bool(stage["labelled"] and dataset.class_names),
    )
    said = {
        "noise": plain["noise"],
        "weighting": plain["weighting"],
        "aug_log_snr": None if level is None else str(level),
        "crop": view.crop,
        "pictures": judge.count,
        "levels": judge.levels,
        "fingerprint": dataset.fingerprint,
    }
    return judge, {"judge": json.loads(json.dumps(said))}


def _table(ranked: Sequence[Row], title: str) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    for heading, justify in (
        ("candidate", "left"), ("loss", "right"), ("more than the best", "right"), ("noisy, middle, clean λ", "right"),
        ("CPU min", "right"),
        ("images", "right"), ("a CPU s", "right"), ("parameters", "right"), ("GFLOP a crop", "right"),
        ("s to sample", "right"), ("load", "right"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify)
    for row in ranked:
        more, error = row.beyond(ranked[0])
        cells = (
            row.label, f"{row.loss:.4f}", "" if row is ranked[0] else f"{more:.4f} ± {error:.4f}",
            ", ".join(f"{third:.3g}" for third in row.thirds),
            f"{row.cpu_seconds / 60:.1f}", str(row.images_seen), f"{row.images_seen / row.cpu_seconds:.1f}",
            f"{row.parameters / 1e6:.2f} M", f"{row.flop / 1e9:.2f}", f"{row.seconds:.3g}", f"{row.load:.1f}",
        )  # fmt: skip
        table.add_row(*(Text(cell) for cell in cells))
    return table
