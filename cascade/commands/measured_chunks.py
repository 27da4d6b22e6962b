"""Pictures that are measured in chunks of fixed places, a file for each: made by anybody, merged in order."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cascade.commands.team import Team
from cascade.errors import CascadeError
from cascade.files import write_whole

if TYPE_CHECKING:
    from cascade.commands.evaluated_sides import Pictures
    from cascade.evaluation.features import Features
    from cascade.evaluation.measurement import Measurement
    from cascade.progress import Bars

_RESCAN = 2.0  # seconds between two looks at what the others have made


@dataclass(eq=False)
class MeasuredChunks:
    """One side of a comparison under some features: every chunk of places is measured by itself.

    The chunks are files in `folder` (None: in memory), features and all, so a run that was stopped goes on where it
    was, and `team` shares them. Which process made which, and when, changes no bit: neither does `batch`, the number of
    pictures that are held at once.
    """

    pictures: "Pictures"
    features: "Features"
    folder: Path | None
    team: Team
    bars: "Bars"
    name: str
    batch: int = 16
    _kept: "dict[range, Measurement]" = field(default_factory=dict)
    _left: list[range] = field(default_factory=list)
    _elsewhere: set[range] = field(default_factory=set)
    _looked: float = 0.0

    @property
    def chunks(self) -> list[range]:
        """The places of each chunk."""
        size, count = self.pictures.chunk, self.pictures.count
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    def make(self, *, wait: bool = True) -> None:
        """Make every chunk that nobody else makes, and `wait` for the others'."""
        self._left = [places for places in self.chunks if not self._there(places)]
        self._tell(0)
        while self._left:
            before = len(self._left)
            for places in tuple(self._left):
                if self._made(places):
                    self._left.remove(places)
                    self._tell(0)
            if len(self._left) == before:
                if not wait:
                    return
                self.team.wait()

    def measurement(self) -> "Measurement":
        """The measurement of all pictures; whatever is missing is made."""
        from cascade.evaluation.measured_pieces import from_bytes, merged

        self.make()
        if self.folder is None:
            return merged([self._kept[places] for places in self.chunks])
        pieces = []
        for file in (self._file(places) for places in self.chunks):
            try:
                pieces.append(from_bytes(file.read_bytes()))
            except CascadeError as error:
                raise CascadeError(f"{file} is damaged; remove it, and it will be made again") from error
        return merged(pieces)

    def _made(self, places: range) -> bool:
        """Whether the chunk is there, perhaps because it has been made now."""
        if self._there(places):
            return True
        with self.team.claimed(self._file(places)) as mine:
            if not mine:
                return False
            if not self._there(places):  # else another one has finished it meanwhile
                self._make(places)
        return True

    def _make(self, places: range) -> None:
        from cascade.evaluation.measured_pieces import to_bytes
        from cascade.evaluation.measurement import measure

        found = measure(self.pictures.pairs(places), self.features, self._tell, self.batch)
        if self.folder is None:
            self._kept[places] = found
        else:
            write_whole(self._file(places), to_bytes(found))

    def _there(self, places: range) -> bool:
        if self.folder is None:
            return places in self._kept
        return self._file(places).is_file() and self.pictures.there(places)

    def _file(self, places: range) -> Path:
        return (self.folder or Path()) / f"{places.start:06d}-{places.stop:06d}.safetensors"

    def _tell(self, done: int) -> None:
        """Say how many pictures all processes have measured, `done` of a chunk that this one is at."""
        self.team.beat()
        now = self.team.clock()
        if not self.team.alone and now - self._looked > _RESCAN:
            self._looked = now
            self._elsewhere = {places for places in self._left if self._file(places).is_file()}
        waited_for = sum(len(places) for places in self._left if places not in self._elsewhere)
        self.bars.at(self.name, self.pictures.count - waited_for + done, self.pictures.count)
