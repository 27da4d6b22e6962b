"""The kinds of stages that are trained: each a module of the same functions, of which `run` calls one or the other."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from stages import assembly, classifier_assembly, distill_assembly


def kind_of(config: Mapping[str, Any]) -> ModuleType:
    """The assembly of what `config` describes, checked: of a student, of a classifier, or of a denoiser."""
    if "teacher" in config:
        return distill_assembly
    return classifier_assembly if "classifier" in config else assembly
