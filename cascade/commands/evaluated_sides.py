"""The two sides of an evaluation, opened and checked at one size before anything is computed."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cascade import __version__
from cascade.artifact import load_chain
from cascade.class_tables import table_difference
from cascade.commands.measured_chunks import MeasuredChunks
from cascade.commands.named_protocol import protocol_of
from cascade.commands.per_stage import read_per_stage
from cascade.commands.shared_chunks import SharedChunks
from cascade.commands.team import Team
from cascade.errors import CascadeError, suggest
from cascade.requests import check_device_name, check_precision, check_seed, check_threads, chosen_stages
from cascade.stage_settings import planned, stored_samplings

if TYPE_CHECKING:
    from torch import Tensor

    from cascade.commands.evaluated_samples import EvaluatedSamples
    from cascade.data.dataset import PictureDataset
    from cascade.data.folder import BadFile
    from cascade.evaluation.features import Features
    from cascade.evaluation.picture_folder import PictureFolder
    from cascade.progress import Bars

LEAST = 3  # pictures on a side
SAMPLED = "samples"
"""Of what a cascade has sampled from noise."""
Work = TypeVar("Work", bound=SharedChunks[Any])


def is_statistics(reference: str | None) -> bool:
    """Whether `reference` names a file of statistics, and not a folder.

    >>> is_statistics("photos"), is_statistics("photos.npz")
    (False, True)
    """
    return reference is not None and reference.endswith(".npz")


@dataclass(frozen=True)
class Pictures:
    """One side of a comparison: its pictures (each with its low-res input or None), and what there is to say of it.

    `read(places)` gives those at some of the places 0 to `count`, and `identity` is what they depend on beside their
    place; they are measured in chunks of `chunk` places. `rule` says how the pictures were brought to the size at which
    they are compared; None: they are as they are. `bad_files` could not be read and are not among the `count` pictures.
    `classes` names the class of each picture, None where it is not known. `there(places)` says whether those that are
    made and kept still are.
    """

    read: "Callable[[range], Iterator[tuple[Tensor, Tensor | None]]]"
    count: int
    source: Mapping[str, Any]
    identity: Mapping[str, Any]
    rule: str | None = None
    bad_files: "Sequence[BadFile]" = field(default=())
    classes: "Sequence[str | None]" = field(default=())
    chunk: int = 64
    there: Callable[[range], bool] = lambda _: True

    def pairs(self, places: range | None = None) -> "Iterator[tuple[Tensor, Tensor | None]]":
        """The pictures at these places, in order; None: all."""
        return self.read(range(self.count) if places is None else places)

    def report(self) -> dict[str, Any]:
        """What the report says of this side."""
        bad = [{"file": bad.path, "reason": bad.reason} for bad in self.bad_files]
        return {"count": self.count, "rule": self.rule, **self.source, "num_bad_files": len(bad), "bad_files": bad}


def check_sides(plain: Mapping[str, Any]) -> None:
    """Check how many pictures are compared, of which seeds and split, and on what machine, without torch."""
    from cascade.data.listing import SPLITS

    for key, least in (("num_images", LEAST), ("first_seed", 0), ("batch", 1)):
        if plain[key] < least:
            raise CascadeError(f"{key}={plain[key]} must be at least {least}")
    if plain["num_reference"] is not None and plain["num_reference"] < LEAST:
        raise CascadeError(f"num_reference={plain['num_reference']} must be at least {LEAST}")
    check_threads(plain["threads"])
    check_device_name(plain["device"])
    check_precision(plain["precision"])
    check_seed(plain["seed"])
    check_seed(plain["first_seed"] + plain["num_images"] - 1)
    if plain["data"]["split"] not in SPLITS:
        raise CascadeError(f"unknown split '{plain['data']['split']}'; {suggest(plain['data']['split'], SPLITS)}")


def check_cascade(plain: Mapping[str, Any]) -> None:
    """Check what is asked of the cascade, without torch."""
    if plain["cascade"] is None:
        given = [key for key in ("stages", "guidance_scale") if plain[key] is not None]
        if given := given + sorted(plain["per_stage"]):
            raise CascadeError(f"{given[0]} is a setting of a cascade, and images={plain['images']} samples none")
        return
    configs = load_chain(plain["cascade"])
    samplings = stored_samplings(plain["cascade"])
    settings = read_per_stage(plain["per_stage"], [config.name for config in configs])
    planned(configs, samplings, chosen_stages(configs, plain["stages"], None), settings, plain["guidance_scale"])


@dataclass(frozen=True, eq=False)
class Sides:
    """What is evaluated, and what it is compared with; the samples of a cascade are kept in `out`, as what is measured.

    Each is opened when it is first asked for, and once for all metrics: a cascade's weights are read, and every file of
    a folder is looked at.
    """

    plain: Mapping[str, Any]
    out: Path | None
    bars: "Bars"
    team: Team = field(default_factory=lambda: Team(None))
    precisions: Mapping[str, str] = field(default_factory=dict)
    works: dict[str, SharedChunks[Any]] = field(default_factory=dict)

    def look(
        self, pictures: Pictures, features: "Features", name: str, more: Mapping[str, Any] | None = None
    ) -> MeasuredChunks:
        """What measures one side, once for all metrics that ask for the same.

        `more` is what the features depend on beside their name, weights and resizing.
        """
        record = {
            "pictures": pictures.identity,
            "features": [features.name, features.sha256, features.resize, more],
            "chunk": pictures.chunk,
        }
        own = {"pictures": pictures, "features": features, "batch": self.plain["batch"]}
        # Of more pictures the first are the same files.
        return self.share(pictures.identity["of"], record, MeasuredChunks, name, own)

    def share(
        self, of: str, record: Mapping[str, Any], kind: "type[Work]", name: str, own: Mapping[str, Any]
    ) -> "Work":
        """Work that all processes share, once for all that ask for the same.

        `record` is what its pieces depend on beside their places and the machine, `own` are the fields of its `kind`.
        """
        import torch

        record = {
            **record,
            "threads": torch.get_num_threads(),
            "device": torch.device(self.plain["device"]).type,
            "versions": [__version__, torch.__version__],
        }
        digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]
        key = f"{of}-{digest}"
        folder = None if self.out is None else self.out / "measured" / key
        work = kind(folder=folder, team=self.team, bars=self.bars, name=name, **own)
        return self.works.setdefault(f"{key}, {work.count}", work)

    @property
    def generated(self) -> Pictures:
        """What is evaluated."""
        return self._generated[0]

    @property
    def side(self) -> int:
        """Pixels of a side of the pictures as they are compared."""
        return self._generated[1]

    @property
    def class_names(self) -> Sequence[str]:
        """All classes that a cascade knows; of a folder it is not known."""
        return self._generated[2]

    def reference(self) -> Pictures:
        """What `reference` or `data` says that it is compared with."""
        generated, side, _ = self._generated
        folder = self._folder
        if folder is None:
            every = protocol_of(self.plain).whole_reference
            asked = self.plain["num_reference"]
            wanted = generated.count if asked is None and not every else asked
            return self.of_data(self.plain["data"]["split"], wanted=wanted)
        if folder.side < side:
            raise CascadeError(f"{folder.root} holds pictures of {folder.side} px, and {side} px are to be compared")
        return _of_folder(folder, side)

    def of_data(self, split: str, *, wanted: int | None) -> Pictures:
        """Pictures of the data at the size of what is evaluated, `wanted` of them (None: all)."""
        return of_data(self._dataset(split), self.plain, split, wanted=wanted)

    @cached_property
    def _folder(self) -> "PictureFolder | None":
        given = self.plain["reference"]
        return None if given is None or is_statistics(given) else _folder(given, self.bars)

    @cached_property
    def _generated(self) -> tuple[Pictures, int, tuple[str, ...]]:
        beside = [] if self._folder is None else [self._folder]
        return _open_generated(self.plain, lambda: self.samples, self.bars, beside)

    @cached_property
    def samples(self) -> "EvaluatedSamples":
        """The samples of the cascade, which is given."""
        return _samples(self)

    @cached_property
    def _dataset(self) -> "Callable[[str], PictureDataset]":
        _, side, table = self._generated
        return cache(lambda split: open_data(self.plain, side, split, self.bars, table=table))


def _open_generated(
    plain: Mapping[str, Any],
    sampled: "Callable[[], EvaluatedSamples]",
    bars: "Bars",
    beside: "Sequence[PictureFolder]",
) -> tuple[Pictures, int, tuple[str, ...]]:
    """What is evaluated, the side at which it is, and the class table if it is a cascade's.

    A folder is read at the shortest side of it and those `beside` it.
    """
    from cascade.evaluation.picture_folder import common_side

    if plain["images"] is not None:
        images = _folder(plain["images"], bars)
        side = common_side([images, *beside])
        return _of_folder(images, side), side, ()
    samples = sampled()
    side = samples.pipeline.configs[len(samples.record["stages"]) - 1].resolution
    return sampled_pictures(samples, plain), side, samples.class_names


def sampled_pictures(samples: "EvaluatedSamples", plain: Mapping[str, Any]) -> Pictures:
    """Pictures that a cascade samples, as one side of a comparison."""
    from cascade.commands.evaluated_samples import kept

    table = samples.class_names
    seeds = {"first_seed": samples.seeds[0], "count": len(samples.seeds)}
    source = {"cascade": str(plain["cascade"]), "seeds": seeds, **samples.record}
    classes = [table[seed % len(table)] if table else None for seed in samples.seeds]
    seeds_at = lambda places: samples.seeds[places.start : places.stop]  # noqa: E731
    folders = [] if samples.keep is None else samples.folders()[-2:]
    return Pictures(
        lambda places: iter(replace(samples, seeds=seeds_at(places))),
        len(samples.seeds),
        source,
        {"of": SAMPLED, "first_seed": samples.seeds[0], **samples.record},
        classes=classes,
        chunk=samples.chunk,
        there=lambda places: kept(folders, seeds_at(places)),
    )


def _folder(root: str, bars: "Bars") -> "PictureFolder":
    from cascade.evaluation.picture_folder import PictureFolder

    return PictureFolder(root, lambda done, total: bars.at(f"looking through {root}", done, total))


def _of_folder(folder: "PictureFolder", side: int) -> Pictures:
    if len(folder) < LEAST:
        raise CascadeError(
            f"{folder.root} holds {len(folder)} pictures that can be read; {LEAST} are the least to compare"
        )
    fingerprint = folder.fingerprint()
    source = {"folder": str(folder.root), "side": side, "fingerprint": fingerprint, "left_out": folder.left_out}
    read = lambda places: ((folder.image(i, side), None) for i in places)  # noqa: E731
    identity = {"of": "folder", "side": side, "files": fingerprint}
    return Pictures(read, len(folder), source, identity, folder.rule(side), folder.bad_files, folder.classes)


def _samples(sides: Sides) -> "EvaluatedSamples":
    from cascade.commands.evaluated_samples import EvaluatedSamples
    from cascade.orchestrator import CascadePipeline

    plain, bars = sides.plain, sides.bars
    configs = load_chain(plain["cascade"])
    only = [config.name for config in configs[chosen_stages(configs, plain["stages"], None)]]
    precision = sides.precisions if plain["precision"] == "auto" and sides.precisions else plain["precision"]
    pipeline = CascadePipeline.load(plain["cascade"], plain["device"], precision, only)

    def at(stage: str, step: int, total: int) -> None:
        sides.team.beat()
        bars.at(f"  {stage}, steps", step, total)
        if step >= total:
            bars.end(f"  {stage}, steps")

    first = plain["first_seed"]
    return EvaluatedSamples(
        pipeline,
        range(first, first + plain["num_images"]),
        plain["guidance_scale"],
        plain["stages"],
        read_per_stage(plain["per_stage"], [config.name for config in configs]),
        None if sides.out is None else sides.out / "samples",
        on_progress=at,
    )


def open_data(
    plain: Mapping[str, Any], side: int, split: str, bars: "Bars", *, table: Sequence[str]
) -> "PictureDataset":
    """A split of the data, which know the classes of `table` or none."""
    from cascade.data.source import open_dataset

    looked = lambda done, total: bars.at("looking through the data", done, total)  # noqa: E731
    dataset = open_dataset(_source(plain), side, split, looked)
    if table and dataset.class_names and set(table) != set(dataset.class_names):
        raise CascadeError(
            f"the cascade knows other classes than the data: "
            f"{table_difference('the cascade', table, 'the data', dataset.class_names)}; "
            "compare with the data that it was trained on"
        )
    return dataset


def of_data(dataset: "PictureDataset", plain: Mapping[str, Any], split: str, *, wanted: int | None) -> Pictures:
    """Pictures of a split of the data, `wanted` of them (None: all) chosen by seed."""
    from cascade.rng import permutation

    order = permutation("evaluation", "reference", plain["seed"], size=len(dataset)).tolist()
    return pictures_at(dataset, plain, split, sorted(order[:wanted]))


def pictures_at(dataset: "PictureDataset", plain: Mapping[str, Any], split: str, chosen: Sequence[int]) -> Pictures:
    """The pictures at these places of a split of the data."""
    from cascade.data.folder import FolderDataset

    source = _source(plain)
    if len(chosen) < LEAST:
        raise CascadeError(f"the data hold {len(chosen)} pictures; {LEAST} are the least to compare")
    names = dataset.class_names
    classes = Counter(names[dataset.label(i)] for i in chosen) if names else {}
    said = {
        "data": {**source, "split": split},
        "side": dataset.resolution,
        "fingerprint": dataset.fingerprint,
        "of": len(dataset),
        "classes": dict(sorted(classes.items())),
    }
    rule = None if source["name"] == "procedural" else f"centre square, bicubic to {dataset.resolution} px"
    bad_files = dataset.bad_files if isinstance(dataset, FolderDataset) else ()
    read = lambda places: ((dataset.image(chosen[place]), None) for place in places)  # noqa: E731
    identity = {"of": "real", "fingerprint": dataset.fingerprint, "chosen": list(chosen)}
    of = [names[dataset.label(i)] if names else None for i in chosen]
    return Pictures(read, len(chosen), said, identity, rule, bad_files, of)


def _source(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The data without the split."""
    return {key: value for key, value in plain["data"].items() if key != "split"}
