"""What the pictures and features of an evaluation's folder were made with: another setting needs another folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.commands.evaluated_sides import SAMPLED
from cascade.commands.measured_chunks import MeasuredChunks
from cascade.errors import CascadeError
from cascade.files import expanded, write_whole
from cascade.flat import flat

if TYPE_CHECKING:
    from cascade.commands.evaluated_sides import Sides

SETTINGS = "evaluation-settings.json"
Settings = Mapping[str, Any]


def settings_of(sides: "Sides") -> dict[str, Any]:
    """What may not change in a folder: weights and sampling of each stage that runs, real pictures, seeds.

    How many pictures, how many stages, which metrics and which features may.
    """
    plain, sampled = sides.plain, dict[str, Any]()
    for look in (work for work in sides.works.values() if isinstance(work, MeasuredChunks)):
        of, source = look.pictures.identity["of"], look.pictures.source
        for row in source.get("stages", ()):
            sampled[row["stage"] if of == SAMPLED else f"{row['stage']} {of}"] = row
    here = lambda path: None if path is None else str(expanded(path).resolve())  # noqa: E731
    real = {"data": dict(plain["data"])} if plain["reference"] is None else {}
    return {
        "images": here(plain["images"]),
        "reference": here(plain["reference"]),
        **real,
        **({"first_seed": plain["first_seed"], "device": plain["device"].partition(":")[0]} if sampled else {}),
        "threads": plain["threads"],
        "seed": plain["seed"],
        **sampled,
    }


def precisions_of(settings: Settings) -> dict[str, str]:
    """Stage → the precision of the pictures that are there; empty where there are none."""
    rows = [row for row in settings.values() if isinstance(row, Mapping) and "stage" in row]
    return {str(row["stage"]): str(row["precision"]) for row in rows}


def kept_settings(out: Path | None) -> dict[str, Any]:
    """The settings of the folder `out`; none where nothing was made yet."""
    if out is None or not (out / SETTINGS).exists():
        return {}
    try:
        settings = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CascadeError(f"{out / SETTINGS} is damaged; choose another out, or remove it") from error
    if not isinstance(settings, dict):
        raise CascadeError(f"{out / SETTINGS} was not made by cascade evaluate; choose another out")
    return settings


def refuse_other(out: Path | None, there: Settings, here: Settings) -> None:
    """Raise CascadeError naming the first setting that is another here than there; what only one has is no matter.

    >>> refuse_other(Path("out"), {"seed": 0, "sr": {"steps": 4}}, {"seed": 0, "base": {"steps": 9}})
    >>> refuse_other(Path("out"), {"sr": {"steps": 4}}, {"sr": {"steps": 8}})
    Traceback (most recent call last):
    cascade.errors.CascadeError: out=out was made with sr.steps=4, and here it is 8; choose another out, or remove it
    """
    for part in there:
        if part not in here:
            continue
        old, new = (dict(flat({part: settings[part]})) for settings in (there, here))
        for key in [*old, *(key for key in new if key not in old)]:
            if old.get(key) != new.get(key):
                told = [json.dumps(values.get(key), ensure_ascii=False).strip('"') for values in (old, new)]
                raise CascadeError(
                    f"out={out} was made with {key}={told[0]}, and here it is {told[1]}; choose another out, or "
                    "remove it"
                )


def keep_settings(out: Path | None, there: Settings, here: Settings) -> dict[str, Any]:
    """Return both together, which `out` then keeps."""
    both = {**there, **here}
    if out is not None and both != there:
        write_whole(out / SETTINGS, json.dumps(both, indent=1, ensure_ascii=False) + "\n")
    return both
