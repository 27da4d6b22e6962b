"""The figures of an evaluation as a table in the terminal."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
    for heading, justify in _COLUMNS:
        table.add_column(heading, justify=justify)
    for figure in figures:
        cells = (
            figure.name,
            number(figure.value),
            "" if figure.standard_error is None else number(figure.standard_error),
            figure.unit,
            figure.features or "pixels",
            str(figure.num_images),
            "" if figure.num_reference is None else str(figure.num_reference),
            figure.resize,
        )
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


def number(value: float) -> str:
    """Four decimals, but for small numbers, of which they would show nothing.

    >>> number(12.34567), number(0.00123)
    ('12.3457', '1.2e-03')
    """
    return f"{value:.1e}" if 0 < abs(value) < 0.01 else f"{value:.4f}"


def named(source: Mapping[str, Any]) -> str:
    """One side of a comparison in a few words, from its entry in the report."""
    if "data" in source:
        return f"data={source['data']['name']} ({source['data']['split']}, {source['side']} px)"
    if "folder" in source:
        return f"{source['folder']} ({source['side']} px)"
    return f"{source['cascade']} ({source['stages'][-1]['stage']})"
