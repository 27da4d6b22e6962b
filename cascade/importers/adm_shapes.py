"""What the shapes in a checkpoint of ADM tell of its flags, and where the flags say something else."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from cascade.errors import CascadeError
from cascade.importers.adm import POOL_KEYS, imported, is_pooled, rows_of
from cascade.importers.adm_flags import (
    MULT,
    POOLS,
    PRESETS,
    ADMModel,
    check_flags,
    of_classifier,
    preset,
    read_flags,
    size_of,
)

State = Mapping[str, Tensor]

LADDER = ("noise_schedule", "diffusion_steps", "rescale_timesteps")
"""The flags that say what the steps are, which no shape tells."""
HEADS = ("num_heads or num_head_channels", "use_new_attention_order")
"""The flags of a denoiser's attention that no shape tells."""
_OF_BOTH = {"image_size", *LADDER}  # alone they do not say which is described, a denoiser or a classifier
_TIME, _FIRST, _LABELS, _OUT = "time_embed.0.weight", "input_blocks.0.0.weight", "label_emb.weight", "out.2.weight"


@dataclass(frozen=True)
class Seen:
    """A flag that shapes tell: what it says of the network, and a key that shows it.

    The value is as an `ADMModel` has it: attention by divisors of the side, channel_mult in a list.

    >>> seen = Seen("attention_resolutions", [2, 4], "output_blocks.0.1.qkv.weight")
    >>> seen.written(64), seen.written(None)
    ('attention_resolutions="32,16"', 'attention at 1/2, 1/4 of the side')
    """

    flag: str
    value: Any
    key: str

    def value_at(self, size: int) -> Any:
        """The value as a flag has it, for pictures of that size; attention nowhere is at a side that there is not."""
        if self.flag.endswith("attention_resolutions"):
            return ",".join(str(size // divisor) for divisor in self.value) or str(2 * size)
        return ",".join(map(_shortest, self.value)) if self.flag == "channel_mult" else self.value

    def written(self, size: int | None) -> str:
        """The flag as it is given; attention needs the size of the pictures, and is told in shares of it without."""
        if size is None and self.flag.endswith("attention_resolutions"):
            return f"attention at 1/{', 1/'.join(map(str, self.value))} of the side" if self.value else "no attention"
        return f"{self.flag}={json.dumps(self.value_at(size or 1))}"


def is_classifier(state: State) -> bool:
    """Whether it is the way down alone, which a classifier is."""
    return not any(key.startswith("output_blocks.") for key in state)


def seen_flags(state: State) -> list[Seen]:
    """Read from the keys and shapes of a network of ADM's what they tell.

    >>> import torch
    >>> seen = seen_flags({"time_embed.0.weight": torch.zeros(128, 32), "out.2.weight": torch.zeros(10, 2048)})
    >>> [one.written(64) for one in seen]
    ['classifier_width=32', 'classifier_pool="spatial"']
    """
    return _of_classifier(state) if is_classifier(state) else _of_denoiser(state)


def completed(flags: Mapping[str, Any], state: State, where: str) -> dict[str, Any]:
    """Return the flags with those that were left out and that shapes tell.

    Raises CascadeError for what is no network of ADM's, and where a flag and a shape disagree: the flag, the key, both
    values, and the preset that fits.
    """
    _check_adm(state, where)
    if is_classifier(state) and _OF_BOTH.issuperset(flags):
        flags = {**flags, "classifier_width": state[_TIME].shape[1]}
    check_flags(flags)
    if of_classifier(flags) != is_classifier(state):
        said, found = ("classifier", "denoiser") if of_classifier(flags) else ("denoiser", "classifier")
        named = "are not named" if of_classifier(flags) else "are named"
        raise CascadeError(
            f"{where} is no {said}, which its flags describe, but a {found}, whose flags {named} classifier_*"
            f"{_hint(state)}"
        )
    seen = seen_flags(state)
    size = size_of({**{one.flag: one.value for one in seen}, **flags})
    made = {**{one.flag: one.value_at(size) for one in seen}, **flags}
    model = read_flags(made)
    misfit = _misfit(model, seen)
    if misfit is not None:
        one, told = misfit
        said, right = (replace(one, value=value).written(size) for value in (told, one.value))
        raise CascadeError(
            f"{where} does not fit its flags: they say {said}, and by {_shown(state, one.key)} it is {right}"
            f"{_hint(state)}"
        )
    _check_pictures(model, state, where)
    return made


def told_by_shapes(state: State, where: str) -> str:
    """What there is to say to someone who has given no flags: what was read, and what must be given."""
    _check_adm(state, where)
    seen = seen_flags(state)
    size = next((one.value for one in seen if one.flag == "image_size"), None)
    sizes = ("small_size", "large_size") if _reads_low_res(state) else ("image_size",) if size is None else ()
    untold = [*sizes, *LADDER] if is_classifier(state) else [*sizes, *HEADS, *LADDER]
    read = ", ".join(one.written(size) for one in seen)
    return (
        f"{where} tells {read}; it does not tell {', '.join(untold)}: give flags=FILE.json with them, or "
        f"preset=NAME{_hint(state)}"
    )


def fitting_presets(state: State) -> list[str]:
    """The released files that have these keys and shapes, whatever the number of their classes.

    >>> fitting_presets({})
    []
    """
    return [name for name in PRESETS if _fits(read_flags(preset(name)), state)]


def _fits(model: ADMModel, state: State) -> bool:
    if _TIME not in state or model.classifier != is_classifier(state):
        return False
    if _misfit(model, seen_flags(state)):
        return False  # as the next would say, but without a network
    try:
        imported(model, state, "it", tuple(map(str, range(rows_of(model, state)))), "it")
    except CascadeError:
        return False
    return True


def _hint(state: State) -> str:
    found = fitting_presets(state)
    return f" (its shapes are those of preset={' or '.join(found)})" if found else ""


def _check_adm(state: State, where: str) -> None:
    if _TIME not in state:
        raise CascadeError(f"{where} is no network of ADM's: it has no '{_TIME}'")
    least = {_TIME: 2, _FIRST: 4}  # dimensions; the other keys are measured by their first
    odd = next((key for key, value in state.items() if value.ndim < least.get(key, 1) or not value.numel()), None)
    if odd is not None:
        raise CascadeError(f"{where} is no network of ADM's: its '{odd}' is {tuple(state[odd].shape)}")


def _reads_low_res(state: State) -> bool:
    return _FIRST in state and state[_FIRST].shape[1] == 6


def _check_pictures(model: ADMModel, state: State, where: str) -> None:
    reads = _reads_low_res(state)
    if reads == (model.low_resolution is not None):
        return
    right = "a low-res picture too: give small_size and large_size"
    if not reads:
        right = "no low-res picture: give image_size, and no small_size"
    raise CascadeError(f"{where} does not fit its flags: by {_shown(state, _FIRST)} it reads {right}{_hint(state)}")


def _shown(state: State, key: str) -> str:
    return f"'{key}' {tuple(state[key].shape) if key in state else '(which it lacks)'}"


def _misfit(model: ADMModel, seen: list[Seen]) -> tuple[Seen, Any] | None:
    """The first that is otherwise by the flags, and what it is by them."""
    network, prefix = model.network, "classifier_" if model.classifier else ""
    told = {
        "image_size": model.resolution,
        "num_channels": network["channels"],
        "num_res_blocks": network["blocks"],
        "classifier_width": network["channels"],
        "classifier_depth": network["blocks"],
        "channel_mult": [int(mult * network["channels"]) / network["channels"] for mult in network["channel_mult"]],
        f"{prefix}attention_resolutions": network["attention"],
        f"{prefix}use_scale_shift_norm": network["scale_shift"],
        f"{prefix}resblock_updown": network["residual_resample"],
        "learn_sigma": model.learn_variance,
        "class_cond": model.classes,
        "classifier_pool": next((flag for flag, pool in POOLS.items() if pool == network.get("pool")), None),
    }
    return next(((one, told[one.flag]) for one in seen if told[one.flag] != one.value), None)


def _of_denoiser(state: State) -> list[Seen]:
    """Of the way up: `per` layers in a level, one more than its blocks; the deepest level first."""
    changes = _numbered(state, r"output_blocks\.(\d+)\.[12]\.(in_layers\.2|conv)\.weight")
    levels, channels = len(changes) + 1, state[_TIME].shape[1]
    per, last = _per_level(state, "output_blocks", levels)
    seen = [Seen("num_channels", channels, _TIME)]
    norms = [_norm("output_blocks", (levels - 1 - level) * per) for level in range(levels)]
    if per > 1 and all(norm in state for norm in norms):
        seen += [
            Seen("num_res_blocks", per - 1, last),
            Seen("channel_mult", [len(state[norm]) / channels for norm in norms], norms[-1]),
            _attention(state, "", "output_blocks", lambda number: levels - 1 - number // per, last),
        ]
    if changes:
        key = next(iter(changes.values()))
        seen.append(Seen("resblock_updown", "in_layers" in key, key))
    seen += _scale_shift(state, "", "output_blocks")
    if _OUT in state:
        seen.append(Seen("learn_sigma", len(state[_OUT]) == 6, _OUT))
    return [*seen, Seen("class_cond", _LABELS in state, _LABELS)]


def _of_classifier(state: State) -> list[Seen]:
    """Of the way down: `per` layers in a level, its blocks and the change of side, after a first layer of no level."""
    seen = [Seen("classifier_width", state[_TIME].shape[1], _TIME)]
    size = _size_of_classifier(state)
    per, last = (0, "") if size is None else _per_level(state, "input_blocks", len(MULT[size]))
    if size is not None:
        seen += [
            Seen("image_size", size, last),
            Seen("classifier_depth", per - 1, last),
            _attention(state, "classifier_", "input_blocks", lambda number: number // per, last),
        ]
    plain = list(_numbered(state, r"input_blocks\.(\d+)\.0\.op\.weight").values())
    residual = f"input_blocks.{per}.0.in_layers.2.weight"
    if plain or (per and residual in state):
        seen.append(Seen("classifier_resblock_updown", not plain, plain[0] if plain else residual))
    seen += _scale_shift(state, "classifier_", "input_blocks")
    pools = [
        Seen("classifier_pool", flag, POOL_KEYS[pool][0]) for flag, pool in POOLS.items() if is_pooled(pool, state)
    ]
    return seen + pools


def _size_of_classifier(state: State) -> int | None:
    """The size of the pictures whose channel_mult the layers of a classifier have; None where it is none's."""
    channels, norms = state[_TIME].shape[1], _numbered(state, r"input_blocks\.(\d+)\.0\.out_layers\.0\.weight")
    for size, mult in MULT.items():
        per, last = _per_level(state, "input_blocks", len(mult))
        if per < 2 or last != norms.get(max(norms, default=0)):
            continue
        if all(len(state[key]) == int(mult[(number - 1) // per] * channels) for number, key in norms.items()):
            return size
    return None


def _shortest(number: float) -> str:
    return str(int(number)) if number == int(number) else repr(number)


def _numbered(state: State, pattern: str) -> dict[int, str]:
    """The layers with a key of that pattern, whose first group is their number."""
    found = (re.fullmatch(pattern, key) for key in state)
    return {int(match[1]): match[0] for match in found if match}


def _norm(way: str, number: int) -> str:
    """The norm of a layer's block, which has as many channels as the layer."""
    return f"{way}.{number}.0.out_layers.0.weight"


def _per_level(state: State, way: str, levels: int) -> tuple[int, str]:
    """The layers of each level, 0 where they are not equally many, and a key of the last."""
    count = len(_numbered(state, rf"{way}\.(\d+)\.0\..*"))
    return (0 if count % levels else count // levels), _norm(way, count - 1)


def _attention(state: State, prefix: str, way: str, level: Callable[[int], int], last: str) -> Seen:
    """Where attention follows the block of a layer; `level` is that of a number."""
    layers = _numbered(state, rf"{way}\.(\d+)\.1\.qkv\.weight")
    divisors = sorted({2 ** level(number) for number in layers})
    return Seen(f"{prefix}attention_resolutions", divisors, next(iter(layers.values()), last))


def _scale_shift(state: State, prefix: str, way: str) -> list[Seen]:
    key, norm = f"{way}.1.0.emb_layers.1.weight", _norm(way, 1)
    if key not in state or norm not in state:
        return []
    return [Seen(f"{prefix}use_scale_shift_norm", len(state[key]) == 2 * len(state[norm]), key)]
