"""Which conditioning-augmentation levels a stage was trained at, told without torch."""

import math
from collections.abc import Mapping
from typing import Any

from cascade.errors import CascadeError


def untrained(level: float, log_snr_min: float, log_snr_max: float, *, clean: bool) -> CascadeError:
    """The error for a level outside the trained range [log_snr_min, log_snr_max], with +inf if `clean`."""
    inf = ", or inf (clean)" if clean else ""
    return CascadeError(
        f"augmentation level {level:g} was not trained; choose a log-SNR from {log_snr_min:g} to {log_snr_max:g}{inf}"
    )


def refuse_untrained(augmentation: Mapping[str, Any], level: float) -> None:
    """Raise CascadeError for a level outside the range that an augmentation's config names, if it names one.

    >>> refuse_untrained({"name": "gaussian", "log_snr_min": 0.0, "log_snr_max": 6.0}, 7.0)
    Traceback (most recent call last):
    cascade.errors.CascadeError: augmentation level 7 was not trained; choose a log-SNR from 0 to 6
    """
    low, high = augmentation.get("log_snr_min"), augmentation.get("log_snr_max")
    if low is None or high is None:
        return
    clean = augmentation.get("include_clean", 0.0) > 0
    if not (low <= level <= high or (clean and level == math.inf)):
        raise untrained(level, low, high, clean=clean)
