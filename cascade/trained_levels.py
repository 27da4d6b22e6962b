"""Conditioning-augmentation levels: in units a person knows, and which a stage was trained at. Needs no torch."""

import math
from collections.abc import Mapping
from typing import Any

from cascade.errors import CascadeError


def levels_of_255(log_snr: float) -> float:
    """The standard deviation of augmentation noise in levels of 255: 127.5·σ/α = 127.5·e^{−λ/2}.

    That is beside a picture of full contrast: what a stage is shown, α·low + σ·ε, is the picture with such noise,
    dimmed as a whole by α.

    >>> round(levels_of_255(6.0), 1), levels_of_255(math.inf)
    (6.3, 0.0)
    """
    return 127.5 * math.exp(-log_snr / 2)


def log_snr_of(levels: float) -> float:
    """The log-SNR of noise of so many levels of 255, λ = 2 ln(127.5/s); 0 is clean, +inf.

    >>> round(log_snr_of(6.35), 2), log_snr_of(0.0)
    (6.0, inf)
    """
    return 2 * math.log(127.5 / levels) if levels > 0 else math.inf


def noise_in_words(log_snr: float | str | None) -> str:
    """An augmentation level in levels of 255 and as the log-SNR λ; None (no augmentation) and +inf are clean.

    >>> noise_in_words(8.0), noise_in_words("inf")
    ('noise of 2.3 levels of 255 (λ = 8)', 'without noise')
    """
    if log_snr is None or float(log_snr) == math.inf:
        return "without noise"
    return f"noise of {_short(levels_of_255(float(log_snr)))} levels of 255 (λ = {float(log_snr):g})"


def spread_levels(augmentation: Mapping[str, Any], count: int) -> list[float]:
    """So many log-SNRs evenly over the range that an augmentation's config names, the cleanest first, +inf among them.

    >>> spread_levels({"name": "gaussian", "log_snr_min": 0.0, "log_snr_max": 6.0, "include_clean": 0.1}, 4)
    [inf, 6.0, 3.0, 0.0]
    >>> spread_levels({"name": "none"}, 4)
    [inf]
    """
    low, high = augmentation.get("log_snr_min"), augmentation.get("log_snr_max")
    if low is None or high is None:
        return [math.inf]
    clean = [math.inf] if augmentation.get("include_clean", 0.0) > 0 else []
    steps = max(1, count - len(clean) - 1)
    return [*clean, *(round(high - (high - low) * i / steps, 6) for i in range(steps + 1))]


def _short(levels: float) -> str:
    return f"{levels:.0f}" if levels >= 9.95 else f"{levels:.2g}"


def untrained(level: float, log_snr_min: float, log_snr_max: float, *, clean: bool) -> CascadeError:
    """The error for a level outside the trained range [log_snr_min, log_snr_max], with +inf if `clean`."""
    inf = ", or inf (clean)" if clean else ""
    least, most = (_short(levels_of_255(end)) for end in (log_snr_max, log_snr_min))
    return CascadeError(
        f"augmentation level {level:g} was not trained; choose a log-SNR from {log_snr_min:g} to {log_snr_max:g}{inf}: "
        f"{most} to {least} levels of 255"
    )


def refuse_untrained(augmentation: Mapping[str, Any], level: float) -> None:
    """Raise CascadeError for a level outside the range that an augmentation's config names, if it names one.

    >>> refuse_untrained({"name": "gaussian", "log_snr_min": 0.0, "log_snr_max": 6.0}, 7.0)
    Traceback (most recent call last):
    cascade.errors.CascadeError: augmentation level 7 was not trained; choose a log-SNR from 0 to 6: 128 to 6.3 ...
    """
    low, high = augmentation.get("log_snr_min"), augmentation.get("log_snr_max")
    if low is None or high is None:
        return
    clean = augmentation.get("include_clean", 0.0) > 0
    if not (low <= level <= high or (clean and level == math.inf)):
        raise untrained(level, low, high, clean=clean)
