"""What the reports of other commands say of a cascade, as parts of its model card in Markdown."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cascade.commands.candidate_rows import Row
from cascade.commands.figure_table import card_rows, counted, number, stage_rows
from cascade.commands.probe import start_in_words
from cascade.commands.tune_table import value_in_words
from cascade.commands.written import quoted_word
from cascade.trained_levels import noise_in_words

Report = Mapping[str, Any]


class Kind(NamedTuple):
    """The heading over all reports of a command, and what names and tells one of them."""

    heading: str
    name: Callable[[Report], str]
    lines: Callable[[Report], Iterator[str]]


def report_lines(reports: Sequence[Report]) -> Iterator[str]:
    """All of them, those of one command under one heading, each with the command that makes it again."""
    for made_by, kind in KINDS.items():
        own = [report for report in reports if report["made_by"] == made_by]
        if own:
            yield from ("", f"## {kind.heading}")
        for report in own:
            yield from ("", f"### {kind.name(report)}", "", *kind.lines(report))
            if "command" in report:  # older reports do not say
                yield from ("", "Made again by", "", *code(report["command"]))


def evaluation_lines(evaluation: Report) -> Iterator[str]:
    """The figures of a report of `cascade evaluate`, and what is said of them."""
    rows = [_figure(figure) for figure in evaluation["figures"]]
    yield from table(("figure", "value", "± error", "", "features", "N", "real N"), rows)
    said = [evaluation["gap"]["sentence"]] if "gap" in evaluation else []
    rules = dict.fromkeys(figure["resize"] for figure in evaluation["figures"])
    for line in (*said, *evaluation.get("left_out", ()), *(f"Resize rule: {rule}." for rule in rules)):
        yield from ("", line)


def _evaluation(evaluation: Report) -> Iterator[str]:
    """`evaluation_lines` under what was sampled, since it need not be the card's cascade, nor its settings."""
    rows = card_rows(evaluation) if "generated" in evaluation else []
    of = [(what, words) for what, words in rows if what == "pictures" or what.startswith("stage ")]
    for part in (evaluation.get("upscaling", {}), evaluation.get("cas", {}).get("samples", {})):
        if not of and "cascade" in part:
            of = [("cascade", str(part["cascade"])), *stage_rows(part["stages"])]
    yield from (*(f"- {what}: {words}" for what, words in of), *([""] if of else []))
    yield from evaluation_lines(evaluation)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table of Markdown.

    >>> list(table(("a", "b"), [("1", "2|3")]))
    ['| a | b |', '| --- | --- |', '| 1 | 2\\\\|3 |']
    """
    for cells in (heads, ["---"] * len(heads), *rows):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def code(command: str) -> Iterator[str]:
    """A command as a block, at most about a hundred letters a line.

    >>> list(code("cascade evaluate out=x"))
    ['```sh', 'cascade evaluate out=x', '```']
    """
    lines = [""]
    for word in map(quoted_word, shlex.split(command)):
        if lines[-1] and len(lines[-1]) + len(word) > 100:
            lines.append("  " + word)
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    yield from ("```sh", " \\\n".join(lines), "```")


def _figure(figure: Report) -> Sequence[str]:
    error, value = figure["standard_error"], figure["value"]
    return (
        figure["name"],
        number(value) if isinstance(value, int | float) else str(value),
        number(error) if isinstance(error, int | float) else "",
        figure["unit"],
        figure["features"] or "pixels",
        counted(figure["num_images"], figure["patches"]),
        counted(figure["num_reference"], figure["patches"]),
    )


def _candidates(report: Report) -> Iterator[str]:
    rows = sorted((Row.from_json(row) for row in report["candidates"] if "loss" in row), key=lambda row: row.loss)
    same = set.intersection(*(set(row.settings.items()) for row in rows)) if rows else set()
    heads = ("candidate", "its own settings", "loss", "more than the best", "images", "parameters", "GFLOP a crop",
             "s a picture")  # fmt: skip
    yield from table(heads, [_candidate(row, rows[0], same) for row in rows])
    minutes, pictures = f"{report['minutes']:g} minutes of a processor for each", report["judge"]["pictures"]
    yield from ("", f"{minutes}, judged by one loss on {pictures} validation pictures. All of them: {_settings(same)}.")
    for row in report["candidates"]:
        if "reason" in row:
            yield from ("", f"{row['label']} failed: {row['reason']}")


def _candidate(row: Row, best: Row, same: set[tuple[str, str]]) -> Sequence[str]:
    more, error = row.beyond(best)
    return (
        row.label,
        _settings(set(row.settings.items()) - same),
        number(row.loss),
        "" if row is best else f"{number(more)} ± {number(error)}",
        f"{row.images_seen:,}",
        f"{row.parameters / 1e6:.2f} M",
        f"{row.flop / 1e9:.2f}",
        _seconds(row.seconds),
    )


def _settings(settings: set[tuple[str, str]]) -> str:
    return f"`{' '.join(f'{key}={value}' for key, value in sorted(settings))}`" if settings else "nothing"


def _steps(report: Report) -> Iterator[str]:
    heads = ("sampler", "steps", report["distance"], "± error", "detail", "s a picture")
    yield from table(heads, [_point(point) for point in report["points"]])
    cheapest = report["cheapest_as_good_as_the_best"]
    best = f"{cheapest['sampler']} in {cheapest['steps']} steps"
    of = f"Of {report['num_images']} pictures" + ", photographs that were made small," * ("photographs" in report)
    against = f"against {report['reference']['count']} real ones ({report['features']['resize']})"
    yield from ("", f"{of} {against}. The cheapest that the best does not beat by two standard errors: {best}.")


def _point(point: Report) -> Sequence[str]:
    return (
        str(point["varied"]["sampler"]),
        str(point["varied"]["steps"]),
        number(point["distance"]),
        number(point["standard_error"]),
        f"{point['detail']:.2f}",
        _seconds(point["seconds"]),
    )


def _probe(report: Report) -> Iterator[str]:
    rows = [
        (f"{float(level['levels_of_255']):.3g}", str(level["aug_log_snr"]), number(level["auc"]),
         number(level["standard_error"]), "yes" if level["told_apart"] else "no")
        for level in report["levels"]
    ]  # fmt: skip
    yield from table(("levels of 255", "λ", "AUC", "± error", "told apart"), rows)
    start = None if report["start"] is None else float(report["start"])
    found = start_in_words(start, [level["told_apart"] for level in report["levels"]])
    found = found[0].upper() + found[1:]
    now = noise_in_words(float(report["in_the_cascade"]))
    pictures = f"{report['num_images']} generated low-res pictures beside as many photographs made as small"
    yield from ("", f"{found}; the cascade has {now}. A linear probe, {report['features']['name']}, {pictures}.")


def _tune(report: Report) -> Iterator[str]:
    heads = ("setting", "value", "chosen by", "confirmed by", "gain", "± error", "detail", "s a picture")
    rows, said = [], []
    for one in report["rounds"]:
        for judged in sorted([one["present"], *one["tried"]], key=lambda judged: float(judged["value"])):
            rows.append(_tried(one, judged, now=judged is one["present"]))
        said.append(f"{one['over']}: {one['why']}.")
    yield from table(heads, rows)
    yield from ("", " ".join(said) + f" By {report['num_images']} pictures of each value, half of which choose.")


def _tried(one: Report, judged: Report, *, now: bool) -> Sequence[str]:
    distance, gain = judged["distance"], judged["gain"]["confirming"]
    marks = " (now)" * now + " (best)" * (one["best"] == judged["value"])
    return (
        one["over"],
        value_in_words(one["over"], float(judged["value"])) + marks,
        number(distance["choosing"]["value"]),
        number(distance["confirming"]["value"]),
        "" if now else number(gain["value"]),
        "" if now else number(gain["standard_error"]),
        f"{judged['detail']:.2f}",
        _seconds(judged["seconds"]),
    )


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.3g}"


def _stage(report: Report) -> str:
    return str(report["stage"])


KINDS: Mapping[str, Kind] = {
    "cascade candidates": Kind("Networks that were tried", _stage, _candidates),
    "cascade evaluate": Kind("Further measurements", lambda report: str(report["result"]), _evaluation),
    "cascade probe": Kind("Noise that hides what a stage before has made wrong", _stage, _probe),
    "cascade tune": Kind("Settings that were tried", _stage, _tune),
    "cascade steps": Kind("Quality against steps and seconds", _stage, _steps),
}
"""By the command that makes a report."""
