"""The page of a report: fragments of HTML, in which every text from outside is escaped, put into the template."""

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cascade import __version__
from cascade.commands.report_cards import HEADS, Card
from cascade.commands.report_chart import Chart
from cascade.flat import flat

MARK = '<meta name="generator" content="cascade report">'
"""What tells that a page is ours."""
_FILES = Path(__file__).parent / "report_page"
_BUTTONS = 24
"""More classes than these have no buttons; they are typed."""
_MANY = 200
"""Of more pictures than these, a browser draws those that are near what is seen."""
_OF_THE_CONFIG = ("sampler", "grid", "guidance", "threshold")


@dataclass(frozen=True)
class Entry:
    """A picture of the page: its thumbnail, and what is shown when it is opened, as plain JSON values.

    >>> Entry("hat, seed 3", "hat", 3, "hat/3.png", "data:,", 32, {}).file
    'hat/3.png'
    """

    name: str
    class_name: str | None
    seed: int | None
    file: str
    thumbnail: str
    side: int
    detail: Mapping[str, Any]


@dataclass
class Page:
    """All that a page shows; a part that is empty is not there."""

    title: str
    lede: str
    entries: Sequence[Entry]
    stages: Sequence[Mapping[str, Any]]
    sections: list[tuple[str, str, str]] = field(default_factory=list)
    texts: Mapping[str, str] = field(default_factory=dict)
    missing: Sequence[str] = ()

    def html(self) -> str:
        """The page, whole. `sections` are (id, heading, inner HTML), `texts` data URIs that entries name by id.

        `missing` are lines on what further settings would show.
        """
        style, script, many = _part("page.css"), _part("page.js"), len(self.entries) > _MANY
        config = config_table(self.stages) if self.stages else ""
        sections = [*self.sections, ("config", "Configuration", config + _more(self.missing))]
        links = [("pictures", "Pictures"), *((name, heading) for name, heading, _ in sections)]
        parts = {
            "title": escape(self.title),
            "kicker": "cascade report",
            "lede": escape(self.lede),
            "nav": "<ul>" + "".join(f'<li><a href="#{name}">{text}</a></li>' for name, text in links) + "</ul>",
            "count": f"{len(self.entries)} picture{'s' * (len(self.entries) != 1)}",
            "chips": _chips(self.entries),
            "cards": "\n".join(_card(place, entry, many) for place, entry in enumerate(self.entries)),
            "many": " many" if many else "",
            "sections": "\n".join(
                f'<section id="{name}" aria-labelledby="{name}-head"><h2 id="{name}-head">{heading}</h2>{inner}'
                "</section>"
                for name, heading, inner in sections
            )
            + "".join(f'<script type="text/plain" id="{name}">{uri}</script>' for name, uri in self.texts.items()),
            "footer": f"Made by cascade {escape(__version__)}. The page holds all that it shows and asks no network.",
            "style": style,
            "style_hash": _hash(style),
            "script": script,
            "script_hash": _hash(script),
        }
        # In one pass: what is put in is not looked through again.
        return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _part("page.html"))


def relative(file: str, up: str) -> str:
    """The address of a file below the samples from where the page lies, `up` being the samples' folder from there.

    >>> relative("a b/<3>.png", "../samples"), relative("javascript:x", ".")
    ('../samples/a%20b/%3C3%3E.png', './javascript%3Ax')
    """
    return quote(f"{up}/{file}", errors="surrogateescape")


def figure(uri: str, alt: str, side: int, *, lazy: bool = False) -> str:
    """A picture of `side` pixels, decoded beside other work; small ones keep their squares. `lazy`: when it is near."""
    exact, when = ' class="exact"' if side <= 64 else "", ' loading="lazy"' if lazy else ""
    return (
        f'<img src="{uri}" alt="{escape(alt, quote=True)}" width="{side}" height="{side}"{exact}{when} '
        'decoding="async">'
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table that scrolls by itself where it is too wide; the columns `numbers` are aligned to the right."""
    kind = lambda i: ' class="n"' if i in numbers else ""  # noqa: E731
    head = "".join(f'<th scope="col"{kind(i)}>{escape(text)}</th>' for i, text in enumerate(heads))
    body = "".join(
        "<tr>" + "".join(f"<td{kind(i)}>{escape(text)}</td>" for i, text in enumerate(row)) + "</tr>" for row in rows
    )
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def charts(of: Sequence[Chart]) -> str:
    """Charts side by side."""
    inner = "".join(f'<div class="chart"><h3>{escape(chart.title)}</h3>{chart.svg()}</div>' for chart in of)
    return f'<div class="charts">{inner}</div>'


def card_tables(cards: Sequence[Card]) -> str:
    """Each card's figures, what explains them, and its command."""
    parts = []
    for card in cards:
        parts += [f"<h3>{escape(card.title)}</h3>", table(HEADS, card.rows, numbers=(1, 2, 5, 6))]
        parts += [f'<p class="quiet">{escape(line)}</p>' for line in card.lines]
        parts += [f"<pre>{escape(card.command)}</pre>"] if card.command else []
    return "".join(parts)


def config_table(stages: Sequence[Mapping[str, Any]]) -> str:
    """What each stage was sampled with, a column for each."""
    flattened = [dict(flat(_first_the_name(stage))) for stage in stages]
    found = list(dict.fromkeys(key for stage in flattened for key in stage if key != "stage"))
    groups = [key.partition(".")[0] for key in found]
    keys = sorted(found, key=lambda key: groups.index(key.partition(".")[0]))
    head = "".join(f'<th scope="col">{escape(str(stage["stage"]))}</th>' for stage in flattened)
    rows = "".join(
        f'<tr><th scope="row">{escape(key)}</th>'
        + "".join(f"<td>{escape(_cell(stage.get(key)))}</td>" for stage in flattened)
        + "</tr>"
        for key in keys
    )
    return (
        '<div class="scroll" tabindex="0"><table class="config"><thead><tr><td></td>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _more(lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<h3>A report would show more with</h3><ul class="quiet">{items}</ul>' if lines else ""


def _first_the_name(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A choice is called by its group: sampler, not sampler.name."""
    found: dict[str, Any] = {}
    for key, value in stage.items():
        if key in _OF_THE_CONFIG and isinstance(value, Mapping) and "name" in value:
            found[key] = value["name"]
            found |= {f"{key}.{name}": inner for name, inner in value.items() if name != "name"}
        else:
            found[key] = value
    return found


def _cell(value: Any) -> str:
    """A value in a table.

    >>> _cell(None), _cell(True), _cell(0.5)
    ('–', 'true', '0.5')
    """
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _card(place: int, entry: Entry, many: bool) -> str:
    shown = entry.class_name if entry.class_name is not None else Path(entry.file).name
    seed = "" if entry.seed is None else entry.seed
    detail = json.dumps(entry.detail, ensure_ascii=False).replace("<", "\\u003c").replace("&", "\\u0026")
    of, href = escape(entry.class_name or "", quote=True), escape(entry.detail.get("href", ""), quote=True)
    return (
        f'<figure class="card" id="p{place}" data-find="{of} {seed}" data-of="{of}">'
        f'<a href="{href}">{figure(entry.thumbnail, entry.name, entry.side, lazy=many)}'
        f'<figcaption><span class="of">{escape(shown)}</span><span class="seed">{seed}</span></figcaption></a>'
        f'</figure><script type="application/json" id="data-p{place}">{detail}</script>'
    )


def _chips(entries: Sequence[Entry]) -> str:
    counts = Counter(entry.class_name for entry in entries if entry.class_name is not None)
    if not 2 <= len(counts) <= _BUTTONS:
        return ""
    buttons = "".join(
        f'<button type="button" aria-pressed="false" data-of="{escape(name, quote=True)}">{escape(name)} '
        f"<b>{count}</b></button>"
        for name, count in counts.items()
    )
    return f'<div class="chips" role="group" aria-label="Classes">{buttons}</div>'


def _part(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The name by which the page's policy lets this text run, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
