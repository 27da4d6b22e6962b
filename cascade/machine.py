"""What this machine is and has: its processor, whether that multiplies in bf16, and memory as the system counts it."""

import contextlib
import ctypes
import gc
import os
import platform
import resource
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

CPU = torch.device("cpu")
_PROCESSOR, _MEMORY = Path("/proc/cpuinfo"), Path("/proc/meminfo")
_STATUS, _PEAK_OFF = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def multiplies_in_bf16(device: str) -> bool:
    """Whether the hardware multiplies in bf16; elsewhere it is emulated. `device` is "cpu", "cuda" or "mps"."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return device == "cpu" and bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def training_device(accelerator: str) -> str:
    """The device that `trainer.accelerator` means here: "cuda" where there is such a GPU, unless the CPU is asked for.

    "mps" only where that is asked for; else "cpu".
    """
    if accelerator == "mps":
        return "mps"
    return "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def device_name(device: torch.device) -> str:
    """What a device is called: the card, or the processor and the kind of what stands beside it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor() if device.type == "cpu" else f"{processor()}, {device.type}"


def wait_for(device: torch.device) -> None:
    """Wait until a device has done all it was told to, so that a clock can be read."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def training_precision(wanted: str, device: str) -> str:
    """Return "fp32" or "bf16" for a `trainer.precision`, of which "auto" is bf16 where the hardware multiplies in it.

    `device` is "cpu", "cuda" or "mps". On CPUs without bf16 instructions bf16 is emulated and slower than fp32.

    >>> training_precision("fp32", "cpu"), training_precision("auto", "mps")
    ('fp32', 'fp32')
    """
    if wanted != "auto":
        return wanted
    return "bf16" if multiplies_in_bf16(device) else "fp32"


def has_compiler(device: torch.device) -> bool:
    """Whether torch's compiler has here what it needs for a device."""
    if device.type == "cuda":
        return find_spec("triton") is not None
    return device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is not None


def processor() -> str:
    """The name of the processor."""
    return _said(_PROCESSOR, "model name") or platform.processor() or platform.machine()


def peak_memory(device: torch.device = CPU) -> int:
    """The most bytes of this process that were in memory since it began, or since `forget_peak`.

    The system's count; on a GPU that of torch, of its memory.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _bytes(_STATUS, "VmHWM") or (usage if sys.platform == "darwin" else 1024 * usage)


def forget_peak(device: torch.device = CPU) -> None:
    """Give back what is free, and begin the peak anew where that is possible (Linux, GPUs); else peaks only grow."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        _PEAK_OFF.write_text("5", encoding="ascii")


def total_memory(device: torch.device = CPU) -> int | None:
    """Bytes that a process here may have: the machine's, or less where its group is limited; None: not known.

    Of a GPU what others leave of it.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
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
