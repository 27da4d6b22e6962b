"""The table of the gap of a cascade, and the losses of its stages as figures."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cascade.commands.figure_table import number
from cascade.commands.gap_compared import KINDS

if TYPE_CHECKING:
    from rich.table import Table

    from cascade.commands.gap_compared import Compared
    from cascade.evaluation.figures import Figure
    from cascade.evaluation.gap import StageGap

_WAYS = [kind for kind in KINDS if kind != "reference"]


def gap_table(stages: "Sequence[Compared]", found: "Sequence[Mapping[str, Sequence[Figure]]]") -> "Table":
    """A row for each metric of each stage, and a column for each way."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for heading, justify in (
        ("stage", "left"), ("metric", "left"), *((KINDS[way], "right") for way in _WAYS), ("", "left"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify)
    for stage, of_ways in zip(stages, found, strict=True):
        names = list(dict.fromkeys(figure.name for figures in of_ways.values() for figure in figures))
        for place, name in enumerate(names):
            by_way = {way: figure for way, figures in of_ways.items() for figure in figures if figure.name == name}
            unit = next(iter(by_way.values())).unit
            cells = [_cell(by_way.get(way)) for way in _WAYS]
            first = stage.name if place == 0 else ""
            table.add_row(*(Text(cell) for cell in (first, name, *cells, unit)), end_section=place == len(names) - 1)
    return table


def loss_figures(stages: "Sequence[Compared]", gaps: "Sequence[StageGap]") -> "list[Figure]":
    """What each stage loses, as a figure."""
    from cascade.evaluation.figures import Figure
    from cascade.evaluation.gap import UNIT

    return [
        Figure(
            f"{stage.name}: loss of {stage.view.of}",
            gap.loss.value,
            standard_error=gap.loss.standard_error,
            unit=UNIT,
            num_images=stage.looks["chained"].pictures.count,
            num_reference=stage.looks["reference"].pictures.count,
            resize=stage.view.own.resize,
            features=stage.view.own.name,
            sha256=stage.view.own.sha256,
        )
        for stage, gap in zip(stages, gaps, strict=True)
    ]


def _cell(figure: "Figure | None") -> str:
    if figure is None:
        return ""
    error = "" if figure.standard_error is None else f" ± {number(figure.standard_error)}"
    return f"{number(figure.value)}{error}"
