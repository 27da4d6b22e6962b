"""What a guidance config says, whatever it nests: its scale, whether it needs labels, and the stages it asks.

A config is a mapping of the registry: {name: interval, lo: -2, hi: 3, guided: {name: classifier_free, scale: 2}}. One
that is guided by another stage names its folder, `weak`; in a `cascade.yaml` that folder lies beside the stages.
"""

from collections.abc import Callable, Mapping
from typing import Any

Guidance = Mapping[str, Any]

NO_GUIDANCE: dict[str, Any] = {"name": "none"}


def rescaled(guidance: Guidance, scale: float) -> dict[str, Any]:
    """Return the guidance at another scale, that of what is guided in an interval; "none" becomes classifier-free.

    >>> rescaled({"name": "interval", "lo": -2.0, "hi": 3.0, "guided": {"name": "classifier_free", "scale": 2.0}}, 4.0)
    {'name': 'interval', 'lo': -2.0, 'hi': 3.0, 'guided': {'name': 'classifier_free', 'scale': 4.0}}
    """
    if "guided" in guidance:
        return {**guidance, "guided": rescaled(guidance["guided"], scale)}
    kept = {"name": "classifier_free"} if guidance["name"] == "none" else guidance
    return {**kept, "scale": scale}


def without_labels(guidance: Guidance) -> dict[str, Any]:
    """Return what is left of a guidance in a stage without classes: classifier-free guidance is none there.

    >>> without_labels({"name": "interval", "lo": -2.0, "hi": 3.0, "guided": {"name": "classifier_free", "scale": 2.0}})
    {'name': 'none'}
    """
    if guidance["name"] == "classifier_free":
        return dict(NO_GUIDANCE)
    if "guided" not in guidance:
        return dict(guidance)
    inner = without_labels(guidance["guided"])
    return inner if inner == NO_GUIDANCE else {**guidance, "guided": inner}


def classifier_free_scale(guidance: Guidance) -> float:
    """Return the scale of the classifier-free guidance in it, 1 where there is none.

    >>> classifier_free_scale({"name": "autoguidance", "scale": 2.0, "weak": "runs/small/base64"})
    1.0
    """
    if "guided" in guidance:
        return classifier_free_scale(guidance["guided"])
    return float(guidance["scale"]) if guidance["name"] == "classifier_free" else 1.0


def weak_stages(guidance: Guidance) -> list[str]:
    """Return the folders of the stages that it asks.

    >>> weak_stages({"name": "autoguidance", "scale": 2.0, "weak": "runs/small/base64"})
    ['runs/small/base64']
    """
    found: list[str] = []
    with_weak(guidance, found.append)
    return found


def with_weak(guidance: Guidance, change: Callable[[str], Any]) -> dict[str, Any]:
    """Return the guidance with `change(folder)` in the place of each folder of a stage that it asks.

    >>> with_weak({"name": "autoguidance", "scale": 2.0, "weak": "base64_weak"}, lambda folder: f"cascade/{folder}")
    {'name': 'autoguidance', 'scale': 2.0, 'weak': 'cascade/base64_weak'}
    """
    result = dict(guidance)
    if "guided" in guidance:
        result["guided"] = with_weak(guidance["guided"], change)
    if "weak" in guidance:
        result["weak"] = change(guidance["weak"])
    return result
