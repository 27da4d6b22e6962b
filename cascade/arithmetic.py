"""In which arithmetic and layout a network runs, and the rule by which measured times choose one. Needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from cascade.errors import CascadeError, suggest

FASTER = 1.2
"""bf16 must be so many times as fast as the best float32: it costs accuracy."""
LEAST_NOISE = 0.02
"""Medians that differ by less are equal, however quiet the machine was."""


@dataclass(frozen=True)
class Arithmetic:
    """What may be chosen for a network: float32 or bf16 autocast, the layout of its weights and maps, compiled or not.

    Its name stands in manifests. "bf16" is channels-last, the layout in which its convolutions are fast nearly
    everywhere.

    >>> Arithmetic(bf16=True).name, Arithmetic(channels_last=True, compiled=True).name
    ('bf16 contiguous', 'fp32 channels_last compiled')
    """

    bf16: bool = False
    channels_last: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        """Its name, which `named` reads."""
        layout = {True: "", False: " contiguous"} if self.bf16 else {True: " channels_last", False: ""}
        return ("bf16" if self.bf16 else "fp32") + layout[self.channels_last] + " compiled" * self.compiled


PLAIN = Arithmetic()
EAGER = (PLAIN, Arithmetic(channels_last=True), Arithmetic(bf16=True, channels_last=True), Arithmetic(bf16=True))
"""What can be chosen without a compiler."""
_NAMES = {a.name: a for e in EAGER for a in (e, Arithmetic(e.bf16, e.channels_last, compiled=True))}

Seconds = Mapping[Arithmetic, Sequence[float]]


def named(name: str) -> Arithmetic:
    """Return the arithmetic of that name; raise CascadeError with the nearest name for another.

    >>> named("bf16")
    Arithmetic(bf16=True, channels_last=True, compiled=False)
    """
    if name not in _NAMES:
        raise CascadeError(f"unknown precision '{name}'; {suggest(str(name), _NAMES)}")
    return _NAMES[name]


def choose(seconds: Seconds, calls: int = 1, compiling: Mapping[Arithmetic, float] | None = None) -> Arithmetic:
    """Choose by the `seconds` of single calls, some of each candidate; PLAIN is among them.

    A job of so many `calls` takes `calls` medians, and the seconds of `compiling` once. Among the float32 ones the
    fastest job wins, but PLAIN where the difference is within the noise of the two. bf16 wins if its job is FASTER
    times as fast as the fastest float32 job, noise or not. So nothing that is chosen is slower than PLAIN.

    >>> plain, last, bf16, _ = EAGER
    >>> choose({plain: [1.0, 1.1, 0.9], last: [0.99, 1.0, 1.2], bf16: [0.9, 0.9, 0.9]}).name
    'fp32'
    >>> choose({plain: [1.0, 1.1, 0.9], last: [0.8, 0.7, 0.8], bf16: [0.6, 0.6, 0.6]}).name
    'bf16'
    """
    compiling = compiling or {}
    jobs = {a: calls * median(times) + compiling.get(a, 0.0) for a, times in seconds.items()}
    fp32, bf16 = (
        min((a for a in jobs if a.bf16 is kind), key=jobs.__getitem__, default=None) for kind in (False, True)
    )
    assert fp32 is not None, "float32 is always measured"
    if bf16 is not None and FASTER * jobs[bf16] <= jobs[fp32]:
        return bf16
    noise = max(LEAST_NOISE, *(_spread(seconds[a]) for a in (PLAIN, fp32)))
    return fp32 if jobs[fp32] < (1 - noise) * jobs[PLAIN] else PLAIN


def hopeless(seconds: Mapping[Arithmetic, float]) -> set[Arithmetic]:
    """Those whose first call was half as slow again as the fastest's: not worth another one. PLAIN is never of them.

    >>> [a.name for a in hopeless({PLAIN: 5.0, EAGER[1]: 2.0, EAGER[2]: 1.0})]
    ['fp32 channels_last']
    """
    return {a for a, first in seconds.items() if a != PLAIN and first > 1.5 * min(seconds.values())}


def _spread(times: Sequence[float]) -> float:
    """Half the distance of the quartiles, as a share of the median."""
    if len(times) < 2:
        return 0.0
    low, middle, high = quantiles(times, n=4, method="inclusive")
    return (high - low) / 2 / middle
