"""ADM's command-line flags: those of the released files, and what a set of them says about a network."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cascade.errors import CascadeError, suggest

Flags = Mapping[str, Any]

_MODEL: dict[str, Any] = {
    "attention_resolutions": "32,16,8",
    "channel_mult": "",  # that of the size
    "class_cond": True,
    "diffusion_steps": 1000,
    "learn_sigma": True,
    "noise_schedule": "linear",
    "num_res_blocks": 2,
    "resblock_updown": True,
    "use_scale_shift_norm": True,
}
_WIDE = {**_MODEL, "num_channels": 256, "num_head_channels": 64}
_UPSAMPLER = {**_MODEL, "num_channels": 192}
_LSUN = {**_WIDE, "image_size": 256, "class_cond": False, "dropout": 0.1}

PRESETS: dict[str, dict[str, Any]] = {
    "64x64_diffusion": {
        **_MODEL,
        "image_size": 64,
        "num_channels": 192,
        "num_head_channels": 64,
        "num_res_blocks": 3,
        "noise_schedule": "cosine",
        "use_new_attention_order": True,
        "dropout": 0.1,
    },
    "128x128_diffusion": {**_MODEL, "image_size": 128, "num_channels": 256, "num_heads": 4},
    "256x256_diffusion": {**_WIDE, "image_size": 256},
    "256x256_diffusion_uncond": {**_WIDE, "image_size": 256, "class_cond": False},
    "512x512_diffusion": {**_WIDE, "image_size": 512},
    "64_256_upsampler": {**_UPSAMPLER, "small_size": 64, "large_size": 256, "num_heads": 4},
    "128_512_upsampler": {
        **_UPSAMPLER,
        "small_size": 128,
        "large_size": 512,
        "num_head_channels": 64,
        "attention_resolutions": "32,16",
    },
    "lsun_bedroom": _LSUN,
    "lsun_cat": _LSUN,
    "lsun_horse": _LSUN,
    "lsun_horse_nodropout": {**_LSUN, "dropout": 0.0},
    "64x64_classifier": {"image_size": 64, "classifier_depth": 4, "noise_schedule": "cosine"},
    "128x128_classifier": {"image_size": 128, "classifier_depth": 2},
    "256x256_classifier": {"image_size": 256, "classifier_depth": 2},
    "512x512_classifier": {"image_size": 512, "classifier_depth": 2},
}
"""The flags with which the released files are sampled, by the files' names."""

_DEFAULTS: dict[str, Any] = {
    "num_channels": 128,
    "num_res_blocks": 2,
    "num_heads": 4,
    "num_heads_upsample": -1,
    "num_head_channels": -1,
    "attention_resolutions": "16,8",
    "channel_mult": "",
    "dropout": 0.0,
    "class_cond": False,
    "use_scale_shift_norm": True,
    "resblock_updown": False,
    "use_new_attention_order": False,
    "learn_sigma": False,
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "predict_xstart": False,
    "rescale_timesteps": False,
}
_CLASSIFIER_DEFAULTS: dict[str, Any] = {
    "classifier_width": 128,
    "classifier_depth": 2,
    "classifier_attention_resolutions": "32,16,8",
    "classifier_use_scale_shift_norm": True,
    "classifier_resblock_updown": True,
    "classifier_pool": "attention",
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "rescale_timesteps": False,
}
# Flags of memory, precision and sampling, which change no weight's meaning.
_IGNORED = {
    "use_checkpoint", "use_fp16", "use_kl", "timestep_respacing", "rescale_learned_sigmas", "classifier_use_fp16",
}  # fmt: skip
# Flags of a diffusion, which a classifier's script takes too and which say nothing of it.
_NOT_OF_CLASSIFIERS = {"learn_sigma", "predict_xstart"}
_SIZES = {"image_size", "small_size", "large_size"}
_LEAST = {
    **dict.fromkeys((*_SIZES, "num_channels", "num_heads", "classifier_width", "diffusion_steps"), 1),
    "num_res_blocks": 0,
    "classifier_depth": 0,
}
MULT: dict[int, tuple[float, ...]] = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
}
"""ADM's channel_mult by the size of the pictures; a classifier has no other."""
_UPSAMPLER_MULT = {512: (1, 1, 2, 2, 4, 4)}
POOLS = {"attention": "attention", "adaptive": "average", "spatial": "features", "spatial_v2": "features_norm"}
"""ADM's names of a classifier's poolings → those of `cascade.networks.adm_classifier`."""


@dataclass(frozen=True)
class ADMModel:
    """What the flags say: a network's config without its classes, its pictures, and the ladder it was trained on.

    `classifier`: it gives log-odds and denoises nothing. `classes`: it takes labels (a classifier: it knows them).

    >>> model = read_flags(preset("64x64_diffusion"))
    >>> model.resolution, model.learn_variance, model.classifier
    (64, True, False)
    """

    network: dict[str, Any]
    resolution: int
    low_resolution: int | None
    classes: bool
    classifier: bool
    learn_variance: bool
    betas: dict[str, Any]
    rescale: bool


def preset(name: str) -> dict[str, Any]:
    """Return the flags of a released file. Raises CascadeError naming the nearest for an unknown one.

    >>> preset("64_256_upsampler")["num_channels"]
    192
    """
    name = name.removesuffix(".pt")
    if name not in PRESETS:
        raise CascadeError(f"unknown preset '{name}'; {suggest(name, PRESETS)}")
    return dict(PRESETS[name])


def of_classifier(flags: Flags) -> bool:
    """Whether flags describe a classifier, as those named classifier_* do."""
    return any(flag.startswith("classifier_") for flag in flags)


def check_flags(flags: Flags) -> None:
    """Raise CascadeError for an unknown flag, one of another kind of value, and a size below its least.

    >>> check_flags({"image_sice": 64})
    Traceback (most recent call last):
    cascade.errors.CascadeError: unknown flag 'image_sice'; did you mean 'image_size'?
    """
    classifier = of_classifier(flags)
    ignored = _IGNORED | (_NOT_OF_CLASSIFIERS if classifier else set())
    kinds = {**dict.fromkeys(_SIZES, 1), **(_CLASSIFIER_DEFAULTS if classifier else _DEFAULTS)}
    for flag, value in flags.items():
        if flag not in kinds and flag not in ignored:
            raise CascadeError(f"unknown flag '{flag}'; {suggest(flag, {*kinds, *ignored})}")
        if flag in kinds:
            _check_kind(flag, value, kinds[flag])
        if flag in _LEAST and value < _LEAST[flag]:
            raise CascadeError(f"flag {flag}={value} must be at least {_LEAST[flag]}")


def size_of(flags: Flags) -> int:
    """The side of the pictures. Raises CascadeError where the flags do not say it.

    >>> size_of({"small_size": 64, "large_size": 256})
    256
    """
    size = flags.get("large_size", flags.get("image_size"))
    if not isinstance(size, int) or size < 1:
        raise CascadeError("the flags need image_size, or small_size and large_size for an upsampler")
    return size


def read_flags(flags: Flags) -> ADMModel:
    """Read a set of flags, with ADM's defaults for those left out.

    Flags named classifier_* describe a classifier. Raises CascadeError for an unknown flag, for one that changes what
    the network predicts, and where sizes are missing.

    >>> read_flags(preset("64x64_diffusion")).network["attention"]
    [2, 4, 8]
    """
    check_flags(flags)
    classifier, size = of_classifier(flags), size_of(flags)
    given = {**(_CLASSIFIER_DEFAULTS if classifier else _DEFAULTS), **flags}
    betas = {"name": "discrete_betas", "kind": given["noise_schedule"], "steps": given["diffusion_steps"]}
    if classifier:
        network = _classifier_network(given, size)
        return ADMModel(network, size, None, True, True, False, betas, given["rescale_timesteps"])
    if given["predict_xstart"]:
        raise CascadeError("predict_xstart=true is none of the released models: this reads networks that predict noise")
    if given["num_heads_upsample"] not in (-1, given["num_heads"]):
        raise CascadeError("num_heads_upsample must be -1 or num_heads: other heads on the way up are not read")
    return ADMModel(
        network=_network(given, size),
        resolution=size,
        low_resolution=given.get("small_size"),
        classes=given["class_cond"],
        classifier=False,
        learn_variance=given["learn_sigma"],
        betas=betas,
        rescale=given["rescale_timesteps"],
    )


def _check_kind(flag: str, value: Any, like: Any) -> None:
    """Refuse a flag that is of another kind than `like`: "False" in quotes would be true."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text in quotes"}
    fits = {bool: (bool,), int: (int,), float: (int, float), str: (str, int)}[type(like)]
    if not isinstance(value, fits) or (isinstance(value, bool) and not isinstance(like, bool)):
        raise CascadeError(f"flag {flag}={json.dumps(value, default=str)} must be {words[type(like)]}")


def _network(flags: Flags, size: int) -> dict[str, Any]:
    if flags["channel_mult"]:
        mult = _numbers(flags["channel_mult"], "channel_mult")
    else:
        mult = _default_mult(size, MULT if flags.get("small_size") is None else {**MULT, **_UPSAMPLER_MULT})
    heads = flags["num_head_channels"]
    return {
        "name": "adm",
        "channels": flags["num_channels"],
        "channel_mult": list(mult),
        "blocks": flags["num_res_blocks"],
        "attention": _divisors(flags["attention_resolutions"], size, len(mult)),
        "heads": flags["num_heads"],
        "head_channels": None if heads == -1 else heads,
        # ADM's upsamplers are built without this flag, so in the other order.
        "qkv_order": "qkv_first" if flags["use_new_attention_order"] else "heads_first",
        "scale_shift": flags["use_scale_shift_norm"],
        "residual_resample": flags["resblock_updown"],
        "conv_resample": True,
        "dropout": float(flags["dropout"]),
        "null_label": False,
    }


def _classifier_network(flags: Flags, size: int) -> dict[str, Any]:
    pool = flags["classifier_pool"]
    if pool not in POOLS:
        raise CascadeError(f"classifier_pool={pool} is not read; {suggest(pool, POOLS)}")
    mult = _default_mult(size, MULT)
    return {
        "name": "adm",
        "size": size,
        "channels": flags["classifier_width"],
        "channel_mult": list(mult),
        "blocks": flags["classifier_depth"],
        "attention": _divisors(flags["classifier_attention_resolutions"], size, len(mult)),
        "heads": 1,
        "head_channels": 64,
        "qkv_order": "heads_first",
        "scale_shift": flags["classifier_use_scale_shift_norm"],
        "residual_resample": flags["classifier_resblock_updown"],
        "conv_resample": True,
        "dropout": 0.0,
        "pool": POOLS[pool],
    }


def _default_mult(size: int, table: Mapping[int, tuple[float, ...]]) -> tuple[float, ...]:
    if size not in table:
        raise CascadeError(f'ADM has no channel_mult for {size} px: give channel_mult, like "1,2,3,4"')
    return table[size]


def _divisors(resolutions: str, size: int, levels: int) -> list[int]:
    """The divisors of the side that the network reaches; a resolution beyond its levels names no layer."""
    numbers = _numbers(resolutions, "attention_resolutions")
    if min(numbers) < 1:
        raise CascadeError(f"attention_resolutions={resolutions!r} must be sides of 1 pixel or more")
    found = sorted({size // int(number) for number in numbers})
    return [divisor for divisor in found if divisor in {2**level for level in range(levels)}]


def _numbers(text: str, flag: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in str(text).split(","))
    except ValueError:
        raise CascadeError(f'{flag}={text!r} must be numbers with commas, like "32,16,8"') from None
    if not all(0 < number < math.inf for number in numbers):
        raise CascadeError(f"{flag}={text!r} must be above 0, and finite")
    return tuple(int(number) if number == int(number) else number for number in numbers)
