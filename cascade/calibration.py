"""`precision=auto`: the arithmetic of a stage's network on this machine, measured once and kept in the user's cache.

The one thing that is written outside of what a person names: `precision/STAGE-HASH.json` in `$XDG_CACHE_HOME/cascade`
(`~/.cache/cascade`), the seconds of some calls. It may be removed at any time, and is then made again.
"""

import contextlib
import hashlib
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch

from cascade.arithmetic import EAGER, PLAIN, Arithmetic, choose, hopeless, named
from cascade.artifact import Stage
from cascade.diffusion import Condition
from cascade.errors import CascadeError
from cascade.files import expanded, write_whole
from cascade.full_float32 import full_float32
from cascade.machine import device_name, has_compiler, wait_for
from cascade.networks.flops import cost
from cascade.rng import randn
from cascade.stage_denoiser import stage_denoiser

SMALL = 5e8
"""FLOP of a call below which a network is left in plain float32: its time is overhead, whatever the arithmetic."""
SECONDS = 4.0
"""At most so long is measured after three rounds."""
LONG = 600.0
"""Seconds of one chunk of pictures from which on a compiler, which itself takes minutes, is tried."""
_FEWEST, _MOST = 3, 7  # rounds
_QUICK = 0.5  # seconds of a call beside which preparing it matters
_TOLERANCE = {False: 1e-3, True: 5e-2}  # of a compiled network, relative to the largest value; by bf16

Tell = Callable[[str, int, int], None]
"""Called as (what, done, total)."""


@dataclass(frozen=True)
class Calls:
    """What is measured: calls of a stage's denoiser on `batch` pictures of `side` px, `count` of them for one chunk.

    So many there are of at least, whether one picture is asked for or a thousand, which must choose alike.
    `compilable`: all calls are of this one shape.
    """

    stage: Stage
    batch: int
    side: int
    device: torch.device
    count: int = 1
    compilable: bool = True

    def small(self) -> bool:
        """Whether it is not worth a measurement; a matter of shapes alone."""
        config = self.stage.config
        one = cost(self.stage.denoiser.network, self.side, config.factor or 1, config.shown.channels)
        return one.flop * self.batch < SMALL

    def fingerprint(self) -> dict[str, Any]:
        """All that the times depend on: network and shape, processor, threads, version."""
        config = self.stage.config
        parts = (config.network, config.low_res, config.preconditioning, len(config.class_names), config.augment_dim)
        channels = 3 if config.factor is None else 3 + config.shown.channels
        shape = [self.batch, channels, self.side, self.side, config.factor]
        return {"network": _digest(parts), "shape": shape, "device": device_name(self.device), **_software()}

    def example(self) -> tuple[torch.Tensor, torch.Tensor, Condition]:
        """The arguments of a call."""
        config, b = self.stage.config, self.batch
        label = torch.zeros(b, dtype=torch.int64) if config.class_names else None
        low_res = aug_log_snr = None
        if self.stage.config.factor is not None:
            small = self.side // self.stage.config.factor
            shape = b, config.shown.channels, small, small
            low_res, aug_log_snr = randn("calibration", "low_res", shape=shape), torch.full((b,), 3.0)
            if config.low_res["name"] == "concatenated":
                aug_log_snr = aug_log_snr + torch.inf
        x = randn("calibration", "x", shape=(b, 3, self.side, self.side)).to(self.device)
        return x, torch.zeros(b, device=self.device), Condition(label, low_res, aug_log_snr).to(self.device)


@dataclass(frozen=True)
class Measured:
    """Seconds of single calls of each arithmetic, and what compiling took; None: no compiler was tried."""

    seconds: dict[Arithmetic, list[float]]
    compiling: dict[Arithmetic, float] | None = None

    def choice(self, count: int) -> Arithmetic:
        """The best for a chunk of so many calls; compiled ones are for long chunks alone."""
        return choose(self.seconds, count, self.compiling) if self.compiling and self.long(count) else self.eager

    @property
    def eager(self) -> Arithmetic:
        """The best without a compiler."""
        return choose({a: times for a, times in self.seconds.items() if not a.compiled})

    def long(self, count: int) -> bool:
        """Whether so many calls take LONG without a compiler."""
        return count * median(self.seconds[self.eager]) >= LONG

    def to_json(self) -> dict[str, Any]:
        """Plain values, which `from_json` reads."""
        compiling = None if self.compiling is None else {a.name: s for a, s in self.compiling.items()}
        return {"seconds": {a.name: times for a, times in self.seconds.items()}, "compiling": compiling}

    @classmethod
    def from_json(cls, plain: Any) -> "Measured":
        """Read plain values; raise CascadeError, or what their use raises, for any others."""
        seconds = {named(name): [_positive(s) for s in times] for name, times in plain["seconds"].items()}
        compiling = plain["compiling"]
        if compiling is not None:
            compiling = {named(name): _positive(s) for name, s in compiling.items()}
            if any(a not in seconds for a in compiling):
                raise CascadeError("a compiled arithmetic without its times")
        if not seconds.get(PLAIN) or not all(seconds.values()):
            raise CascadeError("an arithmetic without times")
        return cls(seconds, compiling)


def calibrated(calls: Calls, tell: Tell | None = None) -> Arithmetic:
    """The arithmetic of these calls: that of the cache, or measured now, which takes seconds and is told.

    A compiler is chosen where it pays within one chunk, so never by how many pictures are asked for. What cannot be
    read is made again. Where nothing can be kept nothing is measured, for it could come out otherwise the next time:
    then it is PLAIN, which stderr is told.
    """
    tell = tell or (lambda *_: None)
    fingerprint = calls.fingerprint()
    file = cache_folder() / "precision" / f"{calls.stage.config.name}-{_digest(fingerprint)}.json"
    measured = _read(file, fingerprint)
    if measured is None:
        if calls.small():
            return PLAIN
        measured = _kept(file, fingerprint, lambda: measure(calls, tell))
        if measured is None:
            return PLAIN
    if not calls.compilable:
        return measured.eager
    if measured.compiling is None and measured.long(calls.count) and has_compiler(calls.device):
        known = measured
        measured = _kept(file, fingerprint, lambda: measure_compiled(calls, known, tell)) or known
    return measured.choice(calls.count)


def measure(calls: Calls, tell: Tell) -> Measured:
    """Time calls in every arithmetic without a compiler, in turn; one that is hopeless is left out.

    So is bf16 where it fails. What fails in float32 would fail in the job, and is told by its own error.
    """
    name = f"{calls.stage.config.name}, which precision is fastest"
    warm: dict[Arithmetic, float] = {}
    for done, arithmetic in enumerate(EAGER):
        tell(name, done, len(EAGER) + _FEWEST)
        with contextlib.suppress(*[RuntimeError] * arithmetic.bf16):  # a device without it
            warm[arithmetic] = _seconds(calls, arithmetic)
            if warm[arithmetic] < _QUICK:  # the first call of a shape prepares it
                warm[arithmetic] = _seconds(calls, arithmetic)
    left = [a for a in warm if a not in hopeless(warm)]
    measured = Measured({a: [] for a in left})
    began, rounds = time.perf_counter(), 0
    while rounds < _FEWEST or (rounds < _MOST and time.perf_counter() - began < SECONDS):
        tell(name, len(EAGER) + min(rounds, _FEWEST - 1), len(EAGER) + _FEWEST)
        for arithmetic in left if rounds % 2 else reversed(left):
            measured.seconds[arithmetic].append(_seconds(calls, arithmetic))
        rounds += 1
    tell(name, len(EAGER) + _FEWEST, len(EAGER) + _FEWEST)
    return measured


def measure_compiled(calls: Calls, known: Measured, tell: Tell) -> Measured:
    """Compile the network in the best arithmetic and in bf16, and time it; one that fails or differs is left out."""
    wanted = [replace(a, compiled=True) for a in dict.fromkeys((known.eager, EAGER[2])) if a in known.seconds]
    seconds, prices = dict(known.seconds), {}
    for done, arithmetic in enumerate(wanted):
        tell(f"{calls.stage.config.name}, compiling (minutes)", done, len(wanted))
        # Whatever a compiler may fail with, the network is there without it.
        with contextlib.suppress(Exception), _quiet(), torch.no_grad(), full_float32():
            denoiser = stage_denoiser(calls.stage, calls.device, arithmetic)
            example = calls.example()
            began = time.perf_counter()
            mean = denoiser(*example).mean
            wait_for(calls.device)
            compiling = time.perf_counter() - began
            times = []
            for _ in range(_FEWEST):
                began = time.perf_counter()
                denoiser(*example)
                wait_for(calls.device)
                times.append(time.perf_counter() - began)
            plain = stage_denoiser(calls.stage, calls.device, replace(arithmetic, compiled=False))(*example).mean
            if (mean - plain).abs().max() <= _TOLERANCE[arithmetic.bf16] * plain.abs().max():
                seconds[arithmetic], prices[arithmetic] = times, compiling
    tell(f"{calls.stage.config.name}, compiling (minutes)", len(wanted), len(wanted))
    return Measured(seconds, prices)


def cache_folder() -> Path:
    """The user's cache folder of this program."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else expanded("~/.cache")) / "cascade"


@torch.no_grad()
def _seconds(calls: Calls, arithmetic: Arithmetic) -> float:
    denoiser, example = stage_denoiser(calls.stage, calls.device, arithmetic), calls.example()
    wait_for(calls.device)
    began = time.perf_counter()
    with full_float32():
        denoiser(*example)
    wait_for(calls.device)
    return time.perf_counter() - began


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the compiler's own words."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _read(file: Path, fingerprint: Mapping[str, Any]) -> Measured | None:
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        return Measured.from_json(plain) if plain["fingerprint"] == fingerprint else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CascadeError):
        return None


def _kept(file: Path, fingerprint: Mapping[str, Any], measuring: Callable[[], Measured]) -> Measured | None:
    """What is measured, once it is in the cache, or what another process has put there; None if it cannot be kept."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
    if os.access(file.parent, os.W_OK):
        measured, theirs = measuring(), _read(file, fingerprint)
        if theirs is not None and (measured.compiling is None or theirs.compiling is not None):
            return theirs
        plain = {"fingerprint": fingerprint, "choice": measured.eager.name, **measured.to_json()}
        with contextlib.suppress(OSError):
            write_whole(file, json.dumps(plain, indent=1) + "\n")
            return measured
    _say_unwritable(file.parent)
    return None


@cache
def _say_unwritable(folder: Path) -> None:
    """Once for all stages."""
    print(f"cascade: {folder} cannot be written, so precision=auto is fp32 where nothing is known yet", file=sys.stderr)


def _positive(seconds: Any) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise CascadeError(f"{seconds!r} is no time")
    return float(seconds)


def _digest(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _software() -> dict[str, Any]:
    return {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
