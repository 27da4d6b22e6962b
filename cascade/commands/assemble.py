"""`cascade assemble`: copy trained stages into one folder, a cascade that needs nothing else."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from cascade.artifact import (
    CASCADE,
    CONFIG,
    MANIFEST,
    WEIGHTS,
    CascadeConfig,
    StageConfig,
    StageSampling,
    check_chain,
    copy_stage,
    find_stage,
    load_cascade_config,
    load_stage_config,
    save_cascade_config,
)
from cascade.commands.per_stage import read_per_stage, stage_keys
from cascade.errors import CascadeError
from cascade.files import expanded, replace_folder
from cascade.guidance_settings import guides_of, with_guides
from cascade.lock import beside, check_place
from cascade.stage_files import check_dtype, checked_sha256, rewrite_stage
from cascade.stage_settings import StageSettings, changed, load_sampled_config, stops
from cascade.trained_levels import noise_in_words

if TYPE_CHECKING:
    from cascade.commands.values import Kind


def extra_keys(config: DictConfig) -> "Mapping[str, Kind]":
    """STAGE.key for every stage that is named in `stages`."""
    return stage_keys([load_stage_config(folder).name for folder in _folders(config.stages)])


def run(config: DictConfig) -> None:
    """Put the stages `stages` together at `out`; a cascade of the same stages that is there already is left as it is.

    A stage that lies in a cascade is sampled as that says, and what guides it there is copied too. Stages that do not
    fit are refused before anything is written, and so is a folder that holds something else. The cascade appears at
    `out` whole, by one rename.
    """
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)
    folders, out = _folders(plain["stages"]), expanded(plain["out"])
    if plain["dtype"] is not None:
        check_dtype(plain["dtype"])
    stages = [load_sampled_config(folder) for folder in folders]
    check_chain(stages)
    settings = read_per_stage(plain["per_stage"], [stage.name for stage in stages])
    samplings = [changed(stage.sampling, settings.get(stage.name, StageSettings()), stage) for stage in stages]
    parts = _parts(folders, stages, samplings)
    cascade = CascadeConfig(
        tuple((stage.name, _inside(s, stage.name)) for stage, s in zip(stages, samplings, strict=True))
    )
    with _stored(parts, plain["dtype"]) as parts:
        there = _refuse_occupied(out, cascade, parts, overwrite=plain["overwrite"])
        if not there:
            check_place(out, beside)
            _check_whole(folders, samplings)
            with beside(out):
                there = _refuse_occupied(out, cascade, parts, overwrite=plain["overwrite"])  # since it was looked at
                if not there:
                    _write(out, cascade, parts)
    print(f"{out}{' is there already' if there else ''}: {_summary(stages, samplings)}")


def _parts(folders: list[Path], stages: list[StageConfig], samplings: list[StageSampling]) -> dict[str, Path]:
    """The folders in the cascade → where each is copied from: the stages, and what guides them."""
    parts = dict(zip([stage.name for stage in stages], folders, strict=True))
    for stage, sampling in zip(stages, samplings, strict=True):
        own: dict[str, Path] = {}
        for kind, folder in guides_of(sampling):
            name, source = _guide_name(stage.name, kind), find_stage(folder)
            what = f"the {kind}{' stage' if kind == 'weak' else ''} of '{stage.name}'"
            if name in parts:
                raise CascadeError(f"{what} would be copied to '{name}', which is a stage's")
            if own.setdefault(name, source) != source:
                raise CascadeError(f"{what} is both '{own[name]}' and '{source}'; its guidance and sampler share one")
        parts |= own
    return parts


@contextmanager
def _stored(parts: dict[str, Path], dtype: str | None) -> Iterator[dict[str, Path]]:
    """The parts as they are copied: those that are there, or for the while of it such in another dtype.

    Raises CascadeError for one that is damaged.
    """
    if dtype is None:
        for source in parts.values():
            checked_sha256(source)
        yield parts
        return
    with TemporaryDirectory() as folder:
        for name, source in parts.items():
            rewrite_stage(source, Path(folder) / name, dtype)
        yield {name: Path(folder) / name for name in parts}


def _inside(sampling: StageSampling, stage: str) -> StageSampling:
    """The sampling as `cascade.yaml` says it, with the folders of its guides in the cascade."""
    return with_guides(sampling, lambda kind, _: _guide_name(stage, kind))


def _guide_name(stage: str, kind: str) -> str:
    return f"{stage}_{kind}"


def _folders(stages: str | list[str]) -> list[Path]:
    listed = [stages] if isinstance(stages, str) else list(stages)
    if not listed:
        raise CascadeError("stages=[] names no stage: list run or stage folders, base first, like stages=[a,b,c]")
    try:
        return [find_stage(folder) for folder in listed]
    except CascadeError as error:
        comma = isinstance(stages, str) and "," in stages
        raise CascadeError(f"{error}{'; several stages are a list: stages=[a,b,c]' if comma else ''}") from None


def _refuse_occupied(out: Path, cascade: CascadeConfig, parts: dict[str, Path], *, overwrite: bool) -> bool:
    """Whether this very cascade is at `out` already; raise CascadeError if something else must not be replaced."""
    if not out.exists() and not out.is_symlink():
        return False
    if not out.is_dir():
        raise CascadeError(f"out={out} is {'a broken link' if out.is_symlink() else 'a file'}")
    names = {entry.name for entry in out.iterdir()}
    if not names:
        return False
    if CASCADE not in names:
        raise CascadeError(f"out={out} is not empty and holds no cascade; choose another folder")
    old = load_cascade_config(out)
    kept = {name for name, _ in old.stages} | {folder for _, s in old.stages for _, folder in guides_of(s)}
    if old == cascade and all(_same(source, out / name) for name, source in parts.items()):
        return True
    if not overwrite:
        raise CascadeError(f"out={out} holds another cascade; choose another folder, or overwrite=true replaces it")
    if foreign := _foreign(out, kept):
        raise CascadeError(f"out={out} holds '{foreign}', which is no part of its cascade; remove it first")
    return False


def _foreign(out: Path, kept: set[str]) -> str | None:
    """The first file or folder in a cascade's folder that is no part of it."""
    own = {Path(CASCADE)} | {Path(name) for name in kept}
    own |= {Path(name) / file for name in kept for file in (CONFIG, WEIGHTS, MANIFEST)}
    found = sorted(path.relative_to(out) for path in [*out.iterdir(), *(p for n in kept for p in out.glob(f"{n}/*"))])
    return next((path.as_posix() for path in found if path not in own), None)


def _same(source: Path, copy: Path) -> bool:
    manifest = copy / MANIFEST
    return manifest.is_file() and manifest.read_bytes() == (source / MANIFEST).read_bytes()


def _check_whole(folders: list[Path], samplings: list[StageSampling]) -> None:
    """Load every stage once: hashes, weights that fit the network, and settings that can be built."""
    import torch

    from cascade.artifact import load_stage
    from cascade.stage_sampler import StageSampler

    for folder, sampling, until in zip(folders, samplings, stops(samplings), strict=True):
        StageSampler.prepare(load_stage(folder), sampling, torch.device("cpu"), "fp32", until=until)


def _write(out: Path, cascade: CascadeConfig, parts: dict[str, Path]) -> None:
    def fill(new: Path) -> None:
        for name, source in parts.items():
            copy_stage(source, new / name)
        save_cascade_config(new, cascade)

    replace_folder(out, fill)


def _summary(stages: list[StageConfig], samplings: list[StageSampling]) -> str:
    noise = [None if sampling.aug_log_snr is None else noise_in_words(sampling.aug_log_snr) for sampling in samplings]
    about = [f"{stage.resolution} px" + f", {words}" * bool(words) for stage, words in zip(stages, noise, strict=True)]
    chain = " -> ".join(f"{stage.name} ({words})" for stage, words in zip(stages, about, strict=True))
    names = next((stage.class_names for stage in stages if stage.class_names), ())
    return f"{chain}, {f'{len(names)} classes' if names else 'unlabelled'}"
