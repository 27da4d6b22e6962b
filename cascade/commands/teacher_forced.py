"""What a super-resolution stage makes of photographs that were made small as in training ("teacher-forced").

Nothing that a stage before it does badly is in such pictures.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.commands.evaluated_sides import Pictures
from cascade.commands.png import sample_png
from cascade.errors import CascadeError
from cascade.files import write_whole

if TYPE_CHECKING:
    from torch import Tensor

    from cascade.commands.evaluated_samples import EvaluatedSamples
    from cascade.data.dataset import PictureDataset
    from cascade.orchestrator import CascadePipeline, OnProgress
    from cascade.stage_sampler import StageSampler
    from cascade.stage_settings import StageSettings


UPSCALED = "upscaled"
"""The folder of such pictures in that of an evaluation."""


def chosen_photographs(dataset: "PictureDataset", seed: int, wanted: int) -> list[int]:
    """The places of so many photographs, chosen by seed, in order; of all where there are fewer."""
    from cascade.rng import permutation

    return sorted(permutation("evaluation", "upscaling", seed, size=len(dataset)).tolist()[:wanted])


@dataclass(frozen=True, eq=False)
class TeacherForced:
    """Stage number `stages` of a cascade, and photographs of its own size.

    The picture of place i in the data has seed i. What is made is kept below `keep`, if given, in a folder of the hash
    of everything the pixels depend on, and read from there.
    """

    pipeline: "CascadePipeline"
    settings: "Mapping[str, StageSettings]"
    stages: int
    dataset: "PictureDataset"
    keep: Path | None
    on_progress: "OnProgress | None" = None

    @property
    def name(self) -> str:
        """The name of the stage."""
        return self.pipeline.configs[self.stages - 1].name

    def plan(self) -> "StageSampler":
        """The stage as it is sampled; raises CascadeError for what does not fit."""
        low = self.pipeline.configs[self.stages - 1].low_resolution
        (stage,) = self.pipeline.plan(stages=self.stages, settings=self.settings, low_resolution=low)
        return stage

    @cached_property
    def record(self) -> dict[str, Any]:
        """What the pixels depend on beside the picture, as plain JSON values."""
        return {
            "stages": [self.plan().record()],
            "threads": self.pipeline.threads,
            "device": self.pipeline.device.type,  # which of several alike is no matter
            "fingerprint": self.dataset.fingerprint,
            "low_resolution": self.pipeline.configs[self.stages - 1].low_resolution,
        }

    @classmethod
    def of(
        cls, samples: "EvaluatedSamples", stages: int, dataset: "PictureDataset", out: Path | None
    ) -> "TeacherForced":
        """Stage number `stages` as it is sampled in `samples`, whose pictures lie in the same `out`.

        Where the stage before stops early, noise is added to the photographs instead.
        """
        from cascade.stage_settings import StageSettings

        name = samples.pipeline.configs[stages - 1].name
        settings = {name: replace(samples.settings.get(name, StageSettings()), truncated=False)}
        keep = None if out is None else out / UPSCALED
        return cls(samples.pipeline, settings, stages, dataset, keep, samples.on_progress)

    def as_side(self, places: Sequence[int], cascade: str) -> Pictures:
        """What it makes of the photographs at these places, as one side of a comparison.

        A chunk is whole calls of the network: 16 pictures or more of 256 px, fewer of larger ones, which take longer.
        """
        places_at = lambda chosen: places[chosen.start : chosen.stop]  # noqa: E731
        chunk, least = self.plan().chunk, max(1, 16 * 256**2 // max(256, self.dataset.resolution) ** 2)
        return Pictures(
            lambda chosen: self.pictures(places_at(chosen)),
            len(places),
            {"cascade": cascade, **self.record},
            {"of": UPSCALED, "chosen": list(places), **self.record},
            chunk=chunk * math.ceil(least / chunk),
            there=lambda chosen: self.keep is None or all(self.file(place).is_file() for place in places_at(chosen)),
        )

    def low_res(self, place: int) -> "Tensor":
        """The photograph of that place made small by the rule of training, uint8 (3, h, h)."""
        from cascade.data.degradation import from_uint8, shrink, to_uint8

        low = self.pipeline.configs[self.stages - 1].low_resolution
        assert low is not None, "a base stage is handed nothing"
        return to_uint8(shrink(from_uint8(self.dataset.image(place)), low))

    def pictures(self, places: Sequence[int]) -> "Iterator[tuple[Tensor, Tensor]]":
        """What the stage makes of each, and what it was made from; what is kept already is read."""
        from cascade.data.picture import UnreadablePicture, read_square

        if self.keep is None:
            for place, image in zip(places, self._sampled(places), strict=True):
                yield image, self.low_res(place)
            return
        missing = [place for place in places if not self.file(place).is_file()]
        if missing:
            write_whole(self.folder / "record.json", json.dumps(self.record, indent=1) + "\n")
        new, to_make = self._sampled(missing), set(missing)
        for place in places:
            file = self.file(place)
            if place in to_make:
                write_whole(file, sample_png(next(new), place, self._class_of(place)))
            try:
                image = read_square(file, self.dataset.resolution)[0]
            except (UnreadablePicture, OSError) as error:
                raise CascadeError(f"{file} is damaged; remove it, and it will be made again") from error
            yield image, self.low_res(place)

    def file(self, place: int) -> Path:
        """Where the picture of that place is kept."""
        return self.folder / f"{place:06d}.png"

    @cached_property
    def folder(self) -> Path:
        """Where all of them are kept, by the hash of what the pixels depend on."""
        assert self.keep is not None, "nothing is kept"
        digest = hashlib.sha256(json.dumps(self.record, sort_keys=True).encode()).hexdigest()[:12]
        return self.keep / f"{self.name}-{digest}"

    def _sampled(self, places: Sequence[int]) -> "Iterator[Tensor]":
        if not places:
            return iter(())
        images = self.pipeline.iterate(
            [self._class_of(place) for place in places],
            list(places),
            stages=self.stages,
            settings=self.settings,
            low_res=_LowRes(self, places),
            on_progress=self.on_progress,
        )
        return (image.image for image in images)

    def _class_of(self, place: int) -> str | None:
        names = self.dataset.class_names
        known = names and self.pipeline.configs[self.stages - 1].class_names
        return names[self.dataset.label(place)] if known else None


@dataclass(frozen=True)
class _LowRes:
    """Small photographs, each made when its turn comes."""

    of: TeacherForced
    places: Sequence[int]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> "Tensor":
        return self.of.low_res(self.places[i])
