"""Which arithmetic a training runs in."""

import torch

from cascade.errors import CascadeError, suggest

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
    if device == "mps":
        return "fp32"
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    able = torch.cpu.get_capabilities()
    return "bf16" if able.get("amx_bf16") or able.get("avx512_bf16") else "fp32"
