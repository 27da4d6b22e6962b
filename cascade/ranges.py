"""What numbers and words the parameters of a config may be, by their names: a slip is said before torch, which is slow.

A name means the same in every choice of a group (`sigma_data` is a standard deviation wherever it stands). The classes
check themselves all the same, and more closely: nothing here refuses what they would take.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cascade.errors import CascadeError, suggest
from cascade.registry import TABLE

_RANGES: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("be above 0 and finite", lambda x: 0 < x < math.inf,
     "sigma_data p_std sigma_min sigma_max tau rho beta_min beta_max vlb_weight k blur_sigma_min blur_sigma_max "
     "step_size sigma_rel second"),
    ("be at least 0 and finite", lambda x: 0 <= x < math.inf,
     "eta s_churn s_noise snr scale_std anisotropic_std translation_std"),
    ("be a number that is finite", math.isfinite, "shift bias start end scale classifier_scale p_mean"),
    ("lie in [0, 1]", lambda x: 0 <= x <= 1, "p blur_probability include_clean label_balance concat_balance"),
    ("be at least 0 and below 1", lambda x: 0 <= x < 1, "decay dropout"),
    ("be above 0 and at most 1", lambda x: 0 < x <= 1, "percentile"),
    ("be at least 1", lambda x: x >= 1,
     "n steps stride order warmup every smallest resolution tuned_at patch channels channel_mult head_channels heads "
     "embedding_dim dim size"),
    ("be at least 0", lambda x: x >= 0, "blocks depth place_features corrector_steps"),
)  # fmt: skip
_RANGE_OF = {name: (rule, holds) for rule, holds, names in _RANGES for name in names.split()}
_BELOW = {"log_snr_min": "log_snr_max", "sigma_min": "sigma_max", "lo": "hi"}
_AT_MOST = {
    "beta_min": "beta_max",
    "blur_sigma_min": "blur_sigma_max",
    "s_min": "s_max",
    "noisy_at": "clean_at",
}
WORDS = {
    "kind": ("linear", "cosine"),
    "norm": ("group", "pixel"),
    "pool": ("attention", "average", "features", "features_norm"),
    "qkv_order": ("heads_first", "qkv_first"),
    "resize": ("bicubic_clean", "bilinear_antialias", "bilinear_tf1"),
    "variance": ("small", "large", "learned", "optimal"),
}
"""Parameter → the words that it may be."""
OPTIMIZER = "trainer.optimizer._target_"
OPTIMIZERS = (
    "ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "LBFGS", "Muon", "NAdam", "RAdam", "RMSprop",
    "Rprop", "SGD", "SparseAdam",
)  # fmt: skip
"""The classes of torch.optim."""


def refuse_out_of_range(key: str, value: Any, beside: Mapping[str, Any]) -> None:
    """Raise CascadeError for a value that no part could take: `key` is group.(...).name, `beside` its whole mapping.

    >>> refuse_out_of_range("noise.p_std", 0.0, {"p_std": 0.0})
    Traceback (most recent call last):
    cascade.errors.CascadeError: noise.p_std=0.0 must be above 0 and finite
    >>> refuse_out_of_range("grid.log_snr_max", -8.0, {"log_snr_min": -6.0, "log_snr_max": -8.0})
    Traceback (most recent call last):
    cascade.errors.CascadeError: grid.log_snr_max=-8.0 does not fit: log_snr_min=-6.0 must be below it
    """
    if key == OPTIMIZER:
        refuse_no_optimizer(value)
    group, _, rest = key.partition(".")
    if group not in TABLE or group == "data" or not rest:
        return
    name = rest.rpartition(".")[2]
    if name in WORDS and isinstance(value, str) and value not in WORDS[name]:
        raise CascadeError(f"unknown {key} '{value}'; {suggest(value, WORDS[name])}")
    if name in _RANGE_OF:
        rule, holds = _RANGE_OF[name]
        numbers = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        if not all(holds(x) for x in numbers if _is_number(x)):
            raise CascadeError(f"{key}={value} must {rule}")
    for pairs, fit, relation in ((_BELOW, float.__lt__, "below"), (_AT_MOST, float.__le__, "at most")):
        for low, high in pairs.items():
            if name not in (low, high) or not (_is_number(beside.get(low)) and _is_number(beside.get(high))):
                continue
            if not fit(float(beside[low]), float(beside[high])):
                wrong = {low: f"must be {relation} {high}={beside[high]}"}
                wrong[high] = f"does not fit: {low}={beside[low]} must be {relation} it"
                raise CascadeError(f"{key}={value} {wrong[name]}")


def refuse_no_optimizer(target: str) -> None:
    """Raise CascadeError for a class that torch.optim does not have; what other modules have, they know.

    >>> refuse_no_optimizer("torch.optim.AdamWW")
    Traceback (most recent call last):
    cascade.errors.CascadeError: trainer.optimizer._target_: there is no 'torch.optim.AdamWW'; did you mean 'AdamW'?
    """
    module, _, name = target.rpartition(".")
    if module in ("", "torch.optim") and name not in OPTIMIZERS:
        raise CascadeError(f"{OPTIMIZER}: there is no '{target}'; {suggest(name, OPTIMIZERS)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
