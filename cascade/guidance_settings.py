"""What a guidance config says, whatever it nests: its scale, whether it needs labels, and the guides it asks.

A config is a mapping of the registry: {name: interval, lo: -2, hi: 3, guided: {name: classifier_free, scale: 2}}. One
that asks another model names its folder: `weak`, a weaker stage, or `classifier`, which a sampler may ask too. In a
`cascade.yaml` that folder lies beside the stages.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from numbers import Real
from typing import TYPE_CHECKING, Any

from cascade.errors import CascadeError

if TYPE_CHECKING:
    from cascade.artifact import StageSampling

Guidance = Mapping[str, Any]
Guide = tuple[str, str]
"""What a guide is, "weak" or "classifier", and its folder."""

GUIDES = ("weak", "classifier")

NO_GUIDANCE: dict[str, Any] = {"name": "none"}


def rescaled(guidance: Guidance, scale: float) -> dict[str, Any]:
    """Return the guidance at another scale, that of what is guided in an interval; "none" becomes classifier-free.

    >>> rescaled({"name": "interval", "lo": -2.0, "hi": 3.0, "guided": {"name": "classifier_free", "scale": 2.0}}, 4.0)
    {'name': 'interval', 'lo': -2.0, 'hi': 3.0, 'guided': {'name': 'classifier_free', 'scale': 4.0}}
    """
    if "guided" in guidance:
        return {**guidance, "guided": rescaled(guidance["guided"], scale)}
    kept = {"name": "classifier_free"} if _name(guidance) == "none" else guidance
    return {**kept, "scale": scale}


def without_labels(guidance: Guidance) -> dict[str, Any]:
    """Return what is left of a guidance in a stage without classes: classifier-free guidance is none there.

    >>> without_labels({"name": "interval", "lo": -2.0, "hi": 3.0, "guided": {"name": "classifier_free", "scale": 2.0}})
    {'name': 'none'}
    >>> asks = {"name": "classifier_around", "classifier": "c", "guided": {"name": "classifier_free", "scale": 2.0}}
    >>> without_labels(asks)["guided"]
    {'name': 'none'}
    """
    if _name(guidance) == "classifier_free":
        return dict(NO_GUIDANCE)
    if "guided" not in guidance:
        return dict(guidance)
    inner = without_labels(guidance["guided"])
    nothing_left = inner == NO_GUIDANCE and not asks_guides(guidance)  # a classifier knows classes by itself
    return inner if nothing_left else {**guidance, "guided": inner}


def classifier_free_scale(guidance: Guidance) -> float:
    """Return the scale of the classifier-free guidance in it, 1 where there is none.

    Raises CascadeError for one without a scale, and for a scale that is no number.

    >>> classifier_free_scale({"name": "autoguidance", "scale": 2.0, "weak": "runs/small/base64"})
    1.0
    """
    if "guided" in guidance:
        return classifier_free_scale(guidance["guided"])
    if _name(guidance) != "classifier_free":
        return 1.0
    if "scale" not in guidance:
        raise CascadeError("guidance 'classifier_free' needs 'scale'")
    scale = guidance["scale"]
    if isinstance(scale, bool) or not isinstance(scale, Real):
        raise CascadeError(f"guidance 'classifier_free': scale={scale} must be a number")
    return float(scale)


def guides_of(sampling: "StageSampling") -> list[Guide]:
    """Return the guides that a stage's guidance and sampler ask, each once.

    >>> from cascade.artifact import StageSampling
    >>> asks = {"name": "classifier_ancestral", "classifier": "runs/mine/classifier64"}
    >>> guides_of(StageSampling(sampler=asks, grid={"name": "karras"}))
    [('classifier', 'runs/mine/classifier64')]
    """
    return list(dict.fromkeys([*guides_in(sampling.guidance), *guides_in(sampling.sampler)]))


def guides_in(config: Guidance) -> list[Guide]:
    """Return the guides that a guidance or a sampler asks.

    >>> guides_in({"name": "interval", "guided": {"name": "autoguidance", "weak": "runs/small/base64"}})
    [('weak', 'runs/small/base64')]
    """
    inner = guides_in(config["guided"]) if "guided" in config else []
    return inner + [(key, config[key]) for key in GUIDES if key in config]


def with_guides(sampling: "StageSampling", change: Callable[[str, str], Any]) -> "StageSampling":
    """Return the sampling with `change(kind, folder)` in the place of the folder of each guide that it asks."""
    changed = {key: _with_guides(getattr(sampling, key), change) for key in ("guidance", "sampler")}
    return replace(sampling, **changed)


def asks_guides(config: Guidance) -> bool:
    """Whether a guidance or a sampler asks another model.

    >>> asks_guides({"name": "autoguidance", "scale": 2.0, "weak": "runs/small/base64"})
    True
    """
    return bool(guides_in(config))


def _name(guidance: Guidance) -> str:
    if not isinstance(guidance, Mapping) or "name" not in guidance:
        raise CascadeError(f"a guidance is a mapping with a 'name', not {guidance!r}")
    return guidance["name"]


def _with_guides(config: Guidance, change: Callable[[str, str], Any]) -> dict[str, Any]:
    inner = {"guided": _with_guides(config["guided"], change)} if "guided" in config else {}
    return {**config, **inner, **{key: change(key, config[key]) for key in GUIDES if key in config}}
