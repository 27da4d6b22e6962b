"""Work on things in a row, in chunks of fixed places, a file for each: done by anybody, put together in order."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from cascade.commands.team import Team
from cascade.errors import CascadeError
from cascade.files import write_whole

if TYPE_CHECKING:
    from cascade.progress import Bars

_RESCAN = 2.0  # seconds between two looks at what the others have made
Piece = TypeVar("Piece")


@dataclass(eq=False, kw_only=True)
class SharedChunks(ABC, Generic[Piece]):
    """Every chunk of places is worked on by itself, and what comes of it depends on nothing else.

    The chunks are files in `folder` (None: in memory), so a run that was stopped goes on where it was, and `team`
    shares them. Which process made which, and when, changes no bit.
    """

    folder: Path | None
    team: Team
    bars: "Bars"
    name: str
    _kept: dict[range, Piece] = field(default_factory=dict)
    _left: list[range] = field(default_factory=list)
    _elsewhere: set[range] = field(default_factory=set)
    _looked: float = 0.0

    @property
    @abstractmethod
    def count(self) -> int:
        """How many places there are."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Places of a chunk."""

    @abstractmethod
    def piece(self, places: range) -> Piece:
        """What comes of these places; `tell` says on the way how many are done."""

    @abstractmethod
    def to_bytes(self, piece: Piece) -> bytes:
        """A piece as a file."""

    @abstractmethod
    def from_bytes(self, data: bytes) -> Piece:
        """Read it; raises CascadeError for anything else."""

    def still_there(self, places: range) -> bool:  # noqa: ARG002
        """Whether what is kept beside the file of these places still is."""
        return True

    @property
    def chunks(self) -> list[range]:
        """The places of each chunk."""
        return [range(start, min(start + self.size, self.count)) for start in range(0, self.count, self.size)]

    def make(self, *, wait: bool = True) -> None:
        """Make every chunk that nobody else makes, and `wait` for the others'."""
        self._left = [places for places in self.chunks if not self._there(places)]
        self.tell(0)
        while self._left:
            before = len(self._left)
            for places in tuple(self._left):
                if self._made(places):
                    self._left.remove(places)
                    self.tell(0)
            if len(self._left) == before:
                if not wait:
                    return
                self.team.wait()

    def pieces(self) -> Sequence[Piece]:
        """All of them in order; whatever is missing is made."""
        self.make()
        if self.folder is None:
            return [self._kept[places] for places in self.chunks]
        found = []
        for file in (self._file(places) for places in self.chunks):
            try:
                found.append(self.from_bytes(file.read_bytes()))
            except CascadeError as error:
                raise CascadeError(f"{file} is damaged; remove it, and it will be made again") from error
        return found

    def tell(self, done: int) -> None:
        """Say how many places all processes have done, `done` of a chunk that this one is at."""
        self.team.beat()
        now = self.team.clock()
        if not self.team.alone and now - self._looked > _RESCAN:
            self._looked = now
            self._elsewhere = {places for places in self._left if self._file(places).is_file()}
        waited_for = sum(len(places) for places in self._left if places not in self._elsewhere)
        self.bars.at(self.name, self.count - waited_for + done, self.count)

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
        found = self.piece(places)
        if self.folder is None:
            self._kept[places] = found
        else:
            write_whole(self._file(places), self.to_bytes(found))

    def _there(self, places: range) -> bool:
        if self.folder is None:
            return places in self._kept
        return self._file(places).is_file() and self.still_there(places)

    def _file(self, places: range) -> Path:
        return (self.folder or Path()) / f"{places.start:06d}-{places.stop:06d}.safetensors"
