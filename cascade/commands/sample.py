"""`cascade sample`: every class with every seed as CLASS/SEED.png; run again it makes only what is missing."""

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from cascade.artifact import load_chain
from cascade.commands.low_res_folder import CONTACT_SHEET, LowRes, LowResImages, list_low_res
from cascade.commands.per_stage import stage_keys
from cascade.commands.picture_mark import MARK, refuse_foreign
from cascade.commands.sample_manifest import Manifest
from cascade.errors import CascadeError
from cascade.files import sha256_of, write_whole
from cascade.requests import chosen_stages, class_label, class_table, parse_seeds
from cascade.stage_settings import settings_of

if TYPE_CHECKING:
    from torch import Tensor

    from cascade.commands.values import Kind
    from cascade.orchestrator import CascadePipeline, SampledImage
    from cascade.stage_sampler import StageSampler


@dataclass(frozen=True)
class Wanted:
    """A picture to make: its file below `out`, its seed and class, and what it starts from (None: noise)."""

    file: str
    seed: int
    label: int | None
    class_name: str | None
    low_res: LowRes | None = None


def extra_keys(config: DictConfig) -> "Mapping[str, Kind]":
    """STAGE.key for every stage of the cascade."""
    return stage_keys(stage.name for stage in load_chain(config.cascade))


def run(config: DictConfig) -> None:
    """Sample what `config` asks for into its `out`. See `conf/sample.yaml`."""
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)
    configs = load_chain(plain["cascade"])
    names = [stage.name for stage in configs]
    settings = settings_of(plain["per_stage"], names)
    seeds, table = parse_seeds(plain["seeds"]), class_table(configs)
    low_res = None if plain["low_res"] is None else list_low_res(Path(plain["low_res"]).expanduser())
    side = low_res[0].side if low_res else None
    chosen = chosen_stages(configs, plain["stages"], side)
    if low_res is None:
        wanted = _every_class_with_every_seed(plain["classes"], seeds, table)
    else:
        labelled = bool(class_table(configs[chosen]))
        wanted = _from_low_res(low_res, plain["classes"], seeds, table, labelled=labelled)
    out = _checked_out(Path(plain["out"]).expanduser())

    pipeline = _load(plain, names[chosen])
    plan = pipeline.plan(plain["guidance_scale"], stages=plain["stages"], settings=settings, low_resolution=side)
    rows = [_row(stage, pipeline) for stage in plan]
    manifest = Manifest(out)
    manifest.refuse_other(rows)
    kept = names[chosen][:-1] if plain["save_stages"] else []  # the last stage's picture is the picture itself
    missing = [w for w in wanted if not manifest.holds(w.file, w.low_res and w.low_res.sha256, kept)]
    sheet = [CONTACT_SHEET] if plain["contact_sheet"] else []
    refuse_foreign(out, [*sheet, *(w.file for w in missing if w.file not in manifest.lines)])
    if missing:
        with _progress() as tell:
            images = pipeline.iterate(
                [w.label for w in missing],
                [w.seed for w in missing],
                plain["guidance_scale"],
                stages=plain["stages"],
                settings=settings,
                low_res=None if low_res is None else LowResImages([w.low_res for w in missing if w.low_res]),
                stage_images=plain["save_stages"],
                on_progress=tell,
            )
            for picture, image in zip(missing, images, strict=True):
                manifest.append(_write(out, picture, image, rows))
    if plain["contact_sheet"]:
        _write_contact_sheet(out, wanted)
    print(f"{out}: {len(missing)} pictures made, {len(wanted) - len(missing)} were there already")


def _load(plain: Mapping[str, Any], only: Sequence[str]) -> "CascadePipeline":
    import torch

    from cascade.orchestrator import CascadePipeline

    if plain["threads"] is not None:
        if plain["threads"] < 1:
            raise CascadeError(f"threads={plain['threads']} must be at least 1")
        torch.set_num_threads(plain["threads"])
    return CascadePipeline.load(plain["cascade"], plain["device"], plain["precision"], only)


def _row(stage: "StageSampler", pipeline: "CascadePipeline") -> dict[str, Any]:
    machine = {"precision": pipeline.precision, "threads": pipeline.threads, "device": str(pipeline.device)}
    return {**stage.record(), **machine}


def _every_class_with_every_seed(
    classes: str | list[str] | None, seeds: Sequence[int], table: Sequence[str]
) -> list[Wanted]:
    if not table:
        if classes is not None:
            raise CascadeError(f"this cascade knows no classes, so classes={classes} cannot be asked for")
        return [Wanted(f"{seed}.png", seed, None, None) for seed in seeds]
    folders = class_folders(table)
    listed = range(len(table)) if classes is None else [classes] if isinstance(classes, str) else classes
    labels = dict.fromkeys(class_label(name, table) for name in listed)
    if not labels:
        raise CascadeError(f"classes=[] names no class; the cascade has {', '.join(table)}")
    return [Wanted(f"{folders[i]}/{seed}.png", seed, i, table[i]) for i in labels for seed in seeds]


def _from_low_res(
    pictures: Sequence[LowRes],
    classes: str | list[str] | None,
    seeds: Sequence[int],
    table: Sequence[str],
    *,
    labelled: bool,
) -> list[Wanted]:
    """Class and seed of each picture from its name; where it has none, the only one of `classes`, the first seed.

    `labelled`: a stage that runs reads classes, so one must be known.
    """
    folders = {folder: i for i, folder in enumerate(class_folders(table))}
    listed = [] if classes is None else [classes] if isinstance(classes, str) else list(classes)
    default = [class_label(name, table) for name in listed]
    wanted: dict[str, Wanted] = {}
    for picture in pictures:
        label = folders.get(picture.class_folder or "", default[0] if len(default) == 1 else None)
        if labelled and label is None:
            raise CascadeError(
                f"the class of {picture.path} is not known: name it CLASS/SEED.png, or give one class, like "
                f"classes={table[0]}"
            )
        file = picture.relative.with_suffix(".png").as_posix()
        if file in wanted:
            raise CascadeError(f"two low_res pictures would both become {file}: {picture.path} is one of them")
        seed = seeds[0] if picture.seed is None else picture.seed
        wanted[file] = Wanted(file, seed, label, None if label is None else table[label], picture)
    return list(wanted.values())


def class_folders(table: Sequence[str]) -> list[str]:
    """The folder of each class: its name, without what a folder's name cannot have.

    >>> class_folders(["dress", "t-shirt/top", ".x"])
    ['dress', 't-shirt_top', '_x']
    """
    folders = []
    for name in table:
        safe = "".join("_" if letter in '/\\:*?"<>|' or not letter.isprintable() else letter for letter in name)
        folders.append(f"_{safe[1:]}" if safe.startswith(".") else safe)
    # Two names that become one folder keep apart by their number; "stages" is the folder of the stages' pictures.
    return [
        f"{folder}_{i}" if folders.count(folder) > 1 or folder == "stages" else folder
        for i, folder in enumerate(folders)
    ]


def _checked_out(out: Path) -> Path:
    if out.exists() and not out.is_dir():
        raise CascadeError(f"out={out} is a file")
    return out


def _write(out: Path, wanted: Wanted, image: "SampledImage", rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Write the picture's files, each whole, and return its line of the manifest."""
    stage_files = {}
    for name, pixels in list(image.stage_images.items())[:-1]:
        file = f"stages/{name}/{wanted.file}"
        write_whole(out / file, _png(pixels, wanted))
        stage_files[name] = {"file": file, "sha256": sha256_of(out / file)}
    write_whole(out / wanted.file, _png(image.image, wanted))
    return {
        "file": wanted.file,
        "seed": wanted.seed,
        "class": wanted.class_name,
        "png_sha256": sha256_of(out / wanted.file),
        "low_res": None if wanted.low_res is None else wanted.low_res.sha256,
        "stages": list(rows),
        "stage_files": stage_files,
    }


def _png(pixels: "Tensor", wanted: Wanted) -> bytes:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(*MARK)
    # No settings (the manifest has them): a picture chained and one from a kept stage's picture are the same file.
    info.add_itxt("cascade", json.dumps({"seed": wanted.seed, "class": wanted.class_name}, ensure_ascii=False))
    raw = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(raw, "PNG", pnginfo=info)
    return raw.getvalue()


def _write_contact_sheet(out: Path, wanted: Sequence[Wanted]) -> None:
    from cascade.commands.contact_sheet import write_contact_sheet

    rows: dict[str, list[Path]] = {}
    for picture in wanted:
        rows.setdefault(picture.class_name or "", []).append(out / picture.file)
    write_contact_sheet(out / CONTACT_SHEET, rows)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each stage on stderr: network steps done, rate, time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.progress import TimeRemainingColumn as Left
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f} steps/s" if task.speed else "")

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), Left()
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def tell(stage: str, step: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=step)

        yield tell
