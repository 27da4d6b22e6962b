"""`cascade sample`: every class with every seed as CLASS/SEED.png; run again it makes only what is missing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from cascade.arithmetic import PLAIN
from cascade.artifact import CASCADE, load_chain
from cascade.commands.low_res_folder import CONTACT_SHEET, LowResImages, list_low_res
from cascade.commands.per_stage import extra_keys, read_per_stage
from cascade.commands.png import refuse_foreign, sample_png
from cascade.commands.sample_manifest import Manifest, refuse_foreign_folder
from cascade.commands.wanted_pictures import Wanted, every_class_with_every_seed, from_low_res
from cascade.errors import CascadeError
from cascade.files import expanded, sha256_of, write_whole
from cascade.lock import check_place, exclusive
from cascade.progress import progress_bars
from cascade.requests import check_device_name, check_precision, check_threads, chosen_stages, class_table, parse_seeds
from cascade.stage_settings import planned, stored_samplings
from cascade.trained_levels import noise_in_words

if TYPE_CHECKING:
    from cascade.orchestrator import CascadePipeline, SampledImage
    from cascade.stage_sampler import StageSampler

__all__ = ["extra_keys", "run"]


def run(config: DictConfig) -> None:
    """Sample what `config` asks for into its `out`. See `conf/sample.yaml`."""
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)
    check_threads(plain["threads"])
    check_device_name(plain["device"])
    check_precision(plain["precision"])
    configs = load_chain(plain["cascade"])
    names = [stage.name for stage in configs]
    settings = read_per_stage(plain["per_stage"], names)
    seeds = None if plain["seeds"] is None else parse_seeds(plain["seeds"])
    out = _checked_out(expanded(plain["out"]))
    low_res = None if plain["low_res"] is None else list_low_res(expanded(plain["low_res"]))
    side = low_res[0].side if low_res else None
    chosen = chosen_stages(configs, plain["stages"], side)
    stored = stored_samplings(plain["cascade"])
    samplings = planned(configs, stored, chosen, settings, plain["guidance_scale"], side)
    table = class_table(configs, samplings)
    if low_res is None:
        wanted = every_class_with_every_seed(plain["classes"], seeds, table)
    else:
        labelled = bool(class_table(configs[chosen], samplings))
        wanted = from_low_res(low_res, plain["classes"], seeds, table, labelled=labelled)

    begun = Manifest(out)
    recorded = begun.precisions() if plain["precision"] == "auto" else {}
    plain["threads"] = plain["threads"] or begun.threads()  # however many cores there are now
    check_threads(plain["threads"])
    check_place(out)
    pipeline = _load({**plain, "precision": recorded or plain["precision"]}, names[chosen])
    with progress_bars("calls") as bars:
        plan = pipeline.plan(
            plain["guidance_scale"],
            stages=plain["stages"],
            settings=settings,
            low_resolution=side,
            on_progress=bars.at,
        )
    rows = [_row(stage, pipeline) for stage in plan]
    kept = names[chosen][:-1] if plain["save_stages"] else []  # the last stage's picture is the picture itself
    hashes = {w.file: w.low_res and w.low_res.sha256 for w in wanted}  # all are read before anything is written
    with exclusive(out):
        manifest = Manifest(out)
        manifest.refuse_other(rows)
        missing = [w for w in wanted if not manifest.holds(w.file, hashes[w.file], kept)]
        sheet = [CONTACT_SHEET] if plain["contact_sheet"] else []
        refuse_foreign(out, [*sheet, *(w.file for w in missing if w.file not in manifest.lines)])
        manifest.begin()
        if missing:
            if plain["precision"] == "auto":
                _tell_precision(plan, out, kept=bool(recorded))
            _tell_augmentation(plan)
            with progress_bars("steps") as bars:
                images = pipeline.iterate(
                    [w.label for w in missing],
                    [w.seed for w in missing],
                    plain["guidance_scale"],
                    stages=plain["stages"],
                    settings=settings,
                    low_res=None if low_res is None else LowResImages([w.low_res for w in missing if w.low_res]),
                    stage_images=plain["save_stages"],
                    on_progress=bars.at,
                )
                for picture, image in zip(missing, images, strict=True):
                    manifest.append(_write(out, picture, image, rows))
        if plain["contact_sheet"]:
            _write_contact_sheet(out, wanted, kept)
    pictures = "1 picture" if len(missing) == 1 else f"{len(missing)} pictures"
    print(f"{out}: {pictures} made, {len(wanted) - len(missing)} were there already")


def _checked_out(out: Path) -> Path:
    if out.exists() and not out.is_dir():
        raise CascadeError(f"out={out} is a file; choose a folder")
    for folder in (out.absolute(), *out.absolute().parents):
        if (folder / CASCADE).is_file():
            raise CascadeError(f"out={out} lies in the cascade {folder}, which stays as it is; choose another out")
    refuse_foreign_folder(out)
    return out


def _load(plain: Mapping[str, Any], only: Sequence[str]) -> "CascadePipeline":
    import torch

    from cascade.orchestrator import CascadePipeline

    if plain["threads"] is not None:
        torch.set_num_threads(plain["threads"])
    return CascadePipeline.load(plain["cascade"], plain["device"], plain["precision"], only)


def _row(stage: "StageSampler", pipeline: "CascadePipeline") -> dict[str, Any]:
    return {**stage.record(), "threads": pipeline.threads, "device": str(pipeline.device)}


def _tell_precision(plan: "Sequence[StageSampler]", out: Path, *, kept: bool) -> None:
    """Say what `precision=auto` has chosen, or what was chosen for the pictures that are there, be it elsewhere."""
    if kept or any(stage.arithmetic != PLAIN for stage in plan):
        names = ", ".join(f"{stage.name} {stage.arithmetic.name}" for stage in plan)
        print(f"precision: {names}" + (f" (that of the pictures in {out})" if kept else ""), flush=True)


def _tell_augmentation(plan: "Sequence[StageSampler]") -> None:
    """Say what noise the super-resolution stages are shown."""
    levels = {stage.name: stage.sampling.aug_log_snr for stage in plan if stage.sampling.aug_log_snr is not None}
    if levels:
        words = ", ".join(f"{name} {noise_in_words(level)}" for name, level in levels.items())
        print(f"augmentation: {words}", flush=True)


def _write(out: Path, wanted: Wanted, image: "SampledImage", rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Write the picture's files, each whole, and return its line of the manifest."""
    stage_files = {}
    for name, pixels in list(image.stage_images.items())[:-1]:
        file = _stage_file(name, wanted)
        write_whole(out / file, sample_png(pixels, wanted.seed, wanted.class_name))
        stage_files[name] = {"file": file, "sha256": sha256_of(out / file)}
    write_whole(out / wanted.file, sample_png(image.image, wanted.seed, wanted.class_name))
    return {
        "file": wanted.file,
        "seed": wanted.seed,
        "class": wanted.class_name,
        "png_sha256": sha256_of(out / wanted.file),
        "low_res": None if wanted.low_res is None else wanted.low_res.sha256,
        "stages": list(rows),
        "stage_files": stage_files,
    }


def _stage_file(stage: str, wanted: Wanted) -> str:
    return f"stages/{stage}/{wanted.file}"


def _write_contact_sheet(out: Path, wanted: Sequence[Wanted], kept: Sequence[str]) -> None:
    """A row for each class; each picture stands behind those of the stages before it that were `kept`."""
    from cascade.commands.contact_sheet import write_contact_sheet

    rows: dict[str, list[Path]] = {}
    for picture in wanted:
        files = [*(_stage_file(name, picture) for name in kept), picture.file]
        rows.setdefault(picture.class_name or "", []).extend(out / file for file in files)
    write_contact_sheet(out / CONTACT_SHEET, rows, together=len(kept) + 1)
