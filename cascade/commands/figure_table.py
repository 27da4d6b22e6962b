"""The figures of an evaluation as a table in the terminal."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cascade.trained_levels import noise_in_words

if TYPE_CHECKING:
    from rich.console import Console

    from cascade.evaluation.figures import Figure

_COLUMNS = (
    ("figure", "left"), ("value", "right"), ("± error", "right"), ("", "left"), ("features", "left"),
    ("N", "right"), ("real N", "right"), ("resize rule", "left"),
)  # fmt: skip


def wide_console() -> "Console":
    """The terminal; where there is none (a log, a pipe), nothing is cut to 80 columns."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=180)


def print_table(console: "Console", figures: "Sequence[Figure]", title: str) -> None:
    """Print a row for each figure, with all that it carries."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    spread = any(figure.spread is not None for figure in figures)
    for heading, justify in (*_COLUMNS, *([("spread", "right")] if spread else [])):
        table.add_column(heading, justify=justify)
    for figure in figures:
        cells = (
            figure.name,
            number(figure.value),
            "" if figure.standard_error is None else number(figure.standard_error),
            figure.unit,
            figure.features or "pixels",
            counted(figure.num_images, figure.patches),
            counted(figure.num_reference, figure.patches),
            figure.resize,
        )
        of_ranges = [] if figure.spread is None else [number(figure.spread)]
        table.add_row(*(Text(cell) for cell in (*cells, *of_ranges)))
    console.print(table)


def print_card(console: "Console", report: Mapping[str, Any]) -> None:
    """Print what repeats the figures of a comparison: protocol, features, both sides, stages, versions."""
    from rich.table import Table
    from rich.text import Text

    if "generated" not in report:
        return
    table = Table(title=Text("what repeats them"), title_justify="left", show_header=False)
    for what, words in card_rows(report):
        table.add_row(Text(what), Text(words))
    console.print(table)


def card_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The same as pairs of words, hashes cut to 12 digits; the report has them whole."""
    protocol, features = report["protocol"], report.get("features") or report["patches"]["features"]
    balanced = ", every class equally often" if protocol["balanced"] else ""
    count = report["generated"]["count"] // report["generated"].get("seed_ranges", 1)
    other = protocol["name"] != "own" and count != protocol["num_images"]
    fewer = f", but of {count} pictures and not of {protocol['num_images']}" if other else ""
    return [
        ("protocol", f"{protocol['name']}: {protocol['resize'] or 'resized as the features do'}{balanced}{fewer}"),
        ("features", f"{features['name']}, {features['dim']} dimensions, sha256 {features['sha256'][:12]}"),
        ("pictures", _side(report["generated"])),
        *stage_rows(report["generated"].get("stages", ())),
        ("real pictures", _side(report["reference"])),
        ("versions", ", ".join(f"{name} {number}" for name, number in report["versions"].items())),
    ]


def stage_rows(stages: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """How each stage is sampled, as pairs of words, of its records."""
    return [
        (
            f"stage {stage['stage']}",
            f"{stage['sampler']['name']}, {stage['steps']} steps, guidance {guidance_in_words(stage['guidance'])}, "
            f"{_noise(stage['aug_log_snr'])}{stage['precision']}, sha256 {stage['sha256'][:12]}",
        )
        for stage in stages
    ]


def _side(side: Mapping[str, Any]) -> str:
    """One side of a comparison: where it comes from, how many, of which classes, seeds and fingerprint."""
    balance, seeds = side["balance"], side.get("seeds")
    count = "an unknown number of" if side["count"] is None else side["count"]
    each = (
        f"{balance['fewest']}" if balance["fewest"] == balance["most"] else f"{balance['fewest']} to {balance['most']}"
    )
    words = [named(side), f"{count} pictures"]
    if balance["classes"]:
        words.append(f"{each} of each of {balance['classes']} classes")
    if seeds is not None:
        ranges = side.get("seed_ranges", 1)
        last = seeds["first_seed"] + seeds["count"] - 1
        words.append(f"seeds {seeds['first_seed']} to {last}" + (f" in {ranges} ranges" if ranges > 1 else ""))
    if "fingerprint" in side:
        words.append(f"fingerprint {side['fingerprint'][:12]}")
    return ", ".join(words)


def _noise(level: float | str | None) -> str:
    return "" if level is None else f"{noise_in_words(level)} on its input, "


def guidance_in_words(guidance: Mapping[str, Any]) -> str:
    """A guidance, its scale, and what is guided inside of it.

    >>> guidance_in_words({"name": "interval", "lo": -2.0, "guided": {"name": "classifier_free", "scale": 2.0}})
    'interval (classifier_free 2)'
    """
    scale = guidance.get("scale", guidance.get("classifier_scale"))
    own = guidance["name"] if scale is None else f"{guidance['name']} {scale:g}"
    return f"{own} ({guidance_in_words(guidance['guided'])})" if "guided" in guidance else own


def counted(pictures: int | None, patches: int | None) -> str:
    """How many pictures a figure is of, and of how many patches of each.

    >>> counted(32, 64), counted(32, None), counted(None, None)
    ('32 × 64', '32', '')
    """
    words = "" if pictures is None else str(pictures)
    return words if patches is None else f"{words} × {patches}"


def number(value: float) -> str:
    """Four decimals, but for small numbers, of which they would show nothing.

    >>> number(12.34567), number(0.00123)
    ('12.3457', '1.2e-03')
    """
    return f"{value:.1e}" if 0 < abs(value) < 0.01 else f"{value:.4f}"


def named(source: Mapping[str, Any]) -> str:
    """One side of a comparison in a few words, from its entry in the report."""
    if "statistics" in source:
        return str(source["statistics"])
    if "data" in source:
        return f"data={source['data']['name']} ({source['data']['split']}, {source['side']} px)"
    if "folder" in source:
        return f"{source['folder']} ({source['side']} px)"
    return f"{source['cascade']} ({source['stages'][-1]['stage']})"
