"""The two sides of an evaluation, opened and checked at one size before anything is computed."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.artifact import load_chain
from cascade.class_tables import table_difference
from cascade.commands.per_stage import read_per_stage
from cascade.errors import CascadeError
from cascade.requests import chosen_stages
from cascade.stage_settings import planned, stored_samplings

if TYPE_CHECKING:
    from torch import Tensor

    from cascade.commands.evaluated_samples import EvaluatedSamples
    from cascade.data.folder import BadFile
    from cascade.evaluation.picture_folder import PictureFolder
    from cascade.progress import Bars

LEAST = 3  # pictures on a side


@dataclass(frozen=True)
class Pictures:
    """One side of a comparison: its pictures (each with its low-res input or None), and what there is to say of it.

    `rule` says how the pictures were brought to the size at which they are compared; None: they are as they are.
    `bad_files` could not be read and are not among the `count` pictures. `classes` names the class of each picture,
    None where it is not known.
    """

    pairs: "Callable[[], Iterator[tuple[Tensor, Tensor | None]]]"
    count: int
    source: Mapping[str, Any]
    rule: str | None = None
    bad_files: "Sequence[BadFile]" = field(default=())
    classes: "Sequence[str | None]" = field(default=())

    def report(self) -> dict[str, Any]:
        """What the report says of this side."""
        bad = [{"file": bad.path, "reason": bad.reason} for bad in self.bad_files]
        return {"count": self.count, "rule": self.rule, **self.source, "num_bad_files": len(bad), "bad_files": bad}


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


def open_sides(plain: Mapping[str, Any], out: Path | None, bars: "Bars") -> tuple[Pictures, Pictures]:
    """What is evaluated, and what it is compared with; the samples of a cascade are kept in `out`."""
    folder = None if plain["reference"] is None else _folder(plain["reference"], bars)
    generated, side, table = open_generated(plain, out, bars, [] if folder is None else [folder])
    if folder is None:
        wanted = generated.count if plain["num_reference"] is None else plain["num_reference"]
        return generated, of_data(plain, side, plain["data"]["split"], bars, wanted=wanted, table=table)
    if folder.side < side:
        raise CascadeError(f"{folder.root} holds pictures of {folder.side} px, and {side} px are to be compared")
    return generated, _of_folder(folder, side)


def open_generated(
    plain: Mapping[str, Any], out: Path | None, bars: "Bars", beside: "Sequence[PictureFolder]" = ()
) -> tuple[Pictures, int, tuple[str, ...]]:
    """What is evaluated, the side at which it is, and the class table if it is a cascade's.

    A folder is read at the shortest side of it and those `beside` it.
    """
    from cascade.evaluation.picture_folder import common_side

    if plain["images"] is not None:
        images = _folder(plain["images"], bars)
        side = common_side([images, *beside])
        return _of_folder(images, side), side, ()
    samples = _samples(plain, out, bars)
    side, table = samples.pipeline.configs[len(samples.record["stages"]) - 1].resolution, samples.class_names
    seeds = {"first_seed": plain["first_seed"], "count": len(samples.seeds)}
    source = {"cascade": str(plain["cascade"]), "seeds": seeds, **samples.record}
    classes = [table[seed % len(table)] if table else None for seed in samples.seeds]
    return Pictures(lambda: iter(samples), len(samples.seeds), source, classes=classes), side, table


def _folder(root: str, bars: "Bars") -> "PictureFolder":
    from cascade.evaluation.picture_folder import PictureFolder

    return PictureFolder(root, lambda done, total: bars.at(f"looking through {root}", done, total))


def _of_folder(folder: "PictureFolder", side: int) -> Pictures:
    if len(folder) < LEAST:
        raise CascadeError(
            f"{folder.root} holds {len(folder)} pictures that can be read; {LEAST} are the least to compare"
        )
    source = {"folder": str(folder.root), "side": side, "left_out": folder.left_out}
    pairs = lambda: ((folder.image(i, side), None) for i in range(len(folder)))  # noqa: E731
    return Pictures(pairs, len(folder), source, folder.rule(side), folder.bad_files, folder.classes)


def _samples(plain: Mapping[str, Any], out: Path | None, bars: "Bars") -> "EvaluatedSamples":
    from cascade.commands.evaluated_samples import EvaluatedSamples
    from cascade.orchestrator import CascadePipeline

    configs = load_chain(plain["cascade"])
    only = [config.name for config in configs[chosen_stages(configs, plain["stages"], None)]]
    pipeline = CascadePipeline.load(plain["cascade"], plain["device"], plain["precision"], only)
    first = plain["first_seed"]
    return EvaluatedSamples(
        pipeline,
        range(first, first + plain["num_images"]),
        plain["guidance_scale"],
        plain["stages"],
        read_per_stage(plain["per_stage"], [config.name for config in configs]),
        None if out is None else out / "samples",
        on_progress=lambda stage, step, total: bars.at(f"  {stage}, steps", step, total),
    )


def of_data(
    plain: Mapping[str, Any], side: int, split: str, bars: "Bars", *, wanted: int | None, table: Sequence[str]
) -> Pictures:
    """Pictures of the data, `wanted` of them (None: all) chosen by seed, which know the classes of `table` or none."""
    from cascade.data.folder import FolderDataset
    from cascade.data.source import open_dataset
    from cascade.rng import permutation

    source = {key: value for key, value in plain["data"].items() if key != "split"}
    dataset = open_dataset(source, side, split, lambda done, total: bars.at("looking through the data", done, total))
    if table and dataset.class_names and set(table) != set(dataset.class_names):
        raise CascadeError(
            f"the cascade knows other classes than the data: "
            f"{table_difference('the cascade', table, 'the data', dataset.class_names)}; "
            "compare with the data that it was trained on"
        )
    order = permutation("evaluation", "reference", plain["seed"], size=len(dataset)).tolist()
    chosen = sorted(order[:wanted])
    if len(chosen) < LEAST:
        raise CascadeError(f"the data hold {len(chosen)} pictures; {LEAST} are the least to compare")
    names = dataset.class_names
    classes = Counter(names[dataset.label(i)] for i in chosen) if names else {}
    said = {
        "data": {**source, "split": split},
        "side": side,
        "fingerprint": dataset.fingerprint,
        "of": len(dataset),
        "classes": dict(sorted(classes.items())),
    }
    rule = None if source["name"] == "procedural" else f"centre square, bicubic to {side} px"
    bad_files = dataset.bad_files if isinstance(dataset, FolderDataset) else ()
    pairs = lambda: ((dataset.image(i), None) for i in chosen)  # noqa: E731
    of = [names[dataset.label(i)] if names else None for i in chosen]
    return Pictures(pairs, len(chosen), said, rule, bad_files, of)
