"""What may be asked of a cascade: classes, seeds, the stages that run and where; checked without torch."""

import re
from collections.abc import Mapping, Sequence
from operator import index
from typing import Any

from cascade.accelerators import is_missing
from cascade.artifact import StageConfig, StageSampling
from cascade.classifier import load_classifier_config
from cascade.errors import CascadeError, suggest
from cascade.guidance_settings import guides_of

PRECISIONS = ("auto", "fp32", "bf16")
LOGGER_MODES = ("offline", "online")
"""How W&B may be used."""
_DEVICES = ("cpu", "cuda", "mps", "xpu")
_SEED_END = 2**63
_MANY = 1_000_000
_MOST_THREADS = 1024


def as_list(value: Any) -> list[Any]:
    """Several values as a list, and a value alone (None, a text, a number) as a list of it.

    >>> as_list("hat"), as_list(range(3)), as_list(None)
    (['hat'], [0, 1, 2], [None])
    """
    if isinstance(value, str) or whole_number(value) is not None:
        return [value]
    try:
        return list(value)
    except TypeError:
        return [value]


def class_table(configs: Sequence[StageConfig], samplings: Sequence[StageSampling] = ()) -> tuple[str, ...]:
    """The class names of the labelled stages, which agree; or else those of the classifiers that guide stages."""
    if labelled := next((config.class_names for config in configs if config.class_names), ()):
        return labelled
    classifiers = [folder for sampling in samplings for kind, folder in guides_of(sampling) if kind == "classifier"]
    return load_classifier_config(classifiers[0]).class_names if classifiers else ()


def class_label(name: str | int, table: Sequence[str]) -> int:
    """The index of a class given by name or number; a text is a name first ("7" may be a name). CascadeError otherwise.

    >>> class_label("hat", ["dress", "hat"]), class_label(0, ["dress", "hat"]), class_label("1", ["dress", "hat"])
    (1, 0, 1)
    """
    if not table:
        raise CascadeError(f"this cascade knows no classes, so '{name}' cannot be asked for")
    if isinstance(name, str):  # digits that are no name are a number
        if name in table:
            return list(table).index(name)
        if not (name.isascii() and name.isdigit()):
            hint = "several classes are a list, [a,b]; " if any(p.strip() in table for p in name.split(",")) else ""
            raise CascadeError(f"unknown class '{name}'; {hint}{suggest(name, table)}")
    number = whole_number(name)
    if number is None:
        raise CascadeError(f"{name!r} is no class: give its name or its number")
    if not 0 <= number < len(table):
        raise CascadeError(f"class {number} is not there: the cascade has classes 0 to {len(table) - 1}")
    return number


def check_seed(seed: int) -> int:
    """Return a seed that is a whole number from 0 to 2⁶³ − 1; raise CascadeError for another."""
    number = whole_number(seed)
    if isinstance(seed, str) or number is None or not 0 <= number < _SEED_END:
        raise CascadeError(f"seed {seed} is not a whole number from 0 to 2^63 - 1")
    return number


def whole_number(value: Any) -> int | None:
    """The number that an int, a text of digits, or an integer of numpy or torch is; None for anything else.

    >>> whole_number(3), whole_number("3"), whole_number(3.0), whole_number(True)
    (3, 3, None, None)
    """
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() else None
    if isinstance(value, bool):
        return None
    try:
        return index(value)
    except TypeError:
        return None


def check_precision(precision: str) -> str:
    """Return the name of a precision of sampling; raise CascadeError with the nearest name for another."""
    if precision not in PRECISIONS:
        raise CascadeError(f"unknown precision '{precision}'; {suggest(str(precision), PRECISIONS)}")
    return precision


def check_logger(settings: Mapping[str, Any]) -> None:
    """Check `logger: {wandb, mode, project}`, whether or not W&B is used."""
    if settings["mode"] not in LOGGER_MODES:
        raise CascadeError(f"unknown logger.mode '{settings['mode']}'; {suggest(str(settings['mode']), LOGGER_MODES)}")
    if not str(settings["project"]).strip():
        raise CascadeError("logger.project names no project")


def check_threads(threads: int | None) -> None:
    """Raise CascadeError for a number of threads that no machine can start; None is torch's own choice."""
    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise CascadeError(f"threads={threads} must be at least 1 and at most {_MOST_THREADS}")


def check_device_name(name: str) -> str:
    """Return the name of a kind of device, or of one of them (cuda:1), unless it is certain that there is none here.

    >>> check_device_name("cudda:0")
    Traceback (most recent call last):
    cascade.errors.CascadeError: device 'cudda:0' is not available: did you mean 'cuda'?
    """
    kind, colon, number = str(name).partition(":")
    if kind not in _DEVICES or (colon and not (number.isascii() and number.isdigit())):
        called = "cuda" if kind == "gpu" else kind
        here = "say device=cpu" if is_missing(called) else f"write {called}:0"
        hint = here if called in _DEVICES else suggest(kind, _DEVICES)
        raise CascadeError(f"device '{name}' is not available: {hint}")
    if is_missing(kind):
        raise CascadeError(f"device '{name}' is not available here: there is none that torch can use; say device=cpu")
    return str(name)


def parse_seeds(seeds: str | int | Sequence[str | int]) -> list[int]:
    """Read "5", "0-15" (both ends) or a list of such, each seed once; raise CascadeError for anything else.

    >>> parse_seeds(["0", "3", "7-9", 3])
    [0, 3, 7, 8, 9]
    """
    parts = [seeds] if isinstance(seeds, int) else seeds.split(",") if isinstance(seeds, str) else list(seeds)
    found: dict[int, None] = {}
    for part in parts:
        match = re.fullmatch(r"\s*([0-9]+)(?:\s*-\s*([0-9]+))?\s*", str(part))
        if match is None:
            raise CascadeError(f"seeds: '{part}' is neither a whole number from 0 nor a range like 0-15")
        first, last = check_seed(int(match[1])), check_seed(int(match[2] or match[1]))
        if last < first:
            raise CascadeError(f"seeds: the range '{part}' runs backwards; write {last}-{first}")
        if last - first >= _MANY:
            raise CascadeError(f"seeds: '{part}' are more than {_MANY} seeds")
        found.update(dict.fromkeys(range(first, last + 1)))
    if not found:
        raise CascadeError("seeds=[] names no seed; write a number, a range like 0-15, or a list of them")
    return list(found)


def chosen_stages(configs: Sequence[StageConfig], stages: int | None, low_resolution: int | None) -> slice:
    """The stages that run: the first `stages` (None: all), without those before the one that takes `low_resolution`.

    Pictures larger than any of them takes are for the last one, if that goes by tiles (see `planned`).
    Raises CascadeError where the number is out of range or no stage that runs takes pictures of this size.
    """
    if stages is not None and (isinstance(stages, str) or not 1 <= (whole_number(stages) or 0) <= len(configs)):
        raise CascadeError(f"stages={stages}: the cascade has {len(configs)}, so a number from 1 to {len(configs)}")
    stop = len(configs) if stages is None else stages
    if low_resolution is None:
        if (needed := configs[0].low_resolution) is not None:
            raise CascadeError(
                f"stage '{configs[0].name}' is shown pictures of {needed} px "
                f"(condition={configs[0].condition['name']}): low_res=FOLDER of 'cascade sample' gives them"
            )
        return slice(0, stop)
    taken = [config.low_resolution for config in configs[:stop]]
    if low_resolution > max((size for size in taken if size is not None), default=low_resolution):
        return slice(stop - 1, stop)
    if low_resolution not in taken:
        sizes = " or ".join(f"{size}" for size in taken if size is not None)
        takes = f"they take {sizes} px" if sizes else "none of them takes pictures"
        which = "of the stages" if stages is None else f"of the first {stages} stages"
        raise CascadeError(f"low_res pictures of {low_resolution} px fit none {which}: {takes}")
    return slice(taken.index(low_resolution), stop)
