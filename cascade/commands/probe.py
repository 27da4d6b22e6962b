"""`cascade probe`: the least noise under which what a stage is given cannot be told from real low-res pictures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade import __version__
from cascade.artifact import StageConfig, check_aug_level, load_chain
from cascade.commands.configuration import plain_of_stage
from cascade.commands.evaluated_sides import check_sides
from cascade.commands.per_stage import extra_keys, place_of, read_per_stage
from cascade.commands.reports import check_out, write_report
from cascade.errors import CascadeError
from cascade.files import expanded, write_whole
from cascade.lock import exclusive
from cascade.stage_settings import StageSettings, planned, stored_samplings
from cascade.trained_levels import levels_of_255, noise_in_words, spread_levels

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console
    from torch import Tensor

    from cascade.data.dataset import PictureDataset
    from cascade.evaluation.features import Features
    from cascade.evaluation.jackknife import Estimate
    from cascade.progress import Bars

__all__ = ["extra_keys", "run"]

REPORT, FIGURE = "probe.json", "probe.png"
LEVELS = 9
_MADE_BY = "cascade probe"


def run(config: "DictConfig") -> None:
    """Sample, augment and probe; write table, figure and samples. See `conf/probe.yaml`."""
    from hydra.core.hydra_config import HydraConfig

    plain = plain_of_stage(config)
    out = expanded(plain["out"])
    stage, levels, settings = _checked(plain, out)
    import torch

    from cascade.commands.evaluated_samples import EvaluatedSamples
    from cascade.commands.evaluated_sides import open_data, pictures_at
    from cascade.commands.evaluation_features import chosen_features
    from cascade.commands.figure_table import wide_console
    from cascade.commands.probe_figure import draw_probe
    from cascade.commands.written import shell_line, written
    from cascade.evaluation.probe import probe_auc, start_level
    from cascade.orchestrator import CascadePipeline
    from cascade.progress import progress_bars

    if plain["threads"] is not None:
        torch.set_num_threads(plain["threads"])
    names = [config.name for config in load_chain(plain["cascade"])]
    place = names.index(stage.name)
    pipeline = CascadePipeline.load(plain["cascade"], plain["device"], plain["precision"], names[:place])
    first, split = plain["first_seed"], plain["data"]["split"]
    seeds = range(first, first + plain["num_images"])
    with exclusive(out), progress_bars() as bars:
        on_step = lambda name, step, total: bars.at(f"{name}, steps", step, total)  # noqa: E731
        samples = EvaluatedSamples(pipeline, seeds, None, place, settings, out / "samples", on_step)
        dataset = open_data(plain, stage.resolution, split, bars, table=samples.class_names)
        seeds, places = _chosen(seeds, samples.class_names, dataset, plain)
        real = pictures_at(dataset, plain, split, places)
        features = chosen_features(plain, bars.console)
        augmented = [
            Augmented(_generated(samples, seeds, bars), seeds, stage.name),
            Augmented(_real(dataset, stage, places, bars), [f"real {i}" for i in places], stage.name),
        ]
        aucs: dict[float, Estimate] = {}
        for number, level in enumerate(levels):
            bars.at("levels", number, len(levels))
            looks = [one.features(level, features, plain["batch"]) for one in augmented]
            aucs[level] = probe_auc(*looks, seed=plain["seed"], folds=plain["folds"])
        bars.at("levels", len(levels), len(levels))
        start = start_level(aucs)
        present = stored_samplings(plain["cascade"])[place].aug_log_snr
        report = {
            "made_by": _MADE_BY,
            "command": shell_line("probe", written(HydraConfig.get().overrides.task)),
            "cascade": str(plain["cascade"]),
            "stage": stage.name,
            "low_resolution": stage.low_resolution,
            "features": {"name": features.name, "sha256": features.sha256, "resize": features.resize},
            "num_images": len(seeds),
            "seeds": list(seeds),
            "generated": samples.record,
            "reference": real.report(),
            "seed": plain["seed"],
            "folds": plain["folds"],
            "levels": _rows(aucs),
            "start": start,
            "in_the_cascade": present,
            "version": __version__,
        }
        write_report(out / REPORT, report)
        title = f"{stage.name} of {plain['cascade']}: {len(seeds)} low-res pictures against as many real ones"
        write_whole(out / FIGURE, draw_probe(aucs, start, present, features.name, title))
    _print(wide_console(), aucs, start, present, title)
    print(f"{out / FIGURE}\n{out / REPORT}")


def _checked(plain: Mapping[str, Any], out: Path) -> tuple[StageConfig, list[float], dict[str, StageSettings]]:
    """Everything that can be said without torch: the stage, the levels, and the settings of those before it."""
    from cascade.data.source import check_source

    configs = load_chain(plain["cascade"])
    names = [config.name for config in configs]
    place = place_of(plain["stage"], names)
    stage, stored = configs[place], stored_samplings(plain["cascade"])
    if place == 0:
        raise CascadeError(f"'{stage.name}' comes first and is given no pictures of another stage to be told from real")
    if stored[place].truncated:
        raise CascadeError(f"'{stage.name}' is truncated: the noise it is shown is what the stage before has left")
    check_sides(plain)
    check_source(plain["data"], stage.resolution, [plain["data"]["split"]])
    if plain["folds"] < 3:
        raise CascadeError(f"folds={plain['folds']} must be at least 3")
    levels = spread_levels(stage.augmentation, LEVELS) if plain["levels"] is None else plain["levels"]
    if not levels or len(set(levels)) < len(levels):
        raise CascadeError(f"levels={levels}: name one or more, each once")
    for level in levels:
        check_aug_level(stage, level)
    settings = read_per_stage(plain["per_stage"], names)
    planned(configs, stored, slice(0, place), settings, None)
    check_out(out, REPORT, _MADE_BY, [FIGURE])
    return stage, sorted((float(level) for level in levels), reverse=True), settings


def matched(ours: Sequence[str | None], theirs: Sequence[str | None]) -> tuple[list[int], list[int]]:
    """The places of as many pictures of each class on both sides, for else their shares alone would tell them apart.

    >>> matched(["hat", "shoe", "hat"], ["hat", "hat", "hat", "dress"])
    ([0, 2], [0, 1])
    >>> matched([None, None], [None, None, None])
    ([0, 1], [0, 1])
    """
    most = Counter(ours) & Counter(theirs)
    return _first_of_each(ours, most), _first_of_each(theirs, most)


def _first_of_each(classes: Sequence[str | None], most: Mapping[str | None, int]) -> list[int]:
    taken: Counter[str | None] = Counter()
    places = []
    for place, name in enumerate(classes):
        if taken[name] < most.get(name, 0):
            taken[name] += 1
            places.append(place)
    return places


def _chosen(
    seeds: Sequence[int], table: Sequence[str], dataset: "PictureDataset", plain: Mapping[str, Any]
) -> tuple[list[int], list[int]]:
    """Seeds, and places in the data, of as many pictures of the same classes; raises CascadeError for too few."""
    from cascade.rng import permutation

    order = permutation("evaluation", "reference", plain["seed"], size=len(dataset)).tolist()[: plain["num_reference"]]
    names = dataset.class_names
    known = bool(table and names)
    mine, theirs = matched(
        [table[seed % len(table)] if known else None for seed in seeds],
        [names[dataset.label(i)] if known else None for i in order],
    )
    if len(mine) < 2 * plain["folds"]:
        raise CascadeError(
            f"{len(mine)} pictures of the same classes are there on both sides, and {plain['folds']} parts need "
            f"{2 * plain['folds']}: more num_images, or more photographs in data"
        )
    return [seeds[i] for i in mine], [order[i] for i in theirs]


def _generated(samples: Any, seeds: Sequence[int], bars: "Bars") -> "Tensor":
    """What the stage before makes, uint8 (n, 3, h, h)."""
    import torch

    made = []
    for image, _ in replace(samples, seeds=seeds):
        made.append(image)
        bars.at("pictures of the stage before", len(made), len(seeds))
    return torch.stack(made)


def _real(dataset: "PictureDataset", stage: StageConfig, places: Sequence[int], bars: "Bars") -> "Tensor":
    """Photographs made as small as the stage is given them, uint8 (n, 3, h, h)."""
    import torch

    from cascade.data.degradation import from_uint8, shrink, to_uint8

    assert stage.low_resolution is not None, "a super-resolution stage"
    made = []
    for place in places:
        made.append(to_uint8(shrink(from_uint8(dataset.image(place)), stage.low_resolution)))
        bars.at("real low-res pictures", len(made), len(places))
    return torch.stack(made)


@dataclass(frozen=True, eq=False)
class Augmented:
    """Low-res pictures uint8 (n, 3, h, h) under a stage's noise, which their `names` draw: the same at all levels."""

    pictures: "Tensor"
    names: Sequence[int | str]
    stage: str

    def features(self, level: float, features: "Features", batch: int) -> "Tensor":
        """Features (n, d) at a level, in 8 bits as a picture is shown; `batch` pictures are held at once."""
        import torch

        from cascade.data.degradation import from_uint8, to_uint8
        from cascade.diffusion.augmentation import augment
        from cascade.rng import randn

        found = []
        for start in range(0, len(self.pictures), batch):
            part = from_uint8(self.pictures[start : start + batch])
            names = self.names[start : start + batch]
            eps = torch.stack([randn("probe", name, self.stage, shape=part.shape[1:]) for name in names])
            found.append(features(to_uint8(augment(part, torch.full((len(part),), level), eps))))
        return torch.cat(found)


def _rows(aucs: "Mapping[float, Estimate]") -> list[dict[str, Any]]:
    from cascade.evaluation.probe import told_apart

    return [
        {
            "aug_log_snr": level,
            "levels_of_255": levels_of_255(level),
            "auc": auc.value,
            "standard_error": auc.standard_error,
            "told_apart": told_apart(auc),
        }
        for level, auc in aucs.items()
    ]


def start_in_words(start: float | None, told_apart: Sequence[bool]) -> str:
    """What the levels say, each of which leaves them `told_apart` or not.

    >>> start_in_words(None, [True, False, True])
    'no start value: the noisiest level tells them apart and others do not, which more pictures would settle'
    """
    if start is not None:
        return f"start value: {noise_in_words(start)}, the least that hides what tells them apart"
    if all(told_apart):
        return "every level leaves them apart: begin with the noisiest, and train the stage before for longer"
    return "no start value: the noisiest level tells them apart and others do not, which more pictures would settle"


def _print(
    console: "Console", aucs: "Mapping[float, Estimate]", start: float | None, present: float | None, title: str
) -> None:
    from rich.table import Table
    from rich.text import Text

    from cascade.evaluation.probe import told_apart

    table = Table(title=Text(title), title_justify="left")
    for heading, justify in (
        ("levels of 255", "right"), ("λ", "right"), ("AUC", "right"), ("± error", "right"), ("", "left"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify)
    for level, auc in aucs.items():
        note = "told apart" if told_apart(auc) else "not told apart" + ", start here" * (level == start)
        number = f"{levels_of_255(level):.3g}", f"{level:g}", f"{auc.value:.3f}", f"{auc.standard_error:.3f}"
        table.add_row(*(Text(cell) for cell in (*number, note)))
    console.print(table)
    found = start_in_words(start, [told_apart(auc) for auc in aucs.values()])
    now = f"; the cascade has {noise_in_words(present)}"
    console.print(found + now, soft_wrap=True, highlight=False, markup=False)
