"""What this machine is and has: its processor, whether that multiplies in bf16, and memory as the system counts it."""

import contextlib
import ctypes
import gc
import platform
import resource
import sys
from pathlib import Path

import torch

_PROCESSOR, _MEMORY = Path("/proc/cpuinfo"), Path("/proc/meminfo")
_STATUS, _PEAK_OFF = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def multiplies_in_bf16(device: str) -> bool:
    """Whether the hardware multiplies in bf16; elsewhere it is emulated. `device` is "cpu", "cuda" or "mps"."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return device == "cpu" and bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def processor() -> str:
    """The name of the processor."""
    return _said(_PROCESSOR, "model name") or platform.processor() or platform.machine()


def peak_memory() -> int:
    """The most bytes of this process that were in memory since it began, or since `forget_peak`: the system's count."""
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _bytes(_STATUS, "VmHWM") or (usage if sys.platform == "darwin" else 1024 * usage)


def forget_peak() -> None:
    """Give back what is free, and begin the peak anew where the system can (Linux); elsewhere peaks only grow."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        _PEAK_OFF.write_text("5", encoding="ascii")


def total_memory() -> int | None:
    """Bytes that a process here may have: the machine's, or less where its group is limited; None: not known."""
    machine = _bytes(_MEMORY, "MemTotal")
    found = [machine] if machine else []
    for file in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):
            found.append(int(file.read_text(encoding="ascii")))
    return min(found, default=None)


def _bytes(file: Path, key: str) -> int:
    """What a file of the system says in kB ("MemTotal: 16384 kB"); 0 if nothing."""
    return 1024 * int((_said(file, key) or "0").split()[0])


def _said(file: Path, key: str) -> str:
    """What a file of the system says first of a key; empty if nothing, or where there is no such file."""
    with contextlib.suppress(OSError):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""
