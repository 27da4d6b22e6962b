"""Graphics cards by name: what their makers say that they do at most, for an estimate."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """Peak FLOP a second of dense bf16 products summed in float32 (a T4: fp16), and bytes of memory."""

    name: str
    peak: float
    memory: float


def _card(name: str, tera: float, giga: float) -> Card:
    return Card(name, tera * 1e12, giga * 1e9)


CARDS: Mapping[str, Card] = {
    "h200": _card("NVIDIA H200 SXM", 989, 141),
    "h100": _card("NVIDIA H100 SXM", 989, 80),
    "a100": _card("NVIDIA A100 80 GB", 312, 80),
    "a100_40gb": _card("NVIDIA A100 40 GB", 312, 40),
    "l40s": _card("NVIDIA L40S", 362, 48),
    "l4": _card("NVIDIA L4", 121, 24),
    "rtx4090": _card("NVIDIA GeForce RTX 4090", 165, 24),
    "rtx3090": _card("NVIDIA GeForce RTX 3090", 71, 24),
    "t4": _card("NVIDIA T4 (fp16)", 65, 16),
}
