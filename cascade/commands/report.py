"""`cascade report`: a folder of samples as one page that needs neither a server nor a network."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from cascade.commands.report_cards import Card, read_cards
from cascade.commands.report_curves import metric_charts, metric_files
from cascade.commands.report_html import MARK
from cascade.commands.report_samples import Samples, read_samples
from cascade.commands.report_settings import Known, known
from cascade.commands.sample_manifest import NAME
from cascade.errors import CascadeError
from cascade.files import expanded, write_whole
from cascade.lock import check_place, exclusive
from cascade.progress import progress_bars
from cascade.requests import as_list, check_device_name

if TYPE_CHECKING:
    from cascade.commands.report_chart import Chart
    from cascade.commands.report_html import Page
    from cascade.progress import Bars

PAGE = "report.html"
_LEAST = {"trajectories": 0, "moments": 2, "batch": 1, "memorisation.side": 1, "thumbnail": 16}


@dataclass(frozen=True)
class Asked:
    """What was asked for, read and checked; nothing is computed yet."""

    plain: Mapping[str, Any]
    out: Path
    known: Known
    charts: "Sequence[Chart]"
    cards: Sequence[Card]

    @property
    def samples(self) -> Samples:
        """The pictures."""
        return self.known.samples


def run(config: DictConfig) -> None:
    """Write `out`/report.html. See `conf/report.yaml`."""
    from cascade.commands.configuration import plain_config

    asked = _checked(plain_config(config))
    with exclusive(asked.out), progress_bars() as bars:
        html = _page(asked, bars).html().encode(errors="replace")  # names of files may hold what is no text
        write_whole(asked.out / PAGE, html)
    count = len(asked.samples.pictures)
    print(f"{asked.out / PAGE}: {count} picture{'s' * (count != 1)}, {len(html) / 1e6:.1f} MB")


def _checked(plain: Mapping[str, Any]) -> Asked:
    """Everything that can be said without torch."""
    for key, least in _LEAST.items():
        value = plain["memorisation"]["side"] if "." in key else plain[key]
        if value is not None and value < least:
            raise CascadeError(f"{key}={value} must be at least {least}")
    check_device_name(plain["device"])
    folder = expanded(plain["samples"])
    out = folder if plain["out"] is None else expanded(plain["out"])
    if out.exists() and not out.is_dir():
        raise CascadeError(f"out={out} is a file; choose a folder")
    if (out / PAGE).exists() and MARK not in (out / PAGE).read_text(encoding="utf-8", errors="replace")[:2000]:
        raise CascadeError(f"{out / PAGE} was not made by cascade report; choose another out, or move it away")
    drawn = [chart for file in metric_files(as_list(plain["runs"])) for chart in metric_charts(file)]
    cards = read_cards(as_list(plain["cards"]))
    if plain.get("data") is not None:
        from cascade.data.source import check_source

        check_source(plain["data"])
    samples = read_samples(folder)
    if samples.side is not None and (given := [key for key in ("cascade", "low_res") if plain[key] is not None]):
        raise CascadeError(
            f"{given[0]}= is for a folder of cascade sample, and samples={folder} holds no {NAME}; leave it out"
        )
    asked = Asked(plain, out, known(samples, plain["cascade"], plain["low_res"]), drawn, cards)
    check_place(out)
    return asked


def _page(asked: Asked, bars: "Bars") -> "Page":
    from cascade.commands import report_sections as parts
    from cascade.commands.report_entries import Entries
    from cascade.commands.report_html import Page, card_tables, charts
    from cascade.commands.report_nearest import Real
    from cascade.commands.report_pictures import thumbnail_side
    from cascade.commands.report_steps import Replay

    plain, samples = asked.plain, asked.samples
    up = Path(os.path.relpath(samples.folder, asked.out)).as_posix()
    made = Entries(asked.known, up, plain["thumbnail"] or thumbnail_side(len(samples.pictures)), plain["full"])
    if plain.get("data") is not None:
        # First, for what the data lack is found here; what follows takes its time.
        picture = lambda i: samples.pixels(samples.pictures[i])  # noqa: E731
        made.real = Real(plain, picture(0).shape[-1], bars)
        made.spaces = made.real.spaces(picture, len(samples.pictures))
    if plain["cascade"] is not None:
        made.replay = Replay(asked.known, plain["device"])
        shown = parts.some_of_each_class(samples.pictures, plain["trajectories"])
        paths = made.replay.paths(shown, bars) if shown else []
        made.paths = {sample.file: of for sample, of in zip(shown, paths, strict=True)}
    entries = []
    for place, sample in enumerate(samples.pictures):
        entries.append(made.entry(place, sample))
        bars.at("pictures", place + 1, len(samples.pictures))
    page = Page(samples.folder.resolve().name, parts.lede(made), entries, samples.stages)
    if made.paths:
        page.sections.append(("steps", "Along the steps", parts.steps_section(made, plain["moments"])))
    if made.real is not None:
        page.sections.append(("nearest", "Nearest training pictures", parts.nearest_section(made)))
    if drawn := [*asked.charts, *parts.spectra(made, bars)]:
        page.sections.append(("curves", "Curves", charts(drawn)))
    if asked.cards:
        page.sections.append(("figures", "Figures", card_tables(asked.cards)))
    page.texts, page.missing = made.texts, parts.missing(plain, made)
    return page
