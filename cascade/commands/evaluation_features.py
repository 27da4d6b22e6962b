"""The features of an evaluation, of pictures and of patches, and the device of each process that asks for them."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from cascade.errors import CascadeError
from cascade.processes import Processes
from cascade.progress import Bars

if TYPE_CHECKING:
    from rich.console import Console

    from cascade.evaluation.features import Features, RememberedFeatures
    from cascade.evaluation.patches import PatchFeatures

ChooseFeatures = Callable[[], "RememberedFeatures"]


def features_of(plain: Mapping[str, Any], bars: Bars) -> ChooseFeatures:
    """What builds the features when they are first asked for: one network for all metrics, each picture seen once."""
    from cascade.evaluation.features import RememberedFeatures

    return cache(lambda: RememberedFeatures(chosen_features(plain, bars.console)))


def own_device(device: str, processes: Processes) -> str:
    """The device of this process: of several on a machine with several GPUs each has its own.

    >>> own_device("cpu", Processes(count=2, rank=1, local_rank=1))
    'cpu'
    """
    import torch

    if device != "cuda" or processes.count == 1 or not torch.cuda.device_count():
        return device
    return f"cuda:{processes.local_rank % torch.cuda.device_count()}"


def chosen_features(plain: Mapping[str, Any], console: "Console") -> "Features":
    """Build the features; `auto` is Inception, and without its weights one line and EfficientNet-Lite0."""
    from cascade.evaluation.inception import WeightsMissingError
    from cascade.orchestrator import check_device
    from cascade.registry import build

    settings = {key: value for key, value in plain["features"].items() if value is not None or key == "weights"}
    context = {"device": check_device(plain["device"])}
    if settings["name"] != "auto":
        return build("features", settings, **context)
    try:
        return build("features", {**settings, "name": "inception"}, **context)
    except WeightsMissingError as missing:
        line = f"{missing}; going on with EfficientNet-Lite0 features, on which a Fréchet distance is no FID"
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    resize = {"resize": settings["resize"]} if "resize" in settings else {}
    return build("features", {"name": "efficientnet_lite0", **resize}, **context)


def check_patches(plain: Mapping[str, Any], side: int | None = None) -> None:
    """Check the settings of patches, for pictures of `side` px (None: not known yet), without torch.

    >>> check_patches({"patches": {"side": 128, "most": 20000}}, side=64)
    Traceback (most recent call last):
    cascade.errors.CascadeError: patches.side=128 is more than the 64 px of the pictures
    """
    for key in ("side", "most"):
        if plain["patches"][key] < 1:
            raise CascadeError(f"patches.{key}={plain['patches'][key]} must be at least 1")
    if side is not None and plain["patches"]["side"] > side:
        raise CascadeError(f"patches.side={plain['patches']['side']} is more than the {side} px of the pictures")


def patch_features(
    plain: Mapping[str, Any], features: "Features", pictures: int, side: int | None = None
) -> "PatchFeatures":
    """The features of at most `patches.most` patches of that many pictures; `side` is that of a patch, if another."""
    from cascade.evaluation.patches import PatchFeatures

    asked = plain["patches"]
    return PatchFeatures(features, side or asked["side"], max(1, asked["most"] // pictures), plain["seed"])
