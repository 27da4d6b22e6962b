"""`cascade assemble`: copy trained stages into one folder, a cascade that needs nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from cascade.artifact import (
    CASCADE,
    MANIFEST,
    CascadeConfig,
    StageConfig,
    check_chain,
    copy_stage,
    find_stage,
    load_cascade_config,
    load_stage_config,
    save_cascade_config,
)
from cascade.commands.per_stage import read_per_stage, stage_keys
from cascade.errors import CascadeError
from cascade.files import replace_folder
from cascade.stage_settings import StageSettings, changed

if TYPE_CHECKING:
    from cascade.commands.values import Kind


def extra_keys(config: DictConfig) -> "Mapping[str, Kind]":
    """STAGE.key for every stage that is named in `stages`."""
    return stage_keys([load_stage_config(folder).name for folder in _folders(config.stages)])


def run(config: DictConfig) -> None:
    """Put the stages `stages` together at `out`; a cascade of the same stages that is there already is left as it is.

    Stages that do not fit are refused before anything is written, and so is a folder that holds something else. The
    cascade appears at `out` whole, by one rename.
    """
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)
    folders, out = _folders(plain["stages"]), Path(plain["out"]).expanduser()
    stages = [load_stage_config(folder) for folder in folders]
    check_chain(stages)
    settings = read_per_stage(plain["per_stage"], [stage.name for stage in stages])
    samplings = [changed(stage.sampling, settings.get(stage.name, StageSettings()), stage) for stage in stages]
    cascade = CascadeConfig(tuple(zip([stage.name for stage in stages], samplings, strict=True)))
    there = _refuse_occupied(out, cascade, folders, overwrite=plain["overwrite"])
    if not there:
        _check_whole(folders, cascade)
        _write(out, cascade, folders)
    print(f"{out}{' is there already' if there else ''}: {_summary(stages)}")


def _folders(stages: str | list[str]) -> list[Path]:
    listed = [stages] if isinstance(stages, str) else list(stages)
    if not listed:
        raise CascadeError("stages=[] names no stage: list run or stage folders, base first, like stages=[a,b,c]")
    try:
        return [find_stage(folder) for folder in listed]
    except CascadeError as error:
        comma = isinstance(stages, str) and "," in stages
        raise CascadeError(f"{error}{'; several stages are a list: stages=[a,b,c]' if comma else ''}") from None


def _refuse_occupied(out: Path, cascade: CascadeConfig, folders: list[Path], *, overwrite: bool) -> bool:
    """Whether this very cascade is at `out` already; raise CascadeError if something else must not be replaced."""
    if not out.exists() and not out.is_symlink():
        return False
    if not out.is_dir():
        raise CascadeError(f"out={out} is a file")
    names = {entry.name for entry in out.iterdir()}
    if not names:
        return False
    if CASCADE not in names:
        raise CascadeError(f"out={out} is not empty and holds no cascade; choose another folder")
    old = load_cascade_config(out)
    kept = {name for name, _ in old.stages}
    if old == cascade and all(_same(source, out / name) for source, (name, _) in zip(folders, old.stages, strict=True)):
        return True
    if not overwrite:
        raise CascadeError(f"out={out} holds another cascade; choose another folder, or overwrite=true replaces it")
    if foreign := sorted(names - kept - {CASCADE}):
        raise CascadeError(f"out={out} holds '{foreign[0]}', which is no part of its cascade; remove it first")
    return False


def _same(source: Path, copy: Path) -> bool:
    manifest = copy / MANIFEST
    return manifest.is_file() and manifest.read_bytes() == (source / MANIFEST).read_bytes()


def _check_whole(folders: list[Path], cascade: CascadeConfig) -> None:
    """Load every stage once: hashes, weights that fit the network, and settings that can be built."""
    import torch

    from cascade.artifact import load_stage
    from cascade.stage_sampler import StageSampler

    for folder, (_, sampling) in zip(folders, cascade.stages, strict=True):
        StageSampler.prepare(load_stage(folder), sampling, torch.device("cpu"), "fp32")


def _write(out: Path, cascade: CascadeConfig, folders: list[Path]) -> None:
    def fill(new: Path) -> None:
        for folder, (name, _) in zip(folders, cascade.stages, strict=True):
            copy_stage(folder, new / name)
        save_cascade_config(new, cascade)

    replace_folder(out, fill)


def _summary(stages: list[StageConfig]) -> str:
    chain = " -> ".join(f"{stage.name} ({stage.resolution} px)" for stage in stages)
    names = next((stage.class_names for stage in stages if stage.class_names), ())
    return f"{chain}, {f'{len(names)} classes' if names else 'unlabelled'}"
