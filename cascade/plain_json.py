"""Values that JSON can hold."""

import math
from collections.abc import Mapping
from typing import Any


def without_infinity(value: Any) -> Any:
    """Return numbers, lists and mappings with "inf", "-inf" and "nan" in the place of what JSON does not know.

    >>> without_infinity({"until": math.inf, "levels": (1.5, -math.inf)})
    {'until': 'inf', 'levels': [1.5, '-inf']}
    """
    if isinstance(value, Mapping):
        return {key: without_infinity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_infinity(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
