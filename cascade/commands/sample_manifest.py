"""`manifest.jsonl` of a folder of samples: one line for each picture, appended when the picture's file is whole."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade.errors import CascadeError
from cascade.files import sha256_of, write_whole
from cascade.lock import LOCK

NAME = "manifest.jsonl"
_START = '{"file": '
_OF_NOBODY = {LOCK, ".DS_Store", "Thumbs.db", ".gitkeep"}


def refuse_foreign_folder(folder: Path) -> None:
    """Raise CascadeError if `folder` holds something and no manifest, so that its content is somebody else's."""
    if not folder.is_dir() or (folder / NAME).exists():
        return
    names = sorted({entry.name for entry in folder.iterdir()} - _OF_NOBODY)
    if names:
        raise CascadeError(
            f"out={folder} holds '{names[0]}' and no {NAME}, so it is not of cascade sample; choose another out"
        )


class Manifest:
    """What was made in a folder and how; `lines` maps each file to its last line.

    A line is {file, seed, class, png_sha256, low_res, stages, stage_files}: `stages` is a list of what each stage was
    sampled with, `low_res` the SHA-256 of the pixels it started from (null: noise), `stage_files` maps the stages whose
    pictures were kept to their file and its SHA-256.

    A last line that a crash cut short is dropped; the file itself is mended by the first `append`, and read only until
    then. Raises CascadeError for a file that is no such manifest.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / NAME
        self.lines: dict[str, dict[str, Any]] = {}
        self._mend = False
        if not self.path.exists():
            return
        text = self.path.read_text(encoding="utf-8", errors="replace")
        rows = text.removesuffix("\n").split("\n") if text else []  # not splitlines: a name may hold U+2028
        for number, row in enumerate(rows, 1):
            line = _read(row)
            if line is not None:
                self.lines[line["file"]] = line
            elif number == len(rows) and _cut_short(row) and (self.lines or row.startswith(_START)):
                self._mend = True
            else:
                raise CascadeError(
                    f"{self.path} is not a manifest of cascade sample (line {number}); choose another out"
                )
        # Without its end a line is whole, but the next one must start a line of its own.
        self._mend = self._mend or (bool(text) and not text.endswith("\n"))

    def refuse_other(self, stages: Sequence[Mapping[str, Any]]) -> None:
        """Raise CascadeError naming the first setting in which an existing line differs from `stages`."""
        for line in self.lines.values():
            if difference := _difference(_by_name(line["stages"]), _by_name(stages)):
                raise CascadeError(
                    f"out={self.folder} was made with other settings: {difference}; choose another out, or remove it"
                )

    def precisions(self) -> dict[str, str]:
        """Stage → the precision of the pictures that are there; empty where there are none."""
        line = next(iter(self.lines.values()), {"stages": []})
        stages = [stage for stage in line["stages"] if isinstance(stage.get("precision"), str)]
        return {str(stage.get("stage")): stage["precision"] for stage in stages}

    def threads(self) -> int | None:
        """The number of threads that the pictures there were made with; None where there are none."""
        line = next(iter(self.lines.values()), {"stages": []})
        found = [stage.get("threads") for stage in line["stages"]]
        return next((threads for threads in found if isinstance(threads, int)), None)

    def holds(self, file: str, low_res: str | None, kept: Sequence[str]) -> bool:
        """Whether `file` is there as its line says, with the pictures of the stages `kept`.

        Raises CascadeError if it was made from another low-res picture.
        """
        line = self.lines.get(file)
        if line is None:
            return False
        if line.get("low_res") != low_res:
            raise CascadeError(f"{self.folder / file} was made from another low-res picture; choose another out")
        saved = line.get("stage_files", {})
        files = [(file, line["png_sha256"])]
        if any(name not in saved for name in kept):
            return False
        files += [(saved[name]["file"], saved[name]["sha256"]) for name in kept]
        return all((self.folder / f).is_file() and sha256_of(self.folder / f) == sha256 for f, sha256 in files)

    def begin(self) -> None:
        """Put the file there, so that a folder whose first picture was never finished is known as ours."""
        self.path.touch()

    def append(self, line: dict[str, Any]) -> None:
        """Add a line and wait until it is on the disk."""
        self.lines[line["file"]] = line
        if self._mend:
            write_whole(self.path, "".join(_line(row) for row in self.lines.values()))
            self._mend = False
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(line))
            file.flush()
            os.fsync(file.fileno())


def _line(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"


def _read(row: str) -> dict[str, Any] | None:
    """The line, or None where it is not whole or no line of a manifest."""
    try:
        line = json.loads(row)
    except ValueError:
        return None
    return line if isinstance(line, dict) and _well_formed(line) else None


def _well_formed(line: dict[str, Any]) -> bool:
    stages, saved = line.get("stages"), line.get("stage_files", {})
    return (
        all(isinstance(line.get(key), str) for key in ("file", "png_sha256"))
        and isinstance(stages, list)
        and all(isinstance(stage, dict) for stage in stages)
        and isinstance(saved, dict)
        and all(
            isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("file", "sha256"))
            for entry in saved.values()
        )
    )


def _cut_short(row: str) -> bool:
    """Whether a line is no JSON: a line of which only the beginning was written never is."""
    try:
        json.loads(row)
    except ValueError:
        return True
    return False


def _by_name(stages: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {str(stage.get("stage")): stage for stage in stages}


def _difference(there: Mapping[str, Any], here: Mapping[str, Any], where: str = "") -> str | None:
    """The first key in which two nested mappings differ, in words."""
    if not where and list(there) != list(here):
        return f"the stages {', '.join(there)} there and {', '.join(here)} here"
    for key in [*there, *(key for key in here if key not in there)]:
        old, new = there.get(key), here.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            if difference := _difference(old, new, f"{where}{key}."):
                return difference
        elif old != new:
            return f"{where}{key} is {_short(old)} there and {_short(new)} here"
    return None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 24 else f"{text[:16]}..."
