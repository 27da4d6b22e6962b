"""Which picture is where in the run: batch k is a pure function of k.

The run draws pictures at positions p = 0, 1, 2, … without end. Optimizer step s takes the G positions sG … sG + G − 1,
its **global** batch, whatever the number of processes and micro-batches G is split over. Position p belongs to epoch
⌊p / N⌋, and each epoch is a permutation of its own. So a run resumes at step s by starting there, and 1, 2 or 4
processes train on the same pictures.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cascade import rng
from cascade.errors import CascadeError


class SampleKey(NamedTuple):
    """One picture of one optimizer step: `index` is its place in the global batch, `epoch` how often it came before.

    >>> SampleKey(step=3, index=0, epoch=1, sample=42).epoch
    1
    """

    step: int
    index: int
    epoch: int
    sample: int


class RunOrder:
    """Endless batch sampler of one process: yields lists of `SampleKey`, micro-batch by micro-batch.

    Micro-batch m of rank r among W processes holds the indices m·W·b + r·b + j, j < b, of its step's global batch of
    G = A·W·b pictures (b = `batch`, A = `accumulate`). Iteration begins at optimizer step `start`.

    With `labels` (one for each sample) classes are balanced: each run of C positions holds every class once, and the
    members of a class come in permutations of their own, small classes more often.

    >>> one = next(iter(RunOrder(0, size=5, batch=4)))
    >>> two = [next(iter(RunOrder(0, size=5, batch=2, processes=2, rank=r))) for r in (0, 1)]
    >>> one == two[0] + two[1]
    True
    """

    def __init__(
        self,
        run_seed: int,
        *,
        size: int,
        batch: int,
        labels: Sequence[int] | None = None,
        processes: int = 1,
        rank: int = 0,
        accumulate: int = 1,
        start: int = 0,
    ) -> None:
        for name, value in (("batch", batch), ("processes", processes), ("accumulate", accumulate), ("size", size)):
            if value < 1:
                raise CascadeError(f"{name}={value}: the order of a run needs at least 1")
        if not 0 <= rank < processes:
            raise CascadeError(f"rank {rank} is not among {processes} processes")
        if labels is not None and len(labels) != size:
            raise CascadeError(f"{len(labels)} labels for {size} pictures")
        self.run_seed, self.size, self.batch = run_seed, size, batch
        self.processes, self.rank, self.accumulate, self.start = processes, rank, accumulate, start
        self._members = None if labels is None else _members(labels)
        self._permutations: dict[tuple[rng.Name, ...], tuple[int, list[int]]] = {}

    @property
    def global_batch(self) -> int:
        """G, the pictures of one optimizer step over all processes and micro-batches."""
        return self.accumulate * self.processes * self.batch

    def __iter__(self) -> Iterator[list[SampleKey]]:
        k = self.start * self.accumulate
        while True:
            yield self.micro_batch(k)
            k += 1

    def micro_batch(self, k: int) -> list[SampleKey]:
        """Micro-batch k of this process, k = 0, 1, … since the beginning of the run; `start` plays no part."""
        step, micro = divmod(k, self.accumulate)
        first = (micro * self.processes + self.rank) * self.batch
        return [
            SampleKey(step, index, *self._at(step * self.global_batch + index))
            for index in range(first, first + self.batch)
        ]

    def _at(self, position: int) -> tuple[int, int]:
        """Return (epoch, sample) at a position of the run."""
        if self._members is None:
            epoch, place = divmod(position, self.size)
            return epoch, self._permutation("order", epoch=epoch, size=self.size)[place]
        turn, place = divmod(position, len(self._members))
        which = self._permutation("classes", epoch=turn, size=len(self._members))[place]
        members = self._members[which]
        # Each turn holds the class once, so this is its occurrence number `turn`.
        epoch, place = divmod(turn, len(members))
        return epoch, members[self._permutation("order", which, epoch=epoch, size=len(members))[place]]

    def _permutation(self, *names: rng.Name, epoch: int, size: int) -> list[int]:
        # The latest of each name is kept: positions mostly grow, and only the cost depends on it.
        kept = self._permutations.get(names)
        if kept is None or kept[0] != epoch:
            kept = epoch, rng.permutation(self.run_seed, *names, epoch, size=size).tolist()
            self._permutations[names] = kept
        return kept[1]


def _members(labels: Sequence[int]) -> list[list[int]]:
    members: dict[int, list[int]] = {}
    for sample, label in enumerate(labels):
        members.setdefault(int(label), []).append(sample)
    return [members[label] for label in sorted(members)]
