"""`cascade steps`: quality against steps and seconds of one stage, sampler by sampler."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade import __version__
from cascade.artifact import load_chain
from cascade.commands.configuration import groups_on_disk, plain_of_stage
from cascade.commands.evaluated_sides import check_sides
from cascade.commands.per_stage import extra_keys, place_of, read_per_stage
from cascade.commands.reports import check_out, write_report
from cascade.commands.swept_chain import SweptChain
from cascade.commands.swept_points import Point, Result, cheapest_as_good
from cascade.commands.swept_upscaling import SweptUpscaling, check_photographs
from cascade.errors import CascadeError, suggest
from cascade.files import expanded, write_whole
from cascade.lock import exclusive
from cascade.stage_settings import StageSettings, planned, stored_samplings

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console

__all__ = ["extra_keys", "run"]


REPORT, FIGURE = "steps.json", "steps.png"
_MADE_BY = "cascade steps"


def run(config: "DictConfig") -> None:
    """Measure every sampler at every number of steps; write table, figure and samples. See `conf/steps.yaml`."""
    from hydra.core.hydra_config import HydraConfig

    plain = plain_of_stage(config)
    out = expanded(plain["out"])
    settings, points = _checked(plain, out)
    import torch

    from cascade.commands.evaluated_samples import EvaluatedSamples
    from cascade.commands.evaluation_features import chosen_features
    from cascade.commands.figure_table import wide_console
    from cascade.commands.steps_figure import draw_steps
    from cascade.commands.written import shell_line, written
    from cascade.evaluation.figures import names_of
    from cascade.evaluation.measurement import measure
    from cascade.orchestrator import CascadePipeline
    from cascade.progress import progress_bars

    if plain["threads"] is not None:
        torch.set_num_threads(plain["threads"])
    names = [stage.name for stage in load_chain(plain["cascade"])]
    stages = names.index(plain["stage"]) + 1
    pipeline = CascadePipeline.load(plain["cascade"], plain["device"], plain["precision"], names[:stages])
    first, batch = plain["first_seed"], plain["batch"]
    seeds = range(first, first + plain["num_images"])
    with exclusive(out), progress_bars() as bars:
        samples = EvaluatedSamples(pipeline, seeds, plain["guidance_scale"], stages, settings, out / "samples")
        swept = (SweptUpscaling if plain["photographs"] else SweptChain).open(
            plain, samples, chosen_features(plain, bars.console), bars
        )
        real, features = swept.real, swept.features
        reference = measure(real.pairs(), features, lambda done: bars.at("real pictures", done, real.count), batch)
        found = list(swept.results(points, reference, bars, batch))
        name = swept.prefix + names_of(features)[1]
        best = cheapest_as_good(found)
        report = {
            "made_by": _MADE_BY,
            "command": shell_line("steps", written(HydraConfig.get().overrides.task)),
            "cascade": str(plain["cascade"]),
            "stage": plain["stage"],
            "distance": name,
            "features": {"name": features.name, "sha256": features.sha256, "resize": features.resize},
            "num_images": found[0].num_images,
            **swept.about(),
            "reference": real.report(),
            "seed": plain["seed"],
            "points": [result.to_json() for result in found],
            "cheapest_as_good_as_the_best": dict(best.varied),
            "version": __version__,
        }
        write_report(out / REPORT, report)
        title = f"{plain['stage']} of {plain['cascade']}: {found[0].num_images} pictures against {real.count} real ones"
        write_whole(out / FIGURE, draw_steps(found, best, name, title))
    _print(wide_console(), found, best, name, title)
    print(f"{out / FIGURE}\n{out / REPORT}")


def _checked(plain: Mapping[str, Any], out: Path) -> tuple[dict[str, StageSettings], list[Point]]:
    """Everything that can be said without torch; the settings of the other stages, and the points."""
    from cascade.data.source import check_source

    configs = load_chain(plain["cascade"])
    names = [config.name for config in configs]
    stage, place = plain["stage"], place_of(plain["stage"], names)
    check_sides(plain)
    check_source(plain["data"])
    if plain["photographs"]:
        check_photographs(plain, configs, place)
    samplers, steps = plain["samplers"], plain["steps"]
    for key, values in (("samplers", samplers), ("steps", steps)):
        if not values or len(set(values)) < len(values):
            raise CascadeError(f"{key}={values}: name one or more, each once")
    for name in samplers:
        if name not in groups_on_disk()["sampler"]:
            raise CascadeError(f"unknown sampler '{name}'; {suggest(str(name), groups_on_disk()['sampler'])}")
    own = dict(plain["per_stage"].get(stage, {}))
    if taken := [key for key in ("sampler", "steps") if key in own]:
        raise CascadeError(f"{stage}.{taken[0]} is what varies here: say samplers=[...] and steps=[...]")
    points, stored = [], stored_samplings(plain["cascade"])
    chosen = slice(0, place + 1)
    settings = read_per_stage(plain["per_stage"], names)
    for sampler in samplers:
        for count in steps:
            varied = {"sampler": sampler, "steps": count}
            point = read_per_stage({stage: {**own, **varied}}, names)[stage]
            planned(configs, stored, chosen, {**settings, stage: point}, plain["guidance_scale"])
            points.append(Point(varied, point))
    check_out(out, REPORT, _MADE_BY, [FIGURE])
    return settings, points


def _print(console: "Console", found: Sequence[Result], best: Result, name: str, title: str) -> None:
    from rich.table import Table
    from rich.text import Text

    from cascade.commands.figure_table import number

    table = Table(title=Text(title), title_justify="left")
    for heading, justify in (
        ("sampler", "left"), ("steps", "right"), (name, "right"), ("± error", "right"), ("detail", "right"),
        ("s a picture", "right"), ("", "left"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify)
    lowest = min(found, key=lambda result: result.distance.value)
    for result in found:
        note = "best" * (result is lowest) + ", " * (result is lowest is best) + "cheapest as good" * (result is best)
        seconds = "" if result.seconds is None else f"{result.seconds:.3g}"
        cells = (
            str(result.varied["sampler"]), str(result.varied["steps"]), number(result.distance.value),
            number(result.distance.standard_error), f"{result.detail:.2f}", seconds, note,
        )  # fmt: skip
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    console.print("detail: power above half of Nyquist over that of the real pictures; 1 is theirs", highlight=False)
