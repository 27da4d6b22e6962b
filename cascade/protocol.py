"""Named protocols: everything beside the pictures that a figure depends on, under one name that can be cited.

Figures of two protocols are not comparable, however alike they look: the resizing alone moves an FID by several points
(Parmar et al. 2022, "On Aliased Resizing and Surprising Subtleties in GAN Evaluation", Table 2).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cascade.errors import CascadeError


@dataclass(frozen=True)
class Protocol:
    """How pictures are brought to the feature network, how many there are, and whether classes must be balanced.

    `balanced` is said of the pictures that are evaluated; with `whole_reference` the real ones are all that the data
    have, in whatever shares their classes come. `resize` is a rule of `cascade.evaluation.resize` (None: the features'
    own). In all of them statistics are float64, covariances are divided by N − 1, and the Fréchet distance is that of
    `frechet_parts`.

    >>> adm().resize, adm().num_images, adm().balanced
    ('bilinear_tf1', 50000, True)
    """

    name: str
    resize: str | None = None
    num_images: int = 5000
    balanced: bool = False
    whole_reference: bool = False

    def check_rule(self, resize: str | None) -> str | None:
        """Return the rule of the features; raise CascadeError if another one was asked for.

        >>> clean().check_rule("bilinear_tf1")
        Traceback (most recent call last):
        cascade.errors.CascadeError: protocol=clean resizes by bicubic_clean; for bilinear_tf1 say protocol=own
        """
        if resize is not None and self.resize not in (None, resize):
            raise CascadeError(f"protocol={self.name} resizes by {self.resize}; for {resize} say protocol=own")
        return resize if self.resize is None else self.resize

    def check_classes(self, classes: Sequence[str | None], table: Sequence[str] = ()) -> None:
        """Raise CascadeError where every class should be there equally often and is not.

        `classes` are those of the pictures, `table` all that there are, where they are known.
        """
        if not self.balanced:
            return
        counts = Counter(classes)
        if not counts or None in counts:
            raise CascadeError(
                f"protocol={self.name} wants every class equally often, and the pictures have no classes"
            )
        counts.update(dict.fromkeys(table, 0))
        if len(set(counts.values())) > 1:
            (most, times), *_, (least, rarely) = counts.most_common()
            raise CascadeError(
                f"protocol={self.name} wants every class equally often, and there are {times} pictures of '{most}' and "
                f"{rarely} of '{least}'; of a cascade make num_images a multiple of its {len(counts)} classes"
            )

    def record(self) -> dict[str, Any]:
        """The protocol as plain JSON values."""
        return {**asdict(self), "statistics": "float64", "covariance": "N - 1", "distance": "symmetric form"}


def own() -> Protocol:
    """No protocol of a name: the features' own resizing and as many pictures as are asked for."""
    return Protocol("own")


def adm() -> Protocol:
    """That of the published ImageNet figures (Dhariwal & Nichol 2021, Section 4 and `evaluations/evaluator.py`).

    TensorFlow 1's bilinear resizing without antialias inside the network's graph, 50,000 pictures with labels balanced
    against the whole training set.
    """
    return Protocol("adm", resize="bilinear_tf1", num_images=50_000, balanced=True, whole_reference=True)


def torchmetrics_default() -> Protocol:
    """What torchmetrics ≥ 1.8 does by default: bilinear with antialias."""
    return Protocol("torchmetrics", resize="bilinear_antialias")


def clean() -> Protocol:
    """That of clean-fid: pictures of 8 bits, Pillow's antialiased bicubic in float32, clipped to 0…255."""
    return Protocol("clean", resize="bicubic_clean")


def balance(classes: Sequence[str | None]) -> dict[str, Any]:
    """How often the classes are there: their number, the fewest and the most pictures of one, and those of none.

    >>> balance(["hat", "hat", "dress", None])
    {'classes': 2, 'fewest': 1, 'most': 2, 'without': 1}
    """
    counts = Counter(classes)
    without = counts.pop(None, 0)
    return {
        "classes": len(counts),
        "fewest": min(counts.values(), default=0),
        "most": max(counts.values(), default=0),
        "without": without,
    }
