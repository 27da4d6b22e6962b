"""How far long work has come, on stderr: bars on a terminal, and elsewhere a line now and then."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

FIRST_LINE, NEXT_LINES = 10.0, 30.0
"""Without a terminal: seconds to the first line, and from one to the next."""

_REFRESH = 0.1


@dataclass
class _Work:
    """Something that is under way, since when and from where on."""

    began: float
    first: int
    bar: "TaskID | None" = None
    told: bool = False


@dataclass
class Bars:
    """Count, rate and time left of whatever `at` is told of, on `console`; what is printed there stands above.

    The rate is that since the work was first told of, and so does not count what was done before.
    """

    console: "Console"
    unit: str = ""
    clock: Callable[[], float] = time.monotonic
    _works: dict[str, _Work] = field(default_factory=dict)
    _bars: "Progress | None" = None
    _last: float = 0.0
    _wait: float = FIRST_LINE

    def __post_init__(self) -> None:
        self._last = self.clock()

    def at(self, name: str, done: int, total: int, unit: str | None = None, note: str = "") -> None:
        """Say that `done` of `total` is done; the first time for a `name`, it begins there. `note`: words beside it."""
        if self.console.quiet:
            return
        now = self.clock()
        work = self._works.setdefault(name, _Work(now, done))
        seconds = now - work.began
        rate = (done - work.first) / seconds if seconds > 0 else 0.0
        left = "" if rate <= 0 else f"{_duration((total - done) / rate)} left"
        unit = self.unit if unit is None else unit
        fields = {
            "count": f"{done}/{total}" + f" {unit}" * bool(unit),
            "rate": _rate(rate, unit or "") if rate > 0 else "",
            "note": note,
            "left": left,
        }
        if self.console.is_terminal:
            self._show(name, work, now, done=done, total=total, fields=fields)
        elif now - self._last >= self._wait or (done >= total and work.told):
            self._last, self._wait, work.told = now, NEXT_LINES, done < total
            line = f"{name}: {', '.join(text for text in fields.values() if text)}"
            self.console.print(line, soft_wrap=True, highlight=False, markup=False)

    def end(self, name: str) -> None:
        """Take the bar away: of work that comes again and again, only what is under way is shown."""
        work = self._works.pop(name, None)
        if work is not None and work.bar is not None and self._bars is not None:
            self._bars.remove_task(work.bar)
            self._bars.refresh()

    def close(self) -> None:
        """Leave the bars as they are."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        self._works.clear()

    def _show(self, name: str, work: _Work, now: float, *, done: int, total: int, fields: dict[str, str]) -> None:
        if self._bars is None:
            self._bars = _columns(self.console)
            self._bars.start()
        new = work.bar is None
        if work.bar is None:
            work.bar = self._bars.add_task(name, total=total, **fields)
        # Refreshed here and not by rich's thread: loaders fork their workers from this process.
        due = new or done >= total or now - self._last >= _REFRESH
        self._bars.update(work.bar, completed=done, total=total, refresh=due, **fields)
        if due:
            self._last = now


@contextmanager
def progress_bars(unit: str = "", quiet: bool = False) -> Iterator[Bars]:
    """Show the progress of what counts `unit` ("steps"; "": whatever its names say) until the block ends.

    `quiet`: nothing is shown, as of all processes but the first.

    >>> with progress_bars("steps") as bars:
    ...     bars.at("base64", 1, 20)
    """
    from rich.console import Console

    bars = Bars(Console(stderr=True, quiet=quiet), unit)
    try:
        yield bars
    finally:
        bars.close()


def _columns(console: "Console") -> "Progress":
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    texts = (TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in ("count", "rate", "note", "left"))
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *texts, TimeElapsedColumn())
    return Progress(*columns, console=console, auto_refresh=False)


def _rate(rate: float, unit: str) -> str:
    """Return a rate in words, per minute where it is slow.

    >>> _rate(123.4, "steps"), _rate(2.5, "steps"), _rate(0.05, ""), _rate(3.0, "")
    ('123 steps/s', '2.5 steps/s', '3.0/min', '3.0/s')
    """
    number, per = (rate, "s") if rate >= 0.5 else (60 * rate, "min")
    return f"{number:.{0 if number >= 100 else 1}f}" + f" {unit}" * bool(unit) + f"/{per}"


def _duration(seconds: float) -> str:
    """Return hours, minutes and seconds.

    >>> _duration(3725.4), _duration(59)
    ('1:02:05', '0:00:59')
    """
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
