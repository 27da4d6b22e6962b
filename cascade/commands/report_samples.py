"""A folder of samples as the report reads it: every picture of a manifest, there and unchanged, or plain pictures."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cascade.commands.png import png_pixels
from cascade.commands.sample_manifest import NAME, Manifest
from cascade.errors import CascadeError
from cascade.requests import whole_number

if TYPE_CHECKING:
    from torch import Tensor

PLAIN = "pictures"
"""What stands in the place of the last stage, where none is known."""
_OF_A_STAGE = {
    **dict.fromkeys(("stage", "sha256", "precision", "device"), str),
    **dict.fromkeys(("steps", "network_batch", "threads"), int),
    **dict.fromkeys(("sampler", "grid", "guidance", "threshold"), Mapping),
    "aug_log_snr": int | float | str | None,
}
"""What a manifest says of each stage, and of which kind it is."""


@dataclass(frozen=True)
class Sample:
    """A picture: its file below the folder, its class, and of the manifest its seed and its whole line.

    >>> Sample("hat/3.png", 3, "hat", {"stages": []}).name
    'hat, seed 3'
    """

    file: str
    seed: int | None
    class_name: str | None
    line: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What it is called."""
        if self.seed is None:
            return self.file
        return f"seed {self.seed}" if self.class_name is None else f"{self.class_name}, seed {self.seed}"

    @property
    def stages(self) -> Sequence[Mapping[str, Any]]:
        """What each stage was sampled with."""
        return self.line.get("stages", ())


@dataclass(frozen=True)
class Samples:
    """The pictures of a folder, in the order of the manifest; all were made by the same `stages`.

    Of a folder without a manifest nothing is known but the pictures; they are shown at `side` px, that of the smallest,
    and `notes` say what is not shown.
    """

    folder: Path
    pictures: Sequence[Sample]
    side: int | None = None
    notes: Sequence[str] = ()

    @property
    def stages(self) -> Sequence[Mapping[str, Any]]:
        """What each stage was sampled with."""
        return self.pictures[0].stages

    @property
    def names(self) -> list[str]:
        """The stages that ran; of plain pictures what they are."""
        return [stage["stage"] for stage in self.stages] or [PLAIN]

    def of_stages(self, sample: Sample) -> "dict[str, Tensor]":
        """Stage → its picture, uint8 (3, R, R), for the stages whose pictures were kept, and the last one."""
        return {name: self.pixels(sample, name) for name in self.names if self.kept(sample, name) is not None}

    def pixels(self, sample: Sample, stage: str | None = None) -> "Tensor":
        """The picture of a stage that was kept, uint8 (3, R, R); None: the last one's, which is the sample itself."""
        if self.side is not None:
            from cascade.data.picture import read_square

            return read_square(self.folder / sample.file, self.side)[0]
        if stage is None or stage == self.names[-1]:
            return _pixels(self.folder, sample.file, sample.line["png_sha256"])
        saved = sample.line["stage_files"][stage]
        return _pixels(self.folder, saved["file"], saved["sha256"])

    def kept(self, sample: Sample, stage: str) -> str | None:
        """The file of a stage's picture below the folder, if it was kept."""
        if stage == self.names[-1]:
            return sample.file
        saved = sample.line.get("stage_files", {})
        return saved[stage]["file"] if stage in saved else None


def read_samples(folder: Path) -> Samples:
    """Read the manifest, or look through a folder without one.

    Raises CascadeError for no pictures, a manifest of another version, and pictures in it that are not there.
    """
    if not folder.is_dir():
        raise CascadeError(f"samples={folder} {'is a file' if folder.exists() else 'does not exist'}; give a folder")
    if not (folder / NAME).is_file():
        return _plain_pictures(folder)
    try:
        lines = list(Manifest(folder).lines.values())
    except CascadeError as error:
        raise CascadeError(f"{str(error).removesuffix('; choose another out')}, or of another version") from None
    if not lines:
        raise CascadeError(f"{folder / NAME} names no picture yet")
    samples = Samples(folder, [_sample(folder, line) for line in lines])
    for sample in samples.pictures:
        if len(sample.stages) != len(samples.stages) or any(
            one["stage"] != other["stage"] for one, other in zip(sample.stages, samples.stages, strict=True)
        ):
            raise CascadeError(
                f"{folder / NAME}: {sample.file} was made by other stages than {samples.pictures[0].file}"
            )
        files = [samples.kept(sample, name) for name in samples.names]
        for file in (file for file in files if file is not None and not (folder / file).is_file()):
            raise CascadeError(f"{folder / file} is in the manifest and not there; cascade sample makes it again")
    return samples


def _plain_pictures(folder: Path) -> Samples:
    from cascade.commands.evaluation_report import unreadable
    from cascade.evaluation.picture_folder import PictureFolder

    found = PictureFolder(folder)
    rule = found.rule(found.side)
    notes = [*unreadable(found.bad_files, "to show"), *([] if rule is None else [f"They are shown by their {rule}."])]
    pictures = [Sample(file, None, name, {}) for file, name in zip(found.paths, found.classes, strict=True)]
    return Samples(folder, pictures, found.side, notes)


def _sample(folder: Path, line: Mapping[str, Any]) -> Sample:
    where = f"{folder / NAME}: {line['file']}"
    for key in ("seed", "class"):
        if key not in line:
            raise CascadeError(f"{where} has no '{key}', so this manifest is of another version; sample again")
    for stage in line["stages"] or [{}]:
        for key, kind in _OF_A_STAGE.items():
            if key not in stage:
                raise CascadeError(f"{where} has no stages.{key}, so this manifest is of another version; sample again")
            if not _is_of(stage[key], kind):
                raise CascadeError(f"{where}: stages.{key} {stage[key]!r} is nothing that cascade sample writes")
    seed, class_name = whole_number(line["seed"]), line["class"]
    files = [line["file"], *(entry["file"] for entry in line.get("stage_files", {}).values())]
    outside = any(PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts for file in files)
    if seed is None or not isinstance(class_name, str | None) or outside:
        what = "a file outside its folder" if outside else f"seed {line['seed']!r} and class {class_name!r}"
        raise CascadeError(f"{where}: {what} is nothing that cascade sample writes")
    return Sample(line["file"], seed, class_name, line)


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind: choices have names, numbers are positive, and texts for numbers are infinities.

    >>> _is_of({"name": "ddim"}, Mapping), _is_of({}, Mapping), _is_of(0, int), _is_of("inf", float | str)
    (True, False, False, True)
    """
    if not isinstance(value, kind) or isinstance(value, bool):
        return False
    if kind is Mapping:
        return isinstance(value.get("name"), str)
    return value > 0 if kind is int else kind is str or not isinstance(value, str) or value in ("inf", "-inf")


def _pixels(folder: Path, file: str, sha256: str) -> "Tensor":
    """The pixels of a file, which must be the one that the manifest means."""
    try:
        raw = (folder / file).read_bytes()
        if hashlib.sha256(raw).hexdigest() != sha256:
            raise CascadeError(f"{folder / file} was changed since it was sampled; cascade sample makes it again")
        return png_pixels(io.BytesIO(raw))
    except (OSError, SyntaxError, ValueError) as error:
        raise CascadeError(f"{folder / file} cannot be read: {error}") from error
