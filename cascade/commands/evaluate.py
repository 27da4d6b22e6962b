"""`cascade evaluate`: figures of a cascade or of a folder of pictures against real pictures."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from cascade import __version__
from cascade.artifact import load_chain
from cascade.errors import CascadeError
from cascade.files import write_whole
from cascade.requests import chosen_stages

if TYPE_CHECKING:
    from torch import Tensor

    from cascade.commands.evaluated_samples import EvaluatedSamples
    from cascade.evaluation.features import Features
    from cascade.evaluation.figures import Figure
    from cascade.evaluation.picture_folder import PictureFolder

REPORT = "evaluation.json"
_LEAST = 3  # pictures on a side


@dataclass(frozen=True)
class Pictures:
    """One side of a comparison: its pictures (each with its low-res input or None), and what there is to say of it.

    `rule` says how the pictures were brought to the size at which they are compared; None: they are as they are.
    """

    pairs: "Callable[[], Iterator[tuple[Tensor, Tensor | None]]]"
    count: int
    source: Mapping[str, Any]
    rule: str | None = None


def run(config: DictConfig) -> None:
    """Measure, print a table, and write `out`/evaluation.json if `out` is given. See `conf/evaluate.yaml`."""
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)
    _check(plain)
    out = None if plain["out"] is None else Path(plain["out"]).expanduser()
    import torch

    if plain["threads"] is not None:
        torch.set_num_threads(plain["threads"])
    with _bars() as bars:
        generated, reference = _sides(plain, out, bars)
        features = _features(plain, bars.console)
        figures, left_out = _figures(plain, generated, reference, features, bars)
    console = _console()
    _print_table(console, figures, generated, reference)
    for line in left_out:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    report = _report(plain, figures, left_out, generated, reference)
    if out is not None:
        write_whole(out / REPORT, json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    if plain["logger"]["wandb"]:
        _to_wandb(plain["logger"], out, report)


def _check(plain: Mapping[str, Any]) -> None:
    if (plain["cascade"] is None) == (plain["images"] is None):
        raise CascadeError("give what to evaluate: either cascade=FOLDER or images=FOLDER")
    for key, least in (("num_images", _LEAST), ("first_seed", 0), ("neighbours", 1), ("batch", 1)):
        if plain[key] < least:
            raise CascadeError(f"{key}={plain[key]} must be at least {least}")
    for key, least in (("num_reference", _LEAST), ("threads", 1)):
        value = plain[key]
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise CascadeError(f"{key}={value} must be a whole number of at least {least}")
    if plain["out"] is not None and Path(plain["out"]).expanduser().is_file():
        raise CascadeError(f"out={plain['out']} is a file")
    if plain["logger"]["wandb"] and plain["out"] is None:
        raise CascadeError("logger=wandb needs a place for its files: give out=FOLDER")


def _sides(plain: Mapping[str, Any], out: Path | None, bars: "_Bars") -> tuple[Pictures, Pictures]:
    """Open what is evaluated and what it is compared with, at one size; everything is checked, nothing computed."""
    from cascade.evaluation.picture_folder import PictureFolder, common_side

    folder = None if plain["reference"] is None else PictureFolder(plain["reference"])
    if plain["images"] is not None:
        images = PictureFolder(plain["images"])
        side = common_side([images] if folder is None else [images, folder])
        generated, table = _of_folder(images, side), ()
    else:
        samples = _samples(plain, out, bars)
        side, table = samples.pipeline.configs[len(samples.record["stages"]) - 1].resolution, samples.class_names
        seeds = {"first_seed": plain["first_seed"], "count": len(samples.seeds)}
        source = {"cascade": str(plain["cascade"]), "seeds": seeds, **samples.record}
        generated = Pictures(lambda: iter(samples), len(samples.seeds), source)
    if folder is None:
        return generated, _of_data(plain, side, generated.count, table, bars)
    if folder.side < side:
        raise CascadeError(f"{folder.root} holds pictures of {folder.side} px, and {side} px are to be compared")
    return generated, _of_folder(folder, side)


def _of_folder(folder: "PictureFolder", side: int) -> Pictures:
    if len(folder) < _LEAST:
        raise CascadeError(f"{folder.root} holds {len(folder)} pictures; {_LEAST} are the least to compare")
    source = {"folder": str(folder.root), "side": side, "left_out": folder.left_out}
    pairs = lambda: ((folder.image(i, side), None) for i in range(len(folder)))  # noqa: E731
    return Pictures(pairs, len(folder), source, folder.rule(side))


def _samples(plain: Mapping[str, Any], out: Path | None, bars: "_Bars") -> "EvaluatedSamples":
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
        None if out is None else out / "samples",
        on_progress=lambda stage, step, total: bars.at(f"  {stage}, steps", step, total),
    )


def _of_data(plain: Mapping[str, Any], side: int, count: int, table: Sequence[str], bars: "_Bars") -> Pictures:
    from cascade.data.source import open_dataset
    from cascade.rng import permutation

    source = dict(plain["data"])
    split = source.pop("split")
    dataset = open_dataset(source, side, split, lambda done, total: bars.at("looking through the data", done, total))
    if table and dataset.class_names and set(table) != set(dataset.class_names):
        raise CascadeError(
            f"the cascade knows the classes {', '.join(table)}, the data {', '.join(dataset.class_names)}; "
            "compare with the data that it was trained on"
        )
    wanted = count if plain["num_reference"] is None else plain["num_reference"]
    order = permutation("evaluation", "reference", plain["seed"], size=len(dataset)).tolist()
    chosen = sorted(order[:wanted])
    if len(chosen) < _LEAST:
        raise CascadeError(f"the data hold {len(chosen)} pictures; {_LEAST} are the least to compare")
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
    return Pictures(lambda: ((dataset.image(i), None) for i in chosen), len(chosen), said, rule)


def _features(plain: Mapping[str, Any], console: Console) -> "Features":
    """Build the features; `auto` is Inception, and without its weights one line and EfficientNet-Lite0."""
    from cascade.evaluation.inception import WeightsMissingError
    from cascade.orchestrator import check_device
    from cascade.registry import build

    settings = {key: value for key, value in plain["features"].items() if value is not None or key == "weights"}
    context = {"batch": plain["batch"], "device": check_device(plain["device"])}
    if settings["name"] != "auto":
        return build("features", settings, **context)
    try:
        return build("features", {**settings, "name": "inception"}, **context)
    except WeightsMissingError as missing:
        line = f"{missing}; going on with EfficientNet-Lite0 features, on which a Fréchet distance is no FID"
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    resize = {"resize": settings["resize"]} if "resize" in settings else {}
    return build("features", {"name": "efficientnet_lite0", **resize}, **context)


def _figures(
    plain: Mapping[str, Any], generated: Pictures, reference: Pictures, features: "Features", bars: "_Bars"
) -> "tuple[list[Figure], list[str]]":
    from cascade.evaluation.figures import distances
    from cascade.evaluation.measurement import measure, pixel_figures

    real, made = (
        measure(side.pairs(), features, lambda done, side=side, name=name: bars.at(name, done, side.count))
        for name, side in (("real pictures", reference), ("pictures to evaluate", generated))
    )
    figures, left_out = distances(
        made.features,
        real.features,
        features,
        seed=plain["seed"],
        allow_few_images=plain["allow_few_images"],
        neighbours=plain["neighbours"],
    )
    return [_with_rules(figure, generated, reference) for figure in figures + pixel_figures(made, real)], left_out


def _with_rules(figure: "Figure", generated: Pictures, reference: Pictures) -> "Figure":
    """Put the pictures' own resizing in front of the features'."""
    sides = [("", generated)] + ([] if figure.num_reference is None else [("real ", reference)])
    rules = [f"{which}pictures: {side.rule}" for which, side in sides if side.rule is not None]
    return replace(figure, resize="; ".join([*rules, figure.resize]))


def _report(
    plain: Mapping[str, Any],
    figures: "Sequence[Figure]",
    left_out: Sequence[str],
    generated: Pictures,
    reference: Pictures,
) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "figures": [figure.to_json() for figure in figures],
        "left_out": list(left_out),
        "generated": {"count": generated.count, "rule": generated.rule, **generated.source},
        "reference": {"count": reference.count, "rule": reference.rule, **reference.source},
        "seed": plain["seed"],
        "neighbours": plain["neighbours"],
        "features_batch": plain["batch"],
        "versions": {"cascade": __version__, **{name: version(name) for name in ("torch", "torchmetrics")}},
    }


def _console() -> Console:
    # Where there is no terminal (a log, a pipe) nothing should be cut to 80 columns.
    console = Console()
    return console if console.is_terminal else Console(width=180)


def _print_table(console: Console, figures: "Sequence[Figure]", generated: Pictures, reference: Pictures) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{_name(generated)} against {_name(reference)}", title_justify="left")
    for heading, justify in (
        ("figure", "left"), ("value", "right"), ("± error", "right"), ("", "left"), ("features", "left"),
        ("N", "right"), ("real N", "right"), ("resize rule", "left"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify)
    for figure in figures:
        cells = (
            figure.name,
            _number(figure.value),
            "" if figure.standard_error is None else _number(figure.standard_error),
            figure.unit,
            figure.features or "pixels",
            str(figure.num_images),
            "" if figure.num_reference is None else str(figure.num_reference),
            figure.resize,
        )
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


def _number(value: float) -> str:
    """Four decimals, but for small numbers, of which they would show nothing."""
    return f"{value:.1e}" if 0 < abs(value) < 0.01 else f"{value:.4f}"


def _name(side: Pictures) -> str:
    source = side.source
    if "data" in source:
        return f"data={source['data']['name']} ({source['data']['split']}, {source['side']} px)"
    if "folder" in source:
        return f"{source['folder']} ({source['side']} px)"
    return f"{source['cascade']} ({source['stages'][-1]['stage']})"


def _to_wandb(settings: Mapping[str, Any], out: Path | None, report: Mapping[str, Any]) -> None:
    import wandb

    if out is None:
        return
    silent = wandb.Settings(silent=True, console="off")
    config = {key: value for key, value in report.items() if key != "figures"}
    run = wandb.init(
        project=settings["project"], job_type="evaluate", mode=settings["mode"], dir=out, config=config, settings=silent
    )
    for figure in report["figures"]:
        run.summary[figure["name"]] = figure["value"]
        if figure["standard_error"] is not None:
            run.summary[f"{figure['name']} error"] = figure["standard_error"]
    run.finish()


@dataclass
class _Bars:
    """Progress bars on stderr, each opened when it is first told of."""

    console: Console
    at: Callable[[str, int, int], None]


@contextmanager
def _bars() -> Iterator[_Bars]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.progress import TimeRemainingColumn as Left
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f}/s" if task.speed else "")

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), Left()
    progress = Progress(*columns, console=Console(stderr=True))
    tasks: dict[str, Any] = {}

    def at(name: str, done: int, total: int) -> None:
        progress.start()
        if name not in tasks:
            tasks[name] = progress.add_task(name, total=total)
        progress.update(tasks[name], completed=done)

    try:
        yield _Bars(progress.console, at)
    finally:
        if tasks:  # stopping bars that never started prints an empty line
            progress.stop()
