"""The cascade as one object: stages chained from noise, or from small pictures, to the largest size.

The only room that knows there is more than one model. Between stages a picture is uint8, so a chained picture, one from
a stage's kept pictures and one from a folder are the same bits; only a truncated stage is handed x_λ, as it is. Every
stage calls its network in chunks of a fixed size, and all noise is named by (seed of the picture, stage, step): a
picture is the same bits alone, among 3 and among 64, at the same chunk size, precision, number of threads and machine.
"""

import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cascade.arithmetic import PLAIN, Arithmetic, named
from cascade.artifact import (
    Stage,
    StageConfig,
    StageSampling,
    check_chain,
    find_cascade,
    load_cascade_config,
    load_stage,
    load_stage_config,
)
from cascade.calibration import Calls, calibrated
from cascade.class_tables import table_difference
from cascade.errors import CascadeError, suggest
from cascade.guides import load_guide
from cascade.requests import as_list, check_precision, check_seed, chosen_stages, class_label, class_table
from cascade.stage_denoiser import overlap_and_blend
from cascade.stage_sampler import Request, StageSampler
from cascade.stage_settings import StageSettings, planned, stops, stored_samplings

Classes = str | int | Sequence[str | int | None] | None
Seeds = int | Sequence[int]
LowRes = Sequence[Tensor] | Tensor
OnProgress = Callable[[str, int, int], None]
"""Called as (stage, step, total): so many of all steps of the stage are done, over all its chunks; before that, where
`precision` is "auto" and not known yet, of the calls that find it, and then its first argument says so."""


@dataclass(frozen=True, eq=False)
class SampledImage:
    """A picture: uint8 (3, R, R), its class (None: none) and seed, and each stage's picture if they were asked for.

    >>> image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    >>> SampledImage(image, seed=0, label=2, class_name="hat", stage_images={}).class_name
    'hat'
    """

    image: Tensor
    seed: int
    label: int | None
    class_name: str | None
    stage_images: Mapping[str, Tensor]


class CascadePipeline:
    """Stages chained to one sampler of large pictures.

        pipeline = CascadePipeline.load("runs/mine/cascade")
        images = pipeline.sample(classes=["dress", 3], seeds=[0, 1], guidance_scale=2.0)   # uint8 (2, 3, R, R)

    `configs` are all stages of the cascade in order, `stages` those whose weights are loaded, by name. The number of
    torch's threads when it is made is kept for all its sampling.

    >>> from cascade.artifact import build_denoiser
    >>> sampling = StageSampling({"name": "ddim"}, {"name": "karras", "n": 2})
    >>> network = {"name": "efficient", "patch": 2, "channels": [8], "blocks": [1], "attention": [False]}
    >>> config = StageConfig("base8", 8, network, {"name": "edm"}, sampling)
    >>> stages = {"base8": Stage(config, build_denoiser(config).eval(), Path("base8"), sha256="")}
    >>> CascadePipeline([config], [sampling], stages, precision="fp32").sample(seeds=[0, 1]).shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        configs: Sequence[StageConfig],
        samplings: Sequence[StageSampling],
        stages: Mapping[str, Stage],
        device: str | torch.device = "cpu",
        precision: str | Mapping[str, str] = "auto",
    ) -> None:
        _check_precision(precision)
        check_chain(list(configs))
        self.configs, self.samplings, self.stages = tuple(configs), tuple(samplings), dict(stages)
        self.device, self.precision = torch.device(device), precision
        self._arithmetics: dict[Any, Arithmetic] = {}
        self.threads = torch.get_num_threads()
        self._guide = cache(load_guide)  # a plan is made more than once

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device = "cpu",
        precision: str | Mapping[str, str] = "auto",
        only: Collection[str] | None = None,
    ) -> "CascadePipeline":
        """Read a cascade folder; with `only`, the weights of these stages alone.

        `precision` is fp32, bf16, or auto: the fastest on this machine, found when a plan is made, in seconds and once
        for each stage (`cascade.calibration`); or the names of arithmetics by stage, those not named being auto. With
        auto a stage that takes ten minutes or more for one chunk of pictures may also be compiled.
        Raises CascadeError for a missing or damaged folder, stages that do not fit, and a device that is not there.
        """
        if not isinstance(path, str | os.PathLike):
            raise CascadeError(f"the folder of a cascade is a path, not {path!r}")
        _check_precision(precision)
        folder, target = find_cascade(path), check_device(device)
        cascade = load_cascade_config(folder)
        configs = [load_stage_config(folder / name) for name, _ in cascade.stages]
        check_chain(configs)
        names = [config.name for config in configs]
        wanted = names if only is None else as_list(only)
        for name in wanted:
            if name not in names:
                raise CascadeError(f"only: the cascade has no stage '{name}'; {suggest(str(name), names)}")
        stages = {
            config.name: load_stage(folder / name, target)
            for config, (name, _) in zip(configs, cascade.stages, strict=True)
            if config.name in wanted
        }
        return cls(configs, stored_samplings(folder), stages, target, precision)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class table of the labelled stages, or of the classifiers that guide them; empty if there is none."""
        return class_table(self.configs, self.samplings)

    def plan(
        self,
        guidance_scale: float | None = None,
        *,
        stages: int | None = None,
        settings: Mapping[str, StageSettings] | None = None,
        low_resolution: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[StageSampler]:
        """Check everything and build the stages that run. The arguments are those of `iterate`."""
        prepared = self._checked(guidance_scale, stages, settings, low_resolution)
        return self._in_arithmetic(prepared, low_resolution, on_progress)

    def _checked(
        self,
        guidance_scale: float | None,
        stages: int | None,
        settings: Mapping[str, StageSettings] | None,
        low_resolution: int | None,
    ) -> list[StageSampler]:
        """The stages that run, checked, in plain float32."""
        chosen = chosen_stages(self.configs, stages, low_resolution)
        prepared = []
        samplings = planned(
            self.configs, self.samplings, chosen, settings or {}, guidance_scale, low_resolution=low_resolution
        )
        for config, sampling, level in zip(self.configs[chosen], samplings, stops(samplings), strict=True):
            if config.name not in self.stages:
                raise CascadeError(f"the weights of stage '{config.name}' were not loaded")
            stage = self.stages[config.name]
            prepared.append(
                StageSampler.prepare(stage, sampling, self.device, PLAIN.name, until=level, load=self._guide)
            )
        _check_classes([(config.name, config.class_names) for config in self.configs], prepared)
        return prepared

    def _in_arithmetic(
        self, plan: Sequence[StageSampler], low_resolution: int | None, on_progress: OnProgress | None
    ) -> list[StageSampler]:
        """The stages in the arithmetic of `precision`; each that is found stays that of the pipeline."""
        result = []
        for stage in plan:
            side = stage.stage.config.side_from(low_resolution)
            low_resolution = side
            tile = stage.sampling.tile
            key = stage.name, stage.chunk, stage.steps, side, tile
            if key not in self._arithmetics:
                self._arithmetics[key] = self._arithmetic(stage, side, on_progress)
            result.append(stage.within(self._arithmetics[key]))
        return result

    def _arithmetic(self, stage: StageSampler, side: int, on_progress: OnProgress | None) -> Arithmetic:
        asked = self.precision.get(stage.name, "auto") if isinstance(self.precision, Mapping) else self.precision
        if asked != "auto":
            return named(asked)
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        tile = stage.sampling.tile
        seen = side if tile is None else min(side, tile + 2 * overlap_and_blend(stage.stage, tile)[0])
        # Steps are the least of calls; guidance and Heun make up to twice as many each. So a compiler is never tried
        # too early, but at the worst only where four times LONG is at stake.
        calls = Calls(stage.stage, stage.chunk, seen, self.device, stage.steps, compilable=seen == side)
        return calibrated(calls, on_progress)

    def sample(
        self,
        classes: Classes = None,
        seeds: Seeds = 0,
        guidance_scale: float | None = None,
        *,
        stages: int | None = None,
        settings: Mapping[str, StageSettings] | None = None,
        low_res: LowRes | None = None,
        on_progress: OnProgress | None = None,
    ) -> Tensor:
        """Return uint8 (N, 3, R, R): of class i and seed i each; a length of 1 stands for all. See `iterate`."""
        images = self.iterate(
            classes, seeds, guidance_scale, stages=stages, settings=settings, low_res=low_res, on_progress=on_progress
        )
        return torch.stack([image.image for image in images])

    def iterate(
        self,
        classes: Classes = None,
        seeds: Seeds = 0,
        guidance_scale: float | None = None,
        *,
        stages: int | None = None,
        settings: Mapping[str, StageSettings] | None = None,
        low_res: LowRes | None = None,
        stage_images: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Iterator[SampledImage]:
        """Yield the pictures of `sample` one by one, in order and in bounded memory.

        classes         a name, a number or None (no class), or as many of them as there are pictures
        guidance_scale  the base stage's
        stages          how many of the cascade's stages run, from its beginning; None: all
        settings        changes for any stage, by its name
        low_res         pictures to start from, uint8 (3, h, h) each, read when their turn comes; stages before the one
                        that takes h px do not run
        stage_images    give each stage's picture too

        Everything is checked before the first network call: CascadeError for unknown classes, bad seeds, untrained
        augmentation levels and pictures that fit no stage.
        """
        pictures = None if low_res is None else _count(low_res)
        asked = _paired(classes, seeds, pictures)
        low_resolution = None if low_res is None else _side(low_res[0])
        if settings is not None and not isinstance(settings, Mapping):
            raise CascadeError(f"settings are a mapping of stage names to StageSettings, not {settings!r}")
        if on_progress is not None and not callable(on_progress):
            raise CascadeError(f"on_progress is called as (stage, step, total), which {on_progress!r} cannot be")
        plan = self._checked(guidance_scale, stages, settings, low_resolution)
        table = self.class_names or next((stage.class_names for stage in plan if stage.class_names), ())
        requests = [(None if name is None else class_label(name, table), seed) for name, seed in asked]
        plan = self._in_arithmetic(plan, low_resolution, on_progress)
        return self._iterate(plan, requests, low_res, stage_images, on_progress, table=table)

    def _iterate(
        self,
        plan: Sequence[StageSampler],
        requests: Sequence[Request],
        low_res: LowRes | None,
        stage_images: bool,
        on_progress: OnProgress | None,
        *,
        table: Sequence[str],
    ) -> Iterator[SampledImage]:
        # A group is one chunk of the stage with the largest chunks; the last stage hands over its chunks one by one.
        size = max(stage.chunk for stage in plan)
        groups = [range(start, min(start + size, len(requests))) for start in range(0, len(requests), size)]
        progress = {stage.name: _Progress(stage, [len(group) for group in groups], on_progress) for stage in plan}
        side = None if low_res is None else _side(low_res[0])
        for group in groups:
            asked = requests[group.start : group.stop]
            images = None if low_res is None else torch.stack([_checked(low_res[i], side) for i in group])
            kept: dict[str, Tensor] = {}
            for stage in plan[:-1]:
                made = torch.cat(list(self._chunks(stage, asked, images, progress[stage.name])))
                if stage_images:
                    kept[stage.name] = torch.cat(list(_pictures(stage, asked, made, images)))
                images = made
            done = 0
            for made in self._chunks(plan[-1], asked, images, progress[plan[-1].name]):
                for image in made:
                    label, seed = asked[done]
                    by_stage = {name: pictures[done] for name, pictures in kept.items()} | {plan[-1].name: image}
                    class_name = None if label is None else table[label]
                    yield SampledImage(image, seed, label, class_name, by_stage if stage_images else {})
                    done += 1

    def _chunks(
        self, stage: StageSampler, requests: Sequence[Request], images: Tensor | None, progress: "_Progress"
    ) -> Iterator[Tensor]:
        for start in range(0, len(requests), stage.chunk):
            part = slice(start, start + stage.chunk)
            if torch.get_num_threads() != self.threads:
                torch.set_num_threads(self.threads)
            made = stage.run(requests[part], None if images is None else images[part], progress.at)
            progress.end_chunk()  # before others take their time
            yield made


def _paired(classes: Classes, seeds: Seeds, pictures: int | None) -> list[tuple[str | int | None, int]]:
    """A class and a seed for each picture."""
    names, checked = as_list(classes), [check_seed(seed) for seed in as_list(seeds)]
    lengths = {len(names), len(checked), *([] if pictures is None else [pictures])}
    length = max(lengths) if 0 not in lengths else 0
    if lengths - {1, length} or not length or (pictures is not None and pictures != length):
        given = f"{len(names)} classes and {len(checked)} seeds" + (f" for {pictures} pictures" if pictures else "")
        raise CascadeError(f"{given} do not go together: give equally many, or one for all")
    return [(names[i % len(names)], checked[i % len(checked)]) for i in range(length)]


def _check_classes(tables: Sequence[tuple[str, tuple[str, ...]]], plan: Sequence[StageSampler]) -> None:
    """Refuse classifiers that count the classes otherwise than the labelled stages, or than each other."""
    labelled = [(name, table) for name, table in tables if table]
    guided = [(stage.name, stage.class_names) for stage in plan if stage.class_names]
    for name, table in guided:
        first, own = (labelled + guided)[0]
        if table != own:
            difference = table_difference(f"that of '{name}'", table, f"'{first}'", own)
            raise CascadeError(
                f"stage '{name}': its classifier has another class table than stage '{first}': {difference}"
            )


def _check_precision(precision: str | Mapping[str, str]) -> None:
    if not isinstance(precision, Mapping):
        check_precision(precision)
        return
    for name in precision.values():
        if name != "auto":
            named(name)


def _pictures(
    stage: StageSampler, requests: Sequence[Request], made: Tensor, images: Tensor | None
) -> Iterator[Tensor]:
    for start in range(0, len(requests), stage.chunk):
        part = slice(start, start + stage.chunk)
        yield stage.picture(requests[part], made[part], None if images is None else images[part])


class _Progress:
    """How many of all steps of a stage are done, over all its chunks."""

    def __init__(self, stage: StageSampler, group_sizes: Sequence[int], on_progress: OnProgress | None) -> None:
        self.stage, self.on_progress, self.chunks_done = stage, on_progress, 0
        self.total = stage.steps * sum(math.ceil(size / stage.chunk) for size in group_sizes)

    def at(self, step: int) -> None:
        """Tell that `step` steps of the present chunk are done."""
        if self.on_progress is not None:
            self.on_progress(self.stage.name, self.chunks_done * self.stage.steps + step, self.total)

    def end_chunk(self) -> None:
        """Tell that the present chunk is done."""
        self.chunks_done += 1
        self.at(0)


def check_device(name: str | torch.device) -> torch.device:
    """Return the device of that name, or raise CascadeError if this machine does not have it."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
    # AssertionError: a torch without CUDA; RuntimeError is NotImplementedError's class too: "meta" and the like.
    except (RuntimeError, AssertionError, TypeError) as error:
        raise CascadeError(f"device '{name}' is not available here: {str(error).splitlines()[0]}") from error
    return device


def _count(low_res: LowRes) -> int:
    listed = hasattr(low_res, "__len__") and hasattr(low_res, "__getitem__")
    if not listed or isinstance(low_res, str | bytes | Mapping):
        raise CascadeError(f"low_res is a list of pictures, uint8 (3, h, h) each, not {low_res!r}")
    if not len(low_res):
        raise CascadeError("low_res holds no picture")
    return len(low_res)


def _side(image: Tensor) -> int:
    if not isinstance(image, Tensor):
        raise CascadeError(f"a low_res picture is a uint8 tensor (3, h, h), not {type(image).__name__}")
    if image.ndim != 3 or image.shape[0] != 3 or image.shape[1] != image.shape[2] or image.dtype != torch.uint8:
        kind = f"{str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}"
        raise CascadeError(f"a low_res picture is square, uint8 (3, h, h), not {kind}")
    return image.shape[-1]


def _checked(image: Tensor, side: int | None) -> Tensor:
    if _side(image) != side:
        raise CascadeError(f"the low_res pictures differ in size: {side} and {_side(image)} px")
    return image
