"""Pictures that are measured in chunks of fixed places, which several processes share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cascade.commands.shared_chunks import SharedChunks

if TYPE_CHECKING:
    from cascade.commands.evaluated_sides import Pictures
    from cascade.evaluation.features import Features
    from cascade.evaluation.measurement import Measurement


@dataclass(eq=False, kw_only=True)
class MeasuredChunks(SharedChunks["Measurement"]):
    """One side of a comparison under some features: every chunk of places is measured by itself.

    `batch`, the number of pictures that are held at once, changes no bit.
    """

    pictures: "Pictures"
    features: "Features"
    batch: int = 16

    @property
    def count(self) -> int:
        """How many pictures there are."""
        return self.pictures.count

    @property
    def size(self) -> int:
        """Pictures of a chunk."""
        return self.pictures.chunk

    def measurement(self) -> "Measurement":
        """The measurement of all pictures; whatever is missing is made."""
        from cascade.evaluation.measured_pieces import merged

        return merged(self.pieces())

    def piece(self, places: range) -> "Measurement":
        """Measure these pictures."""
        from cascade.evaluation.measurement import measure

        return measure(self.pictures.pairs(places), self.features, self.tell, self.batch)

    def to_bytes(self, piece: "Measurement") -> bytes:
        """A measurement as a file."""
        from cascade.evaluation.measured_pieces import to_bytes

        return to_bytes(piece)

    def from_bytes(self, data: bytes) -> "Measurement":
        """Read it."""
        from cascade.evaluation.measured_pieces import from_bytes

        return from_bytes(data)

    def still_there(self, places: range) -> bool:
        """Whether the pictures that are kept still are."""
        return self.pictures.there(places)
