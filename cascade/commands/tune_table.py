"""What `cascade tune` prints: a table for each setting, what was found, and the jobs that failed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cascade.commands.figure_table import number, wide_console
from cascade.commands.tune_choice import Judged, gain
from cascade.commands.tune_jobs import Plain
from cascade.commands.tune_points import Values
from cascade.trained_levels import noise_in_words

if TYPE_CHECKING:
    from rich.table import Table

    from cascade.commands.tune import Round
    from cascade.commands.tune_judge import Judge
    from cascade.evaluation.jackknife import Estimate


def value_in_words(key: str, value: float) -> str:
    """A value of what is tuned for a person.

    >>> value_in_words("aug_level", 8.0), value_in_words("steps", 1), value_in_words("guidance_scale", 1.5)
    ('noise of 2.3 levels of 255 (λ = 8)', '1 step', 'guidance 1.5')
    """
    if key == "aug_level":
        return noise_in_words(value)
    return f"{value:g} step{'s' * (value != 1)}" if key == "steps" else f"guidance {value:g}"


def title_of(plain: Plain, judge: "Judge") -> str:
    """What table and figure are of."""
    return (
        f"{plain['stage']} of {plain['cascade']}: {plain['num_images']} pictures of each value against "
        f"{judge.real.count} photographs"
    )


def print_rounds(rounds: "Sequence[Round]", found: Values, name: str, title: str, *, written: bool) -> None:
    """Print everything; `name` is that of the distance."""
    console = wide_console()
    tell = lambda line: console.print(line, soft_wrap=True, highlight=False, markup=False)  # noqa: E731
    tell(title)
    for one in rounds:
        console.print(_table(one, name))
        best = one.choice.best
        words = "" if best is None else f"{value_in_words(one.key, best.value)} is "
        tell(f"{one.key}: {words}{one.choice.why} (now: {value_in_words(one.key, one.present.value)})")
        for value, reason in one.failed.items():
            tell(f"{value_in_words(one.key, value)} failed: {reason}")
    if not found:
        tell("no gain: the cascade stays as it is")
    else:
        values = ", ".join(value_in_words(key, value) for key, value in found.items())
        tell(f"found: {values}" + ("; recorded in cascade.yaml" if written else "; write=true records it"))


def _table(one: "Round", name: str) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(one.key), title_justify="left")
    for heading, justify in (
        ("value", "left"), (f"{name}, half that chooses", "right"), ("gain", "right"), ("other half", "right"),
        ("gain", "right"), ("precision", "right"), ("recall", "right"), ("detail", "right"), ("s a picture", "right"),
        ("", "left"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify, no_wrap=heading == "value")
    for judged in sorted([one.present, *one.judged], key=lambda judged: judged.value):
        table.add_row(*(Text(cell) for cell in _cells(one, judged)))
    return table


def _cells(one: "Round", judged: Judged) -> tuple[str, ...]:
    of_present = judged is one.present
    gains = ["" if of_present else _with_error(gain(judged, one.present, half)) for half in ("choosing", "confirming")]
    return (
        value_in_words(one.key, judged.value),
        _with_error(judged.choosing),
        gains[0],
        _with_error(judged.confirming),
        gains[1],
        *("" if share is None else f"{share:.3f}" for share in (judged.precision, judged.recall)),
        f"{judged.detail:.2f}",
        "" if judged.seconds is None else f"{judged.seconds:.3g}",
        "now" * of_present + "best" * (judged is one.choice.best),
    )


def _with_error(estimate: "Estimate") -> str:
    return f"{number(estimate.value)} ± {number(estimate.standard_error)}"
