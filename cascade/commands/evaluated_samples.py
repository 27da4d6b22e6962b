"""The pictures that an evaluation samples: kept in `out`, so that a rerun reads what is there and makes the rest."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.commands.png import png_pixels, sample_png
from cascade.errors import CascadeError
from cascade.files import write_whole

if TYPE_CHECKING:
    from torch import Tensor

    from cascade.orchestrator import CascadePipeline, OnProgress, SampledImage
    from cascade.stage_sampler import StageSampler
    from cascade.stage_settings import StageSettings


_LEAST = 16  # pictures of a chunk


@dataclass(frozen=True)
class EvaluatedSamples:
    """Pictures of consecutive seeds, classes in turn: that of seed s is s mod their number.

    Below `keep` (None: nothing is kept) each stage has a folder, named by the hash of everything its pixels depend on,
    so pictures of different weights or settings never mix, and sampling starts behind the last stage whose are there.
    Iterating yields (picture, the low-res picture it was made from or None); whatever is made is kept at once.
    """

    pipeline: "CascadePipeline"
    seeds: Sequence[int]
    guidance_scale: float | None
    stages: int | None
    settings: "Mapping[str, StageSettings]"
    keep: Path | None
    on_progress: "OnProgress | None" = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that the stages which run, or their classifiers, know; empty if none does."""
        return next((sampler.class_names for sampler in self.plan() if sampler.class_names), ())

    @property
    def record(self) -> dict[str, Any]:
        """What the pixels depend on beside the seed, as plain JSON values."""
        return self._records()[-1]

    @property
    def chunk(self) -> int:
        """How many pictures are made at once without a waste: whole calls of the network, 16 pictures or more."""
        largest = max(stage.chunk for stage in self.plan())
        return largest * math.ceil(_LEAST / largest)

    def __iter__(self) -> "Iterator[tuple[Tensor, Tensor | None]]":
        if self.keep is None:
            for image in self._sample(self.seeds, None):
                made = list(image.stage_images.values())[-2:]
                yield made[-1], made[0] if len(made) == 2 else None
            return
        records, folders = self._records(), self.folders()
        missing = [seed for seed in self.seeds if not kept(folders[-2:], [seed])]
        first = self._first_to_run(folders, missing)
        for record, folder in [*zip(records, folders, strict=True)][first:] if missing else ():
            write_whole(folder / "record.json", json.dumps(record, indent=1) + "\n")
        new = self._sample(missing, _Inputs(folders[first - 1], missing) if first else None, first)
        to_make, of_stage = set(missing), dict(zip((stage.name for stage in self.plan()), folders, strict=True))
        for seed in self.seeds:
            if seed in to_make:
                sampled = next(new)
                for name, image in sampled.stage_images.items():
                    write_whole(_file(of_stage[name], seed), sample_png(image, seed, sampled.class_name))
            *before, last = (_read(_file(folder, seed)) for folder in folders[-2:])
            yield last, before[0] if before else None

    def folders(self) -> list[Path]:
        """Where each stage's pictures are kept."""
        assert self.keep is not None, "nothing is kept"
        return [self.keep / _folder_name(record["stages"][-1]["stage"], record) for record in self._records()]

    def _first_to_run(self, folders: Sequence[Path], missing: Sequence[int]) -> int:
        """The place of the first stage that must run: behind the last one whose pictures are all there."""
        plan = self.plan()
        for place in range(len(folders) - 1, 0, -1):
            # A truncated stage is handed x_λ, which is not kept.
            if not plan[place].sampling.truncated and kept([folders[place - 1]], missing):
                return place
        return 0

    @property
    def folder(self) -> Path | None:
        """Where the last stage's pictures are kept."""
        if self.keep is None:
            return None
        return self.folders()[-1]

    def _sample(self, seeds: Sequence[int], low_res: "_Inputs | None", first: int = 0) -> "Iterator[SampledImage]":
        table = self.class_names
        if not seeds:
            return iter(())
        settings = self.settings
        if low_res is not None:
            running = [stage.name for stage in self.plan()[first:]]
            settings = {name: own for name, own in settings.items() if name in running}
        return self.pipeline.iterate(
            [seed % len(table) for seed in seeds] if table else None,
            seeds,
            self.guidance_scale if low_res is None else None,  # it is the base stage's
            stages=self.stages,
            settings=settings,
            low_res=low_res,
            stage_images=True,
            on_progress=self.on_progress,
        )

    def plan(self) -> "list[StageSampler]":
        """The stages as they are sampled, in order."""
        return self.pipeline.plan(
            self.guidance_scale,
            stages=self.stages,
            settings=self.settings,
            on_progress=self.on_progress,
        )

    def _records(self) -> list[dict[str, Any]]:
        """The record of each stage: its own settings and those of the stages before it."""
        p = self.pipeline
        common = {
            "classes": list(self.class_names),
            "threads": p.threads,
            "device": p.device.type,  # which of several alike is no matter
        }
        rows = [stage.record() for stage in self.plan()]
        return [{"stages": rows[: number + 1], **common} for number in range(len(rows))]


@dataclass(frozen=True)
class _Inputs:
    """Kept pictures to start a stage from, read when their turn comes."""

    folder: Path
    seeds: Sequence[int]

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, place: int) -> "Tensor":
        return _read(_file(self.folder, self.seeds[place]))


def kept(folders: Iterable[Path], seeds: Sequence[int]) -> bool:
    """Whether the pictures of all seeds are in all of the folders."""
    return all(_file(folder, seed).is_file() for folder in folders for seed in seeds)


def _folder_name(stage: str, record: Mapping[str, Any]) -> str:
    return f"{stage}-{hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]}"


def _file(folder: Path, seed: int) -> Path:
    return folder / f"{seed:06d}.png"


def _read(file: Path) -> "Tensor":
    try:
        return png_pixels(file)
    except (OSError, SyntaxError, ValueError) as error:
        raise CascadeError(f"{file} is damaged; remove it, and it will be made again") from error
