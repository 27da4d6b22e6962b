"""The three files of a stage's folder, whatever kind of stage it is: written whole, read with their hashes checked."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cascade.errors import CascadeError, suggest
from cascade.files import expanded, replace_folder, sha256_of, write_whole, write_whole_with

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CONFIG, WEIGHTS, MANIFEST = "config.yaml", "weights.safetensors", "manifest.json"

PRETRAINED = Path(__file__).parent / "pretrained"
"""The cascades that are installed with the package, a folder each, which go by its name."""

DTYPES = ("fp32", "bf16")
"""Of stored weights; both are read as float32."""

DIFFUSION, CLASSIFIER = "diffusion", "classifier"
_KINDS = {
    DIFFUSION: ("the diffusion stage", "a classifier (cascade train stage=classifier64 makes one)"),
    CLASSIFIER: ("the classifier", "a diffusion stage (a classifier guides one: guidance=classifier)"),
}
"""`kind` in a stage's config → what it is called, and what was wanted where it is refused."""


def without_kind(mapping: Any, wanted: str, where: str) -> Any:
    """Return a stage's config without its `kind`; one of another kind than `wanted` is refused by its name.

    A config that does not say its kind is of a diffusion stage. Raises CascadeError.

    >>> without_kind({"kind": "classifier", "name": "classifier64"}, DIFFUSION, "runs/config.yaml")
    Traceback (most recent call last):
    cascade.errors.CascadeError: runs/config.yaml is of the classifier 'classifier64', and here belongs a diffusion \
stage (a classifier guides one: guidance=classifier)
    """
    if not isinstance(mapping, Mapping):
        return mapping
    kind = mapping.get("kind", DIFFUSION)
    if kind not in _KINDS:
        raise CascadeError(f"{where}: unknown kind '{kind}'; {suggest(str(kind), _KINDS)}")
    if kind != wanted:
        called, needed = _KINDS[kind]
        raise CascadeError(f"{where} is of {called} '{mapping.get('name')}', and here belongs {needed}")
    return {key: value for key, value in mapping.items() if key != "kind"}


def find_stage(path: str | Path) -> Path:
    """Return the stage folder that `path` means: itself, `stage/` in a run folder, or an installed CASCADE/STAGE."""
    path = expanded(path)
    installed = [PRETRAINED / path] if len(path.parts) == 2 else []
    for folder in (path, path / "stage", *installed):
        if (folder / CONFIG).is_file():
            return folder
    if not path.exists():
        names = _stages_near(path)
        hint = f"; {suggest(str(path), names)}" if names else ""
        raise CascadeError(f"there is no stage at '{path}': no such folder{hint}")
    hint = f"it holds no {CONFIG}"
    if any((folder / WEIGHTS).exists() for folder in (path, path / "stage")):
        hint = f"it is damaged, {CONFIG} is missing"
    elif (path / "last.ckpt").exists():
        hint = "its training has not finished"
    raise CascadeError(f"there is no stage at '{path}': {hint}")


def _stages_near(path: Path) -> list[str]:
    """The stages beside the one that `path` would be, and those of an installed cascade so called, as one says them."""
    places = ((path.parent, path.parent), (PRETRAINED / path.parent, path.parent), (PRETRAINED / path, path))
    return [str(said / folder.name) for place, said in places for folder in place.glob("*") if _is_stage(folder)]


def _is_stage(folder: Path) -> bool:
    return (folder / CONFIG).is_file() or (folder / "stage" / CONFIG).is_file()


def write_stage(folder: str | Path, config: Mapping[str, Any], state: "Mapping[str, Tensor]") -> None:
    """Write a stage folder whole: into a new folder beside the target, then renamed over it."""

    def fill(new: Path) -> None:
        write_weights(new / WEIGHTS, state, Path(folder))
        write_whole(new / CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
        hashes = {name: sha256_of(new / name) for name in (CONFIG, WEIGHTS)}
        write_whole(new / MANIFEST, json.dumps(hashes, indent=2) + "\n")

    replace_folder(folder, fill)


def write_weights(
    file: Path, state: "Mapping[str, Tensor]", of: Path, numbers: Mapping[str, int] | None = None
) -> None:
    """Write tensors whole, with some numbers about them. CascadeError: `of`, whose they are, has no room."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    about = None if numbers is None else {key: str(value) for key, value in numbers.items()}
    try:
        write_whole_with(file, lambda path: save_file(tensors, path, about))
    except SafetensorError as error:
        raise CascadeError(f"the weights in {of} could not be written: {error}") from error


def check_dtype(dtype: str) -> None:
    """Refuse what weights are not stored in."""
    if dtype not in DTYPES:
        raise CascadeError(f"unknown dtype '{dtype}'; {suggest(str(dtype), DTYPES)}")


def stored_as(state: "Mapping[str, Tensor]", dtype: str) -> "dict[str, Tensor]":
    """The weights rounded to the dtype of that name.

    >>> import torch
    >>> stored_as({"w": torch.tensor([1.003])}, "bf16")
    {'w': tensor([1.], dtype=torch.bfloat16)}
    """
    import torch

    kept = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    return {key: value.to(kept) if value.is_floating_point() else value for key, value in state.items()}


def rewrite_stage(source: Path, target: Path, dtype: str) -> None:
    """Copy a stage's folder, of whatever kind it is, with its weights in another dtype."""
    checked_sha256(source)
    write_stage(target, read_yaml(source / CONFIG), stored_as(read_weights(source), dtype))


def checked_sha256(folder: Path) -> str:
    """Return the SHA-256 of a stage's weights; raise CascadeError where a file is not the manifest's, or not there."""
    hashes = _read_manifest(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise CascadeError(f"stage '{folder}' is damaged: {name} is missing")
        if sha256_of(folder / name) != hashes.get(name):
            raise CascadeError(f"stage '{folder}' is damaged: {name} does not match the hash in {MANIFEST}")
    return hashes[WEIGHTS]


def read_weights(folder: Path) -> "dict[str, Tensor]":
    """Read a stage's weights without executing code."""
    return read_tensors(folder / WEIGHTS, f"stage '{folder}'")


def read_tensors(file: Path, of: str) -> "dict[str, Tensor]":
    """Read a file of tensors without executing code; CascadeError where `of`, whose it is, is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise CascadeError(f"{of} is damaged: {file.name} cannot be read ({error})") from error


def load_network(
    folder: Path, of: str, make: "Callable[[], nn.Module]", device: "torch.device | str"
) -> "tuple[nn.Module, str]":
    """Return what `make` makes with the weights in `folder`, for use and not for training, and their SHA-256.

    Hashes are checked before it is made, and no code is executed. `of` is whose weights they are, for errors.
    """
    import torch

    sha256 = checked_sha256(folder)
    network, state = make(), read_weights(folder)
    check_weights(network, state, of)
    network.load_state_dict(state)  # copies into float32, whatever is stored
    return network.to(torch.device(device)).eval().requires_grad_(False), sha256


def check_weights(module: "nn.Module", state: "Mapping[str, Tensor]", where: str) -> None:
    """Refuse a state of another network than `module`, naming its first odd tensor."""
    own = module.state_dict()
    for key in [*own, *state]:
        if key not in state:
            raise CascadeError(f"{where} holds weights of another network: '{key}' is missing")
        if key not in own:
            raise CascadeError(f"{where} holds weights of another network: it has no '{key}'")
        if own[key].shape != state[key].shape:
            shapes = f"{tuple(state[key].shape)}, not {tuple(own[key].shape)}"
            raise CascadeError(f"{where} holds weights of another network: '{key}' is {shapes}")


def read_yaml(file: Path) -> Any:
    """Read plain YAML; raise CascadeError in one line where it is none."""
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CascadeError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error


def _read_manifest(folder: Path) -> dict[str, str]:
    file = folder / MANIFEST
    try:
        hashes = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CascadeError(f"stage '{folder}' is damaged: {MANIFEST} is missing") from None
    except ValueError as error:
        raise CascadeError(f"stage '{folder}' is damaged: {MANIFEST} is not JSON") from error
    if not isinstance(hashes, dict):
        raise CascadeError(f"stage '{folder}' is damaged: {MANIFEST} is not a mapping")
    return hashes
