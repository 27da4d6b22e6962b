"""What the shapes in a checkpoint of ADM tell of its flags, and where the flags say something else."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cascade.errors import CascadeError
from cascade.importers.adm_flags import PRESETS, ADMModel, preset, read_flags

State = Mapping[str, Tensor]

UNTOLD = ("num_heads or num_head_channels", "use_new_attention_order", "noise_schedule")
"""The flags of a denoiser, beside the size of its pictures, that no shape tells."""
OF_BOTH = {"image_size", "noise_schedule", "diffusion_steps", "rescale_timesteps"}
"""The flags of denoisers and of classifiers, which alone do not say which of the two is described."""
_POOLS = {"out.2.c_proj.weight": "attention", "out.3.weight": "adaptive", "out.2.weight": "spatial"}


@dataclass(frozen=True)
class Seen:
    """A flag that shapes tell: what it says of the network, and a key that shows it."""

    flag: str
    value: Any
    key: str

    def value_at(self, size: int) -> Any:
        """The value as a flag has it, for pictures of that size; attention nowhere is at a side that there is not."""
        if self.flag.endswith("attention_resolutions"):
            return ",".join(str(size // divisor) for divisor in self.value) or str(2 * size)
        return ",".join(f"{number:g}" for number in self.value) if self.flag == "channel_mult" else self.value

    def written(self, size: int | None) -> str:
        """The flag as it is given; attention needs the size of the pictures, and is told in shares of it without."""
        if size is None and self.flag.endswith("attention_resolutions"):
            return f"attention at 1/{', 1/'.join(map(str, self.value))} of the side" if self.value else "no attention"
        return f"{self.flag}={json.dumps(self.value_at(size or 1))}"


def is_classifier(state: State) -> bool:
    """Whether it is the way down alone, which a classifier is."""
    return not any(key.startswith("output_blocks.") for key in state)


def seen_flags(state: State, levels: int | None = None) -> list[Seen]:
    """Read from the keys and shapes what they tell; what is no network of ADM's tells nothing.

    A classifier's depth and attention need the number of its `levels`, which follows from the size of its pictures.

    >>> import torch
    >>> seen = seen_flags({"time_embed.0.weight": torch.zeros(128, 32), "out.2.weight": torch.zeros(10, 2048)})
    >>> [one.written(64) for one in seen]
    ['classifier_width=32', 'classifier_pool="spatial"']
    """
    if "time_embed.0.weight" not in state:
        return []
    if not is_classifier(state):
        return _of_denoiser(state)
    width = Seen("classifier_width", state["time_embed.0.weight"].shape[1], "time_embed.0.weight")
    pools = [Seen("classifier_pool", pool, key) for key, pool in _POOLS.items() if key in state]
    return [width, *_levels(state, "input_blocks", levels, "classifier_"), *pools[:1]]


def completed(flags: Mapping[str, Any], state: State, where: str) -> dict[str, Any]:
    """Return the flags with those that were left out and that shapes tell.

    Raises CascadeError where a flag and a shape disagree: the flag, the key, both values, and the flag that fits.
    """
    if is_classifier(state) and OF_BOTH.issuperset(flags):
        flags = {**flags, **{one.flag: one.value for one in seen_flags(state) if one.flag == "classifier_width"}}
    model = read_flags(flags)
    if model.classifier != is_classifier(state):
        kinds = ("classifier", "denoiser") if model.classifier else ("denoiser", "classifier")
        raise CascadeError(f"{where} is no {kinds[0]}, which its flags describe, but a {kinds[1]}{_hint(state)}")
    seen = seen_flags(state, len(model.network["channel_mult"]))
    left_out = [one for one in seen if one.flag not in flags and one.flag != "channel_mult"]  # it follows from the size
    made = {**flags, **{one.flag: one.value_at(model.resolution) for one in left_out}}
    misfit = _misfit(read_flags(made), seen)
    if misfit is not None:
        one, told = misfit
        said, right = (Seen(one.flag, value, one.key).written(model.resolution) for value in (told, one.value))
        shape = tuple(state[one.key].shape) if one.key in state else "(which it lacks)"
        raise CascadeError(
            f"{where} does not fit its flags: they say {said}, and by '{one.key}' {shape} it is {right}{_hint(state)}"
        )
    _check_pictures(model, state, where)
    return made


def told_by_shapes(state: State, where: str) -> str:
    """What there is to say to someone who has given no flags: what was read, and what must be given."""
    seen = seen_flags(state)
    if not seen:
        return f"{where} is no network of ADM's: it has no 'time_embed.0.weight'"
    size = "small_size, large_size" if _shown(state) == 6 else "image_size"
    untold = (size, "noise_schedule") if is_classifier(state) else (size, *UNTOLD)
    read = ", ".join(one.written(None) for one in seen)
    return (
        f"{where} tells {read}; it does not tell {', '.join(untold)}: give flags=FILE.json with them, or "
        f"preset=NAME{_hint(state)}"
    )


def fitting_presets(state: State) -> list[str]:
    """The released files whose network has these shapes.

    >>> fitting_presets({})
    []
    """
    found = []
    for name in PRESETS:
        model = read_flags(preset(name))
        seen = seen_flags(state, len(model.network["channel_mult"]))
        if seen and model.classifier == is_classifier(state) and _misfit(model, seen) is None:
            shown = _shown(state)
            if shown is None or (shown == 6) == (model.low_resolution is not None):
                found.append(name)
    return found


def _hint(state: State) -> str:
    found = fitting_presets(state)
    return f" (its shapes are those of preset={' or '.join(found)})" if found else ""


def _shown(state: State) -> int | None:
    first = state.get("input_blocks.0.0.weight")
    return None if first is None else first.shape[1]


def _check_pictures(model: ADMModel, state: State, where: str) -> None:
    shown = _shown(state)
    if not model.classifier and shown in (3, 6) and (shown == 6) != (model.low_resolution is not None):
        what = (
            "reads a low-res picture too: give small_size and large_size"
            if shown == 6
            else ("reads no low-res picture: give image_size, and no small_size")
        )
        raise CascadeError(f"{where} does not fit its flags: by 'input_blocks.0.0.weight' ({shown} channels) it {what}")


def _misfit(model: ADMModel, seen: list[Seen]) -> tuple[Seen, Any] | None:
    """The first that is otherwise by the flags, and what it is by them."""
    network, prefix = model.network, "classifier_" if model.classifier else ""
    depth, width = ("depth", "width") if prefix else ("num_res_blocks", "num_channels")
    told = {
        prefix + width: network["channels"],
        prefix + depth: network["blocks"],
        "channel_mult": network["channel_mult"],
        f"{prefix}attention_resolutions": network["attention"],
        f"{prefix}use_scale_shift_norm": network["scale_shift"],
        f"{prefix}resblock_updown": network["residual_resample"],
        "learn_sigma": model.learn_variance,
        "class_cond": model.classes,
        "classifier_pool": {"average": "adaptive", "features": "spatial"}.get(network.get("pool"), "attention"),
    }
    return next(((one, told[one.flag]) for one in seen if told[one.flag] != one.value), None)


def _of_denoiser(state: State) -> list[Seen]:
    key = "time_embed.0.weight"
    channels = state[key].shape[1]
    seen = [Seen("num_channels", channels, key), *_levels(state, "output_blocks", None, "", channels)]
    if "out.2.weight" in state:
        seen.append(Seen("learn_sigma", state["out.2.weight"].shape[0] == 6, "out.2.weight"))
    return [*seen, Seen("class_cond", "label_emb.weight" in state, "label_emb.weight")]


def _levels(state: State, way: str, levels: int | None, prefix: str, channels: int | None = None) -> list[Seen]:
    """The levels of a way up, on which changes of side show, or down, where they need `levels` to be told apart."""
    keys = (key.split(".") for key in state if key.startswith(f"{way}."))
    parts = [part for part in keys if len(part) > 3 and part[1].isdigit()]
    count = len({int(part[1]) for part in parts})
    ups = {int(part[1]): ".".join(part) for part in parts if part[2] != "0" and part[3] in ("in_layers", "conv")}
    ops = {int(part[1]): ".".join(part) for part in parts if part[3:4] == ["op"]}
    up = way == "output_blocks"
    levels = len(ups) + 1 if up else levels
    seen = []
    if levels is not None and count % levels == 0 and count > levels:
        per = count // levels  # on the way down the first layer and the changes of side make up for one more block
        last = f"{way}.{count - 1}.0.out_layers.0.weight"
        seen.append(Seen(f"{prefix}{'depth' if prefix else 'num_res_blocks'}", per - 1, last))
        if channels is not None:
            norms = [f"{way}.{(levels - 1 - level) * per}.0.out_layers.0.weight" for level in range(levels)]
            mult = [len(state[norm]) / channels for norm in norms if norm in state]
            seen.append(Seen("channel_mult", [int(m) if m == int(m) else m for m in mult], norms[-1]))
        attention = {int(part[1]): ".".join(part) for part in parts if part[2:] == ["1", "qkv", "weight"]}
        places = {levels - 1 - number // per if up else (number - 1) // per for number in attention}
        shows = next(iter(attention.values()), last)
        seen.append(Seen(f"{prefix}attention_resolutions", sorted(2**place for place in places), shows))
    changes = ups if up else ops
    if changes:
        key = next(iter(changes.values()))
        seen.append(Seen(f"{prefix}resblock_updown", "in_layers" in key, key))
    block, norm = f"{way}.1.0.emb_layers.1.weight", f"{way}.1.0.out_layers.0.weight"
    if block in state and norm in state:
        seen.append(Seen(f"{prefix}use_scale_shift_norm", len(state[block]) == 2 * len(state[norm]), block))
    return seen
