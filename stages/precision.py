"""Which arithmetic a training runs in."""

from cascade.errors import CascadeError, suggest
from cascade.machine import multiplies_in_bf16

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


def choose_precision(wanted: str, device: str) -> str:
    """Return "fp32" or "bf16" for `wanted`, which may also be "auto": bf16 where the hardware multiplies in it.

    `device` is "cpu", "cuda" or "mps". On CPUs without bf16 instructions bf16 is emulated and slower than fp32.

    >>> choose_precision("fp32", "cpu"), choose_precision("auto", "mps")
    ('fp32', 'fp32')
    """
    if wanted in PRECISIONS:
        return wanted
    if wanted != "auto":
        raise CascadeError(f"unknown trainer.precision '{wanted}'; {suggest(wanted, [*PRECISIONS, 'auto'])}")
    return "bf16" if multiplies_in_bf16(device) else "fp32"
