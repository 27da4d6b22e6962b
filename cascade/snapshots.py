"""The snapshots of averaged weights that a run keeps: one file for each optimizer step and width, written whole."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cascade.errors import CascadeError
from cascade.files import write_whole
from cascade.stage_files import CONFIG, read_tensors, read_yaml, write_weights

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "snapshots"
_FILE = re.compile(r"(\d+)-sigma_rel-(\d+(?:\.\d+)?(?:e-\d+)?)\.safetensors")


class Snapshots:
    """`RUN/snapshots/`: the config of the run's stage, and STEP-sigma_rel-WIDTH.safetensors of each average.

    >>> import tempfile, torch
    >>> kept = Snapshots(Path(tempfile.mkdtemp()))
    >>> for step in (8, 16):
    ...     kept.write(step, 0.1, {"w": torch.ones(1)}, images_seen=4 * step)
    >>> kept.keep(lambda step: step % 16 == 0)
    >>> list(kept.found()), kept.images_seen(16, 0.1)
    ([(16, 0.1)], 64)
    """

    def __init__(self, run: Path) -> None:
        self.path = run / FOLDER

    def found(self) -> dict[tuple[int, float], Path]:
        """(step, σ_rel) → file, in order."""
        return dict(sorted(self._found())) if self.path.is_dir() else {}

    def _found(self) -> Iterator[tuple[tuple[int, float], Path]]:
        for file in self.path.iterdir():
            if match := _FILE.fullmatch(file.name):
                yield (int(match[1]), float(match[2])), file

    def write(self, step: int, sigma_rel: float, state: "Mapping[str, Tensor]", images_seen: int) -> None:
        """Write one, whole."""
        write_weights(self._file(step, sigma_rel), state, self.path, {"images_seen": images_seen})

    def read(self, step: int, sigma_rel: float) -> "dict[str, Tensor]":
        """Read one; CascadeError for a damaged file."""
        return read_tensors(self._file(step, sigma_rel), f"snapshot '{self._file(step, sigma_rel)}'")

    def images_seen(self, step: int, sigma_rel: float) -> int:
        """How many images the model had seen."""
        from safetensors import SafetensorError, safe_open

        file = self._file(step, sigma_rel)
        try:
            with safe_open(file, "pt") as opened:
                return int(opened.metadata()["images_seen"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CascadeError(f"snapshot '{file}' is damaged, or was not made by this program") from error

    def keep(self, wanted: Callable[[int], bool]) -> None:
        """Remove those of the steps that are not wanted."""
        for (step, _), file in self.found().items():
            if not wanted(step):
                file.unlink(missing_ok=True)

    def write_config(self, mapping: Mapping[str, Any]) -> None:
        """Write what the stage of these weights says of itself."""
        write_whole(self.path / CONFIG, yaml.safe_dump(dict(mapping), sort_keys=False, allow_unicode=True))

    def config(self) -> Any:
        """Read it; CascadeError where it is not there."""
        if not (self.path / CONFIG).is_file():
            raise CascadeError(f"the snapshots in '{self.path}' are damaged: {CONFIG} is missing")
        return read_yaml(self.path / CONFIG)

    def _file(self, step: int, sigma_rel: float) -> Path:
        return self.path / f"{step:08}-sigma_rel-{sigma_rel!r}.safetensors"
