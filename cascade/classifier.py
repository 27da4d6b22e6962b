"""A classifier on disk: a stage folder of the kind `classifier`, which guides stages and makes no picture."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.artifact import SCHEMA, check_name, checked
from cascade.errors import CascadeError
from cascade.registry import build
from cascade.stage_files import CLASSIFIER, CONFIG, find_stage, load_network, read_yaml, without_kind

if TYPE_CHECKING:
    import torch

    from cascade.diffusion.noisy_classifier import NoisyClassifier

CLASSIFIER_CONTEXT = ("in_channels", "num_classes", "size")
"""Parameters of a classifier's network that follow from the rest of its config, and are therefore not stored."""


@dataclass(frozen=True)
class ClassifierConfig:
    """Everything needed to build a classifier of noisy pictures, and to know which stages it fits.

    `betas` is the ladder whose steps its network is told (`rescale`: as if there were 1000); None: it is told λ itself.

    >>> ClassifierConfig("noisy64", 64, {"name": "adm"}, ("dress",))
    Traceback (most recent call last):
    cascade.errors.CascadeError: classifier 'noisy64' tells classes apart: it needs 2, not 1
    """

    name: str
    resolution: int
    network: dict[str, Any]
    class_names: tuple[str, ...]
    betas: dict[str, Any] | None = None
    rescale: bool = False
    images_seen: int = 0
    data_fingerprint: str = ""

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.resolution < 1:
            raise CascadeError(f"classifier '{self.name}': resolution must be at least 1, not {self.resolution}")
        if len(self.class_names) < 2:
            raise CascadeError(f"classifier '{self.name}' tells classes apart: it needs 2, not {len(self.class_names)}")
        if len(set(self.class_names)) != len(self.class_names):
            raise CascadeError(f"classifier '{self.name}': a class name occurs twice")

    def to_mapping(self) -> dict[str, Any]:
        """Return the plain mapping that `config.yaml` holds."""
        return {"schema": SCHEMA, "kind": CLASSIFIER, **asdict(self), "class_names": list(self.class_names)}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str) -> "ClassifierConfig":
        """Read a mapping of `to_mapping`; `where` names the file in errors."""
        values = checked(cls, without_kind(mapping, CLASSIFIER, where), where, schema=True)
        return cls(**{**values, "class_names": tuple(values["class_names"])})


@dataclass(frozen=True)
class Classifier:
    """A classifier read from disk: its config, its network in evaluation mode, its folder and the weights' SHA-256."""

    config: ClassifierConfig
    network: "NoisyClassifier"
    folder: Path
    sha256: str


def build_classifier(config: ClassifierConfig) -> "NoisyClassifier":
    """Build what a config describes, with fresh weights."""
    from cascade.diffusion.noisy_classifier import NoisyClassifier

    network = build(
        "classifier",
        config.network,
        in_channels=3,
        num_classes=len(config.class_names),
        size=config.resolution,
    )
    return NoisyClassifier(network, None if config.betas is None else build("schedule", config.betas), config.rescale)


def load_classifier_config(path: str | Path) -> ClassifierConfig:
    """Read the config of a classifier's (or its run's) folder; needs no torch. A diffusion stage is refused by name."""
    file = find_stage(path) / CONFIG
    return ClassifierConfig.from_mapping(read_yaml(file), str(file))


def load_classifier(path: str | Path, device: "torch.device | str" = "cpu") -> Classifier:
    """Read a classifier's (or its run's) folder: hashes checked, weights loaded as float32 without executing code.

    Raises CascadeError for a missing, damaged or foreign folder, naming the first thing that is wrong.
    """
    folder = find_stage(path)
    config = load_classifier_config(folder)
    network, sha256 = load_network(folder, f"classifier '{folder}'", lambda: build_classifier(config), device)
    return Classifier(config, network, folder, sha256)
