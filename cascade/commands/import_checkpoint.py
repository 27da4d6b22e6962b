"""`cascade import`: a published checkpoint and its flags, made into a stage folder, a classifier's too."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from cascade.artifact import check_name, load_stage, save_stage
from cascade.commands.stage_out import check_stage_out
from cascade.errors import CascadeError, suggest
from cascade.files import expanded
from cascade.importers.adm_flags import ADMModel, check_flags, preset, read_flags
from cascade.lock import beside, check_place
from cascade.stage_files import check_dtype, stored_as

if TYPE_CHECKING:
    from cascade.importers.reference import Compared

FORMATS = ("adm",)


def run(config: DictConfig) -> None:
    """Read the checkpoint, write the stage, and compare it with reference tensors if there are any.

    Exit code 1 where the stage is further from the reference than its bounds. See `conf/import.yaml`.
    """
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)
    checkpoint, out = (expanded(plain[key]) for key in ("checkpoint", "out"))
    _check(plain, checkpoint, out)
    flags = _flags(plain)
    if flags is not None:
        check_flags(flags)  # before the file is read, which tells those that are left out
    check_place(out, beside)
    from cascade.importers.adm import imported, rows_of
    from cascade.importers.adm_shapes import completed, told_by_shapes
    from cascade.importers.torch_file import read_state

    state = read_state(checkpoint)
    if flags is None:
        raise CascadeError(told_by_shapes(state, f"'{checkpoint}'"))
    model = read_flags(completed(flags, state, f"'{checkpoint}'"))
    class_names = _class_names(plain["class_names"], rows_of(model, state))
    described, weights = imported(model, state, plain["name"] or _name(model), class_names, f"'{checkpoint}'")
    save_stage(out, described, stored_as(weights, plain["dtype"]))
    parameters = sum(value.numel() for value in weights.values())
    print(f"{out}: {described.name}, {parameters / 1e6:.1f} M parameters in {plain['dtype']}")
    if plain["verify"] is not None:
        _verify(out, model, _reference(plain["verify"], checkpoint))


def _check(plain: Mapping[str, Any], checkpoint: Path, out: Path) -> None:
    if plain["format"] not in FORMATS:
        raise CascadeError(f"unknown format '{plain['format']}'; {suggest(plain['format'], FORMATS)}")
    check_dtype(plain["dtype"])
    if plain["preset"] is not None and plain["flags"] is not None:
        raise CascadeError("say how the network was made by one of preset=NAME and flags=FILE.json")
    if plain["name"] is not None:
        check_name(plain["name"])
    if plain["class_names"] is not None:
        _read_names(plain["class_names"])
    if not checkpoint.is_file():
        raise CascadeError(f"there is no checkpoint '{checkpoint}'")
    if plain["verify"] is not None:
        _reference(plain["verify"], checkpoint)
    check_stage_out(out, overwrite=plain["overwrite"])


def _flags(plain: Mapping[str, Any]) -> dict[str, Any] | None:
    if plain["preset"] is not None:
        return preset(plain["preset"])
    if plain["flags"] is None:
        return None
    file = expanded(plain["flags"])
    try:
        flags = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CascadeError(f"the flags '{file}' cannot be read: {error}") from error
    if not isinstance(flags, dict):
        raise CascadeError(f"the flags '{file}' must be a JSON object, like {{\"image_size\": 64, ...}}")
    return flags


def _name(model: ADMModel) -> str:
    if model.classifier:
        return f"classifier{model.resolution}"
    return f"{'base' if model.low_resolution is None else 'sr'}{model.resolution}"


def _class_names(file: str | None, rows: int) -> tuple[str, ...]:
    if file is not None:
        return _read_names(file)
    if rows != 1000:
        return tuple(str(number) for number in range(rows))
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def _read_names(file: str) -> tuple[str, ...]:
    try:
        lines = expanded(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CascadeError(f"class_names={file} cannot be read: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())


def _reference(folder: str, checkpoint: Path) -> Path:
    """FOLDER/STEM.tensors.safetensors, STEM the name of the checkpoint."""
    file = expanded(folder) / f"{checkpoint.stem}.tensors.safetensors"
    if not file.parent.is_dir():
        raise CascadeError(f"verify={folder} is no folder")
    if not file.is_file():
        raise CascadeError(f"there are no reference tensors '{file}'")
    return file


def _verify(out: Path, model: ADMModel, reference: Path) -> None:
    from cascade.classifier import load_classifier
    from cascade.importers.reference import compare_classifier, compare_denoiser, read_reference
    from cascade.registry import build

    tensors = read_reference(reference)
    if model.classifier:
        _tell(compare_classifier(load_classifier(out).network, tensors))
        return
    _tell(compare_denoiser(load_stage(out).denoiser, build("schedule", model.betas), tensors))


def _tell(results: "list[Compared]") -> None:
    for result in results:
        if result.error is None:
            print(f"{result.name}: not compared: the reference tensors hold none")
            continue
        verdict = "" if result.fits else ": too large"
        print(f"{result.name}: largest error {result.error:.1e}, bound {result.bound:.0e}{verdict}")
    if not all(result.fits for result in results):
        raise SystemExit(1)
