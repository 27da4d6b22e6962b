"""A stage and a cascade on disk: read with checks, written whole, and nothing in them is code.

A stage is a folder of three files: `config.yaml` (registry names and numbers), `weights.safetensors` (EMA weights) and
`manifest.json` (the SHA-256 of both). A cascade is a folder of stage folders with a `cascade.yaml` that says in which
order they run and how each is sampled. What guides stages, a classifier, is a stage folder of another kind:
`cascade.classifier`.
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cascade.class_tables import refuse_other_table
from cascade.distilled import Distilled
from cascade.errors import CascadeError, suggest
from cascade.files import copy_file, expanded, replace_folder, write_whole
from cascade.registry import build
from cascade.stage_files import (
    CONFIG,
    DIFFUSION,
    MANIFEST,
    PRETRAINED,
    WEIGHTS,
    find_stage,
    load_network,
    read_yaml,
    without_kind,
    write_stage,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cascade.classifier import ClassifierConfig

SCHEMA = 1
MOST_PICTURES = 4096
"""In a call of a network."""
NETWORK_CONTEXT = ("in_channels", "out_channels", "num_classes", "augment_dim")
"""Parameters of a network that follow from the rest of its stage, and are therefore not stored."""

CASCADE = "cascade.yaml"


@dataclass(frozen=True)
class StageSampling:
    """How a stage is sampled: registry configs of its sampler, grid, guidance and threshold, and some numbers.

    `aug_log_snr` is the log-SNR of the noise on the low-res picture (+inf = clean; None in a base stage); `truncated`
    says where that noise is from: the stage before stops there (CDM's truncated conditioning augmentation), instead of
    finishing its picture, to which noise is added. `network_batch` is the fixed size of the padded chunks in which the
    network is called, `tile` the side of the parts in which it is shown a picture (None: whole pictures), `keep_known`
    whether the pixels that a mask shows stay exactly what they are.

    >>> StageSampling({"name": "ddim"}, {"name": "karras"}, network_batch=0)
    Traceback (most recent call last):
    cascade.errors.CascadeError: network_batch must be at least 1 and at most 4096, not 0
    """

    sampler: dict[str, Any]
    grid: dict[str, Any]
    guidance: dict[str, Any] = field(default_factory=lambda: {"name": "none"})
    threshold: dict[str, Any] = field(default_factory=lambda: {"name": "none"})
    aug_log_snr: float | None = None
    network_batch: int = 1
    truncated: bool = False
    tile: int | None = None
    keep_known: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.network_batch <= MOST_PICTURES:
            wanted = f"at least 1 and at most {MOST_PICTURES}"
            raise CascadeError(f"network_batch must be {wanted}, not {self.network_batch}")
        if self.tile is not None and self.tile < 1:
            raise CascadeError(f"tile must be at least 1 pixel (null: whole pictures), not {self.tile}")


@dataclass(frozen=True)
class StageConfig:
    """Everything needed to build a stage's denoiser and to know what it was trained for.

    `low_resolution` None makes it a base stage. `class_names` is empty for an unlabelled stage. `augmentation` holds
    the trained range of conditioning-augmentation levels, `augment_dim` the width of the geometric augmentation vector,
    `condition` what is shown of a picture, `low_res` how the network is shown it, `distilled` what it was distilled to.

    >>> sampling = StageSampling({"name": "ddim"}, {"name": "karras"})
    >>> StageConfig("base64", 64, {"name": "efficient"}, {"name": "edm"}, sampling).low_resolution is None
    True
    """

    name: str
    resolution: int
    network: dict[str, Any]
    preconditioning: dict[str, Any]
    sampling: StageSampling
    low_resolution: int | None = None
    class_names: tuple[str, ...] = ()
    augmentation: dict[str, Any] = field(default_factory=lambda: {"name": "none"})
    augment_dim: int = 0
    images_seen: int = 0
    data_fingerprint: str = ""
    low_res: dict[str, Any] = field(default_factory=lambda: {"name": "augmented"})
    condition: dict[str, Any] = field(default_factory=lambda: {"name": "low_res"})
    distilled: Distilled | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        for key in ("resolution", "low_resolution"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise CascadeError(f"stage '{self.name}': {key} must be at least 1, not {value}")
            if value is not None and value > 65_536:  # it would fill the memory before anything is said
                raise CascadeError(f"stage '{self.name}': {key} must be at most 65536, not {value}")
        if self.low_resolution is not None and self.resolution % self.low_resolution:
            raise CascadeError(
                f"stage '{self.name}': resolution {self.resolution} is no multiple of low_resolution "
                f"{self.low_resolution}"
            )
        if len(set(self.class_names)) != len(self.class_names):
            raise CascadeError(f"stage '{self.name}': a class name occurs twice")

    @property
    def factor(self) -> int | None:
        """The super-resolution factor; None for a base."""
        return None if self.low_resolution is None else self.resolution // self.low_resolution

    @property
    def shown(self) -> Any:
        """What it is shown of a picture: a function of `cascade.data.condition_picture`, which needs no torch."""
        return build("condition", self.condition)

    def side_from(self, low_side: int | None) -> int:
        """The side of the pictures it makes of low-res ones of that side (None: of those it was trained for)."""
        return self.resolution if low_side is None or self.factor is None else low_side * self.factor

    def to_mapping(self) -> dict[str, Any]:
        """Return the plain mapping that `config.yaml` holds."""
        values = {"schema": SCHEMA, **asdict(self), "class_names": list(self.class_names)}
        return {key: value for key, value in values.items() if key != "distilled" or value is not None}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str) -> "StageConfig":
        """Read a mapping of `to_mapping`; `where` names the file in errors."""
        values = checked(cls, without_kind(mapping, DIFFUSION, where), where, schema=True)
        values["sampling"] = StageSampling(**checked(StageSampling, values["sampling"], f"{where}: sampling"))
        values["class_names"] = tuple(values.get("class_names", ()))
        if values.get("distilled") is not None:
            values["distilled"] = Distilled(**checked(Distilled, values["distilled"], f"{where}: distilled"))
        return cls(**values)


@dataclass(frozen=True)
class Stage:
    """A stage read from disk: its config, its denoiser in evaluation mode, its folder and the weights' SHA-256."""

    config: StageConfig
    denoiser: "nn.Module"
    folder: Path
    sha256: str


@dataclass(frozen=True)
class CascadeConfig:
    """A cascade: the folder names of its stages, in the order in which they run, and how each is sampled.

    `tuned` holds the evidence of `cascade tune` by stage and setting; nothing that is sampled depends on it.

    >>> config = CascadeConfig((("base64", StageSampling({"name": "ddim"}, {"name": "karras"})),))
    >>> config.to_mapping()["stages"][0]["folder"]
    'base64'
    """

    stages: tuple[tuple[str, StageSampling], ...]
    tuned: Mapping[str, Any] = field(default_factory=dict)

    def to_mapping(self) -> dict[str, Any]:
        """Return the plain mapping that `cascade.yaml` holds."""
        tuned = {"tuned": dict(self.tuned)} if self.tuned else {}
        return {"schema": SCHEMA, "stages": [{"folder": f, **asdict(sampling)} for f, sampling in self.stages], **tuned}


_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "folder": (str,),
    "resolution": (int,),
    "low_resolution": (int, type(None)),
    "class_names": (list, tuple),
    "augment_dim": (int,),
    "images_seen": (int,),
    "data_fingerprint": (str,),
    "aug_log_snr": (int, float, type(None)),
    "network_batch": (int,),
    "tile": (int, type(None)),
    "truncated": (bool,),
    "keep_known": (bool,),
    "betas": (dict, type(None)),
    "rescale": (bool,),
    "distilled": (dict, type(None)),
    "steps": (int,),
    "teacher": (str,),
}
_NAMED = (
    "network", "preconditioning", "augmentation", "low_res", "condition", "sampler", "grid", "guidance", "threshold",
)  # fmt: skip
"""Keys whose value is a mapping that the registry reads, so one with a `name`."""


def checked(cls: type, mapping: Any, where: str, *, schema: bool = False) -> dict[str, Any]:
    """Return `mapping` as keyword arguments of the dataclass `cls`: no unknown key, none missing, types right."""
    if not isinstance(mapping, Mapping):
        raise CascadeError(f"{where}: expected a mapping, found {type(mapping).__name__}")
    values = dict(mapping)
    if schema and values.pop("schema", None) != SCHEMA:
        raise CascadeError(f"{where}: schema {mapping.get('schema')} is not {SCHEMA}, the one this version reads")
    names = {f.name: f for f in fields(cls)}
    for key, value in values.items():
        if key not in names:
            raise CascadeError(f"{where}: unknown key '{key}'; {suggest(str(key), names)}")
        expected = _TYPES.get(key, (dict,))
        if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
            kinds = " or ".join("null" if t is type(None) else t.__name__ for t in expected)
            raise CascadeError(f"{where}: '{key}' must be {kinds}, not {value!r}")
        if key in _NAMED and not isinstance(value.get("name"), str):
            raise CascadeError(f"{where}: '{key}' needs a 'name' that is a text")
        if key == "class_names" and not all(isinstance(name, str) for name in value):
            odd = next(name for name in value if not isinstance(name, str))
            raise CascadeError(f"{where}: '{key}' must hold texts, not {odd!r} (quote it)")
    required = [n for n, f in names.items() if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise CascadeError(f"{where}: '{missing[0]}' is missing")
    return values


def check_name(name: str) -> None:
    """Refuse a name that cannot be a folder's."""
    if not name or Path(name).name != name or name.startswith("."):
        raise CascadeError(f"a stage's name is the name of a folder too, which '{name}' cannot be")


def build_denoiser(config: StageConfig) -> "nn.Module":
    """Build the denoiser a config describes, with fresh weights: preconditioning over network.

    An image-conditional stage's network is any network with the channels of what it is shown beside its own, inside the
    wrapper `low_res` names.
    """
    from cascade.networks import BaseNetwork

    base = config.low_resolution is None
    network = build(
        "network",
        config.network,
        in_channels=3 if base else 3 + config.shown.channels,
        out_channels=6 if config.preconditioning.get("learn_variance") else 3,
        num_classes=len(config.class_names),
        augment_dim=config.augment_dim,
    )
    wrapped = BaseNetwork(network) if base else build("low_res_input", config.low_res, network=network)
    return build("preconditioning", config.preconditioning, network=wrapped)


def save_stage(
    folder: str | Path, config: "StageConfig | ClassifierConfig", state: Mapping[str, "torch.Tensor"]
) -> None:
    """Write a stage's folder, or a classifier's, whole: into a new folder beside the target, then renamed over it."""
    write_stage(folder, config.to_mapping(), state)


def load_stage_config(path: str | Path) -> StageConfig:
    """Read the config of a stage (or run) folder; needs no torch."""
    file = find_stage(path) / CONFIG
    return StageConfig.from_mapping(read_yaml(file), str(file))


def images_seen(path: str | Path) -> int:
    """How many images the stage (or run) at `path`, of whatever kind, was trained on."""
    return int((read_yaml(find_stage(path) / CONFIG) or {}).get("images_seen", 0))


def load_stage(path: str | Path, device: "torch.device | str" = "cpu") -> Stage:
    """Read a stage (or run) folder: hashes checked, weights loaded as float32 without executing code.

    Raises CascadeError for a missing, damaged or foreign folder, naming the first thing that is wrong.
    """
    folder = find_stage(path)
    config = load_stage_config(folder)
    denoiser, sha256 = load_network(folder, f"stage '{folder}'", lambda: build_denoiser(config), device)
    return Stage(config, denoiser, folder, sha256)


def find_cascade(path: str | Path) -> Path:
    """Return the folder of a cascade: `path`, or the one of that name that is installed with the package."""
    folder = expanded(path)
    by_name = len(folder.parts) == 1 and not (folder / CASCADE).exists()  # photographs may have the same name
    return PRETRAINED / folder if by_name and (PRETRAINED / folder / CASCADE).is_file() else folder


def load_cascade_config(folder: str | Path) -> CascadeConfig:
    """Read `cascade.yaml`; needs no torch. Raises CascadeError where it is missing or malformed."""
    file = find_cascade(folder) / CASCADE
    if not file.is_file():
        why = f"it holds no {CASCADE}" if file.parent.exists() else "no such folder"
        if (file.parent / CONFIG).is_file() or (file.parent / "stage" / CONFIG).is_file():
            why += "; it is a stage, and 'cascade assemble' makes cascades of stages"
        shipped = sorted(path.parent.name for path in PRETRAINED.glob(f"*/{CASCADE}"))
        hint = f"; installed with the package: {', '.join(shipped)}" if shipped else ""
        raise CascadeError(f"there is no cascade at '{folder}': {why}{hint}")
    mapping = read_yaml(file)
    if not isinstance(mapping, Mapping) or mapping.get("schema") != SCHEMA:
        raise CascadeError(f"{file}: this version reads schema {SCHEMA}")
    rows = mapping.get("stages")
    tuned = mapping.get("tuned", {})
    if set(mapping) | {"tuned"} != {"schema", "stages", "tuned"} or not isinstance(rows, list) or not rows:
        raise CascadeError(f"{file}: expected the keys schema and stages, a list of at least one stage")
    stages = []
    for number, row in enumerate(rows, 1):
        where = f"{file}: stage {number}"
        if not isinstance(row, Mapping) or not isinstance(row.get("folder"), str):
            raise CascadeError(f"{where}: expected a mapping with 'folder'")
        if Path(row["folder"]).name != row["folder"] or row["folder"] in ("", ".."):  # Path(".").name is ""
            raise CascadeError(f"{where}: '{row['folder']}' is not the name of a folder in the cascade")
        sampling = checked(StageSampling, {k: v for k, v in row.items() if k != "folder"}, where)
        stages.append((row["folder"], StageSampling(**sampling)))
    if not isinstance(tuned, Mapping) or not all(isinstance(one, Mapping) for one in tuned.values()):
        raise CascadeError(f"{file}: 'tuned' must be a mapping of stages to their settings, not {tuned!r}")
    return CascadeConfig(tuple(stages), tuned)


def save_cascade_config(folder: str | Path, config: CascadeConfig) -> None:
    """Write `cascade.yaml` into `folder`, whole."""
    write_whole(Path(folder) / CASCADE, yaml.safe_dump(config.to_mapping(), sort_keys=False, allow_unicode=True))


def copy_stage(source: str | Path, target: str | Path) -> None:
    """Copy a stage (or run) folder to `target`, whole or not at all."""
    source = find_stage(source)

    def fill(new: Path) -> None:
        for name in (CONFIG, WEIGHTS, MANIFEST):
            copy_file(source / name, new / name)

    replace_folder(target, fill)


def load_chain(folder: str | Path) -> list[StageConfig]:
    """Read the configs of a cascade's stages in order and check that they fit; needs no torch."""
    path = find_cascade(folder)
    configs = [load_stage_config(path / name) for name, _ in load_cascade_config(path).stages]
    check_chain(configs)
    return configs


def check_chain(configs: list[StageConfig]) -> None:
    """Refuse stages that do not fit one behind the other, before any compute.

    The first is a base stage or one that is given pictures, each next one takes the resolution before it, names differ,
    and labelled stages agree on the class table (an unlabelled stage fits any).
    """
    names = [config.name for config in configs]
    for name in names:
        if names.count(name) > 1:
            raise CascadeError(f"two stages are named '{name}'; a stage's name seeds its noise and must be unique")
    table: StageConfig | None = None
    for before, config in zip([None, *configs], configs, strict=False):
        given = config.low_resolution is not None and not config.shown.chained
        if given and before is not None:
            raise CascadeError(
                f"stage '{config.name}' is shown given pictures (condition={config.condition['name']}), not what "
                f"'{before.name}' makes: it can only come first"
            )
        if before is None and config.low_resolution is not None and not given:
            raise CascadeError(f"stage '{config.name}' needs {config.low_resolution} px pictures and cannot come first")
        if before is not None and config.low_resolution != before.resolution:
            takes = "starts from noise" if config.low_resolution is None else f"takes {config.low_resolution} px"
            raise CascadeError(
                f"stage '{config.name}' {takes} and does not fit behind '{before.name}', which makes "
                f"{before.resolution} px"
            )
        if config.class_names:
            table = table or config
            refuse_other_table(f"stage '{table.name}'", table.class_names, f"stage '{config.name}'", config.class_names)


def check_aug_level(config: StageConfig, aug_log_snr: float | None) -> None:
    """Refuse an augmentation level that the stage was not trained at (None in a super-resolution stage too)."""
    if config.low_resolution is None:
        if aug_log_snr is not None:
            raise CascadeError(f"stage '{config.name}' is a base stage and has no aug_log_snr")
        return
    if aug_log_snr is None or math.isnan(aug_log_snr):
        raise CascadeError(f"stage '{config.name}' needs an aug_log_snr")
    try:
        build("augmentation", config.augmentation).check(aug_log_snr)
    except CascadeError as error:
        raise CascadeError(f"stage '{config.name}': {error}") from error
