"""What a command line refuses before torch, the parts refuse too: nothing is forbidden that they would take."""

import math
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
import yaml

from cascade import registry
from cascade.diffusion.noise import LogNormalNoise
from cascade.diffusion.reverse import VARIANCES
from cascade.diffusion.schedule import DiscreteBetas
from cascade.errors import CascadeError
from cascade.evaluation.resize import RULES
from cascade.networks.adm_classifier import POOLS
from cascade.networks.adm_layers import QKV_ORDERS
from cascade.networks.layers import NORMS
from cascade.ranges import OPTIMIZERS, WORDS, refuse_out_of_range

CONF = Path(__file__).resolve().parents[1] / "conf"
CONTEXT: dict[str, dict[str, Any]] = {
    "weighting": {"noise": LogNormalNoise()},
    "preconditioning": {"network": None},
    "guidance": {"denoiser": None},
    "threshold": {"denoiser": None},
    "network": {"in_channels": 3, "out_channels": 3, "num_classes": 1, "augment_dim": 0},
}
GROUPS = (*CONTEXT, "noise", "loss", "sampler", "grid", "augmentation", "geometric", "ema")
WHOLE = [
    (f"{group}/{path.stem}", config)
    for group in GROUPS
    for path in sorted((CONF / group).glob("*.yaml"))
    if "${" not in (text := path.read_text(encoding="utf-8")) and "???" not in text
    for config in [yaml.safe_load(text)]
]


def refused(key: str, value: Any, beside: dict[str, Any]) -> bool:
    try:
        refuse_out_of_range(key, value, beside)
    except CascadeError:
        return True
    return False


@pytest.mark.parametrize(("choice", "config"), WHOLE, ids=[choice for choice, _ in WHOLE])
def test_parts_take_nothing_that_a_command_line_refuses(choice, config):
    group = choice.split("/")[0]
    for name, value in config.items():
        assert not refused(f"{group}.{name}", value, config)
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        tried = (-1, 0, 1) if isinstance(value, int) else (-math.inf, -1.0, 0.0, 1.0, 1.5, math.inf, math.nan)
        for other in tried:
            changed = {**config, name: other}
            if refused(f"{group}.{name}", other, changed):
                with pytest.raises((CascadeError, ValueError)), torch.device("meta" if group == "network" else "cpu"):
                    registry.build(group, changed, **CONTEXT.get(group, {}))


def test_the_words_are_all_that_the_parts_take():
    """A word that is missing here would be refused though there is such a part."""
    kinds = get_args(get_type_hints(DiscreteBetas)["kind"])
    known = {"kind": kinds, "norm": NORMS, "pool": POOLS, "qkv_order": QKV_ORDERS, "resize": RULES}
    assert {name: set(words) for name, words in WORDS.items()} == {
        name: set(words) for name, words in {**known, "variance": VARIANCES}.items()
    }
    classes = {name for name, found in vars(torch.optim).items() if isinstance(found, type)} - {"Optimizer"}
    assert set(OPTIMIZERS) == classes
