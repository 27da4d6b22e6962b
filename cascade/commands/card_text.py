"""The model card as Markdown, of its report."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cascade.commands.card_reports import code, evaluation_lines, report_lines, table
from cascade.commands.figure_table import guidance_in_words, number
from cascade.trained_levels import noise_in_words

_EVIDENCE = {"before", "now", "gain", "judged_by", "command"}


def card_text(report: Mapping[str, Any]) -> str:
    """Return the text of `card.md`."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    yield f"# Model card of {report['cascade']}"
    yield from ("", f"Made by `cascade card` of version {report['version']}; `card.json` holds the same, whole.")
    yield from ("", "## Recipe", "")
    yield from table(
        ("stage", "from → to", "network", "predicts", "parameters", "size", "images seen", "sampler", "classes"),
        [cells for row in report["recipe"] for cells in (_stage(row), *map(_guide, row["guides"]))],
    )
    if report["about"] is not None:
        yield from ("", "## Data and licences", "", report["about"])
    if report["curves"]:
        yield from ("", "## Training", "")
        yield from table(
            ("stage", "images seen", "hours of a processor", "lowest validation loss"),
            [_curve(curve) for curve in report["curves"]],
        )
        yield from ("", "![loss over images seen, a panel for each stage](curves.png)")
    for name, evaluation in report["evaluations"].items():
        yield from ("", f"## Measured after {name}", "")
        yield from evaluation_lines(evaluation)
        if "memorisation" in evaluation:
            sheet = f"neighbours-{_side(report, name)}.png"
            yield from ("", f"![the samples that lie nearest to a training picture, above it]({sheet})")
        yield from ("", "Made again by", "", *code(evaluation["command"]))
    if rows := list(_tuned(report.get("tuned", {}))):
        yield from ("", "## Tuned settings", "")
        yield from table(("stage", "setting", "before", "now", "gain", "± error", "judged by", "made again by"), rows)
        line = "The gain is that of pictures and photographs which had no say in the choice."
        yield from ("", f"{line} Augmentation levels are log-SNRs.")
    yield from report_lines(report["reports"])
    if report["limits"] is not None:
        yield from ("", "## Limits", "", report["limits"])


def _side(report: Mapping[str, Any], name: str) -> int:
    return int(next(row["resolution"] for row in report["recipe"] if row["name"] == name))


def _stage(row: Mapping[str, Any]) -> Sequence[str]:
    low = row["low_resolution"]
    return (
        row["name"],
        f"{'noise' if low is None else low} → {row['resolution']} px",
        row["network"]["name"],
        row["preconditioning"]["name"],
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['bytes'] / 1e6:.1f} MB",
        f"{row['images_seen']:,}",
        _sampler(row),
        str(len(row["class_names"])) if row["class_names"] else "none",
    )


def _sampler(row: Mapping[str, Any]) -> str:
    distilled = row.get("distilled")
    steps = f"distilled to {distilled['steps']}" if distilled else row["steps"]
    words = [f"{row['sampler']['name']}, {steps} steps"]
    words += [f"guidance {guidance_in_words(row['guidance'])}"] * (row["guidance"]["name"] != "none")
    return ", ".join([*words, *([noise_in_words(row["aug_log_snr"])] if row["aug_log_snr"] is not None else [])])


def _guide(guide: Mapping[str, Any]) -> Sequence[str]:
    size = f"{guide['parameters'] / 1e6:.2f} M", f"{guide['bytes'] / 1e6:.1f} MB", f"{guide['images_seen']:,}"
    return (guide["name"], "guides it", guide["network"]["name"], "", *size, "", "")


def _curve(curve: Mapping[str, Any]) -> Sequence[str]:
    best, hours = curve["best_validation_loss"], curve["cpu_hours"]
    return (
        curve["stage"],
        f"{curve['images_seen']:,}",
        "not counted" if hours is None else f"{hours:.1f}",
        "" if best is None else number(best),
    )


def _tuned(tuned: Mapping[str, Mapping[str, Any]]) -> Iterator[Sequence[str]]:
    """What `cascade tune` has recorded; what somebody wrote by hand is left out."""
    for stage, settings in tuned.items():
        for setting, found in settings.items():
            if not (isinstance(found, Mapping) and found.keys() >= _EVIDENCE):
                continue
            gain, judges = found["gain"]["confirming"], found["judged_by"]
            by = f"{judges['distance']}, {judges['pictures']} pictures, {judges['photographs']} photographs"
            now = str(found["now"])
            if "levels_of_255" in found:
                now += f" ({found['levels_of_255']:g} levels of 255)"
            numbers = (number(gain["value"]), number(gain["standard_error"]))
            yield stage, setting, str(found["before"]), now, *numbers, by, f"`{found['command']}`"
