"""Long work shows its count, its rate and the time left: as bars on a terminal, as lines at a slow rhythm elsewhere."""

import io
import re
from dataclasses import dataclass

import pytest
from rich.console import Console

from cascade.progress import FIRST_LINE, NEXT_LINES, Bars


@dataclass
class Clock:
    """Goes when it is told to."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def bars(terminal: bool) -> tuple[Bars, Clock, io.StringIO]:
    file, clock = io.StringIO(), Clock()
    console = Console(file=file, force_terminal=terminal, width=150, no_color=True, legacy_windows=False)
    return Bars(console, "steps", clock), clock, file


def frames(text: str) -> list[str]:
    """What was drawn, without the movements of the cursor."""
    return [line.strip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", text).splitlines() if line.strip()]


def test_without_a_terminal_lines_come_at_their_rhythm_and_tell_rate_and_time_left() -> None:
    shown, clock, file = bars(terminal=False)
    for step in range(101):
        shown.at("base64", step, 100, note=f"loss {step / 100:.2f}")
        clock.now += 1.0
    shown.close()
    lines = file.getvalue().splitlines()
    assert lines[0] == "base64: 10/100 steps, 1.0 steps/s, loss 0.10, 0:01:30 left"
    steps = [int(re.search(r"(\d+)/100", line)[1]) for line in lines]
    first, second, *_ = (int(seconds) for seconds in (FIRST_LINE, FIRST_LINE + NEXT_LINES))
    assert steps == [first, second, second + int(NEXT_LINES), 100]


def test_what_is_done_before_the_first_line_is_due_needs_none() -> None:
    shown, clock, file = bars(terminal=False)
    for step in range(10):
        shown.at("validation", step + 1, 10)
        clock.now += 0.5
    assert file.getvalue() == ""


def test_the_rate_of_what_goes_on_counts_what_is_done_now() -> None:
    shown, clock, file = bars(terminal=False)
    shown.at("base64", 5000, 6000)
    clock.now += 20
    shown.at("base64", 5010, 6000)
    assert file.getvalue() == "base64: 5010/6000 steps, 0.5 steps/s, 0:33:00 left\n"


def test_on_a_terminal_bars_are_drawn_and_taken_away() -> None:
    shown, clock, file = bars(terminal=True)
    shown.at("base64", 0, 100)
    clock.now += 10
    shown.at("base64", 20, 100, note="loss 0.25")
    shown.at("validation", 0, 4, "pictures")
    clock.now += 1
    shown.at("validation", 2, 4, "pictures")
    both = frames(file.getvalue())
    assert any(re.search(r"base64 ━.*20/100 steps 2\.0 steps/s loss 0\.25 0:00:40 left", line) for line in both)
    assert any(re.search(r"validation ━.*2/4 pictures 2\.0 pictures/s +0:00:01 left", line) for line in both)
    shown.end("validation")
    before = len(file.getvalue())
    clock.now += 1
    shown.at("base64", 21, 100)
    assert "base64" in file.getvalue()[before:]
    assert "validation" not in file.getvalue()[before:]
    shown.close()


def test_a_fast_loop_does_not_draw_at_every_turn() -> None:
    shown, clock, file = bars(terminal=True)
    for step in range(1001):
        shown.at("base64", step, 1000)
        clock.now += 0.001
    assert len([line for line in frames(file.getvalue()) if line.startswith("base64")]) < 20


@pytest.mark.parametrize("terminal", [True, False])
def test_names_with_brackets_are_shown_as_they_are(terminal) -> None:
    shown, clock, file = bars(terminal)
    shown.at("[red]x", 0, 2)
    clock.now += 60
    shown.at("[red]x", 1, 2)
    shown.close()
    assert any(line.startswith("[red]x") for line in frames(file.getvalue()))


def test_nothing_is_written_where_nothing_was_told() -> None:
    shown, _, file = bars(terminal=True)
    shown.end("validation")
    shown.close()
    assert file.getvalue() == ""
