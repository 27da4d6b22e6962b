"""What an evaluation is compared with: pictures, or in `reference=FILE.npz` the statistics of some."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from cascade.commands.evaluated_sides import Sides, is_statistics
from cascade.commands.evaluation_report import unreadable, with_rules
from cascade.commands.measured_chunks import MeasuredChunks
from cascade.errors import CascadeError
from cascade.files import expanded, write_whole
from cascade.protocol import balance

if TYPE_CHECKING:
    from cascade.evaluation.features import Features
    from cascade.evaluation.figures import Figure
    from cascade.evaluation.known_statistics import KnownStatistics

_OTHER = "is there already, and holds something else; choose another name"
__all__ = ["check_statistics", "is_statistics", "open_reference"]


def check_statistics(plain: Mapping[str, Any]) -> None:
    """What can be said of `reference=FILE.npz` and `save_reference=FILE.npz` before torch is imported."""
    given, save = plain["reference"], plain["save_reference"]
    if is_statistics(given):
        if not expanded(given).is_file():
            raise CascadeError(f"reference={given} does not exist")
        if "patches" in plain["metrics"]:
            raise CascadeError(f"patches compares pictures, and reference={given} is statistics of whole pictures")
    if save is None:
        return
    if not save.endswith(".npz"):
        raise CascadeError(f"save_reference={save} must be named FILE.npz")
    if is_statistics(given):
        raise CascadeError(f"save_reference keeps statistics of pictures, and reference={given} is statistics already")
    if "distances" not in plain["metrics"]:
        raise CascadeError("save_reference keeps what metrics=[distances] measures, which is not asked for")
    file = expanded(save).absolute()
    if not file.parent.is_dir():
        raise CascadeError(f"save_reference={save}: there is no folder {file.parent}; make it first")
    if file.is_dir():
        raise CascadeError(f"save_reference={save} is a folder; name a file in it")
    try:
        with TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise CascadeError(f"save_reference={save}: nothing can be written in {file.parent}") from error


def open_reference(sides: Sides, features: "Features") -> "_Real | _Known":
    """Open what `reference` and `data` say; nothing is measured yet."""
    from cascade.evaluation.known_statistics import read_statistics

    if not is_statistics(sides.plain["reference"]):
        real = _Real(sides.plain, sides.look(sides.reference(), features, "real pictures"), features)
        if real.saved is not None and real.saved.exists():
            there = read_statistics(real.saved)
            there.check(features)
            if there.count != real.look.count:
                raise CascadeError(f"save_reference={real.saved} {_OTHER}")
        return real
    known = read_statistics(sides.plain["reference"])
    known.check(features)
    return _Known(sides.plain, known, features)


@dataclass(frozen=True, eq=False)
class _Real:
    """Real pictures."""

    plain: Mapping[str, Any]
    look: MeasuredChunks
    features: "Features"

    def figures(self, generated: MeasuredChunks) -> "tuple[list[Figure], list[str]]":
        """All distances, what is measured on pixels, and a line for each that is left out."""
        from cascade.evaluation.figures import distances
        from cascade.evaluation.measurement import pixel_figures

        real, made = self.look.measurement(), generated.measurement()
        figures, left_out = distances(
            made.features,
            real.features,
            self.features,
            seed=self.plain["seed"],
            allow_few_images=self.plain["allow_few_images"],
            neighbours=self.plain["neighbours"],
        )
        figures += pixel_figures(made, real)
        return [with_rules(figure, generated.pictures, self.look.pictures) for figure in figures], left_out

    @property
    def saved(self) -> Path | None:
        """Where their statistics are to be kept."""
        save = self.plain["save_reference"]
        return None if save is None else expanded(save)

    def save(self) -> None:
        """Write `save_reference`; a file that is there already is left alone if it is the same."""
        file = self.saved
        if file is None:
            return
        from cascade.evaluation.known_statistics import statistics_bytes

        data = statistics_bytes(self.look.measurement().features, self.features)
        if not file.exists():
            write_whole(file, data)
        elif file.read_bytes() != data:
            raise CascadeError(f"save_reference={file} {_OTHER}")

    def report(self) -> dict[str, Any]:
        """What the report says of them."""
        return {**self.look.pictures.report(), "balance": balance(self.look.pictures.classes)}

    def skipped(self) -> list[str]:
        """A line on the files that could not be read."""
        return unreadable(self.look.pictures.bad_files, "real")


@dataclass(frozen=True, eq=False)
class _Known:
    """Statistics of pictures that are elsewhere."""

    plain: Mapping[str, Any]
    known: "KnownStatistics"
    features: "Features"

    def figures(self, generated: MeasuredChunks) -> "tuple[list[Figure], list[str]]":
        """The Fréchet distance, and what is measured without real pictures."""
        made = generated.measurement().features
        found, lines = self.known.frechet(made, self.features, allow_few_images=self.plain["allow_few_images"])
        return [with_rules(figure, generated.pictures, None) for figure in found], lines

    def save(self) -> None:
        """Nothing: they are in a file."""

    def report(self) -> dict[str, Any]:
        """What the report says of them."""
        return {**self.known.record(), "balance": balance([])}

    def skipped(self) -> list[str]:
        """Nothing was."""
        return []
