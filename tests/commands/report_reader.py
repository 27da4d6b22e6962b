"""A report as a test makes it and reads it."""

import json
from html.parser import HTMLParser
from pathlib import Path

from cascade.commands.command_line import main

DATA = ("data=procedural", "data.size=12", "data.val_size=12", "features=tiny", "memorisation.side=8")


def report(samples: Path, *settings: str) -> int:
    return main(["report", f"samples={samples}", *settings])


class Read(HTMLParser):
    """Every element with its attributes, and the text inside scripts and captions."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self.classes: list[str] = []
        self._in: str | None = None
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        own = dict(attrs)
        self._in = own.get("id", tag) if tag == "script" else "class" if own.get("class") == "of" else tag
        if self._in == "class":
            self.classes.append("")

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        if self._in == "class":
            self.classes[-1] += data
        elif self._in:
            self.text[self._in] = self.text.get(self._in, "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def details(self) -> list[dict]:
        cards = [figure for figure in self.all("figure") if figure.get("class") == "card"]
        return [json.loads(self.text[f"data-{card['id']}"]) for card in cards]
