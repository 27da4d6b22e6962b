"""`metrics=[cas]` of `cascade evaluate`: classifiers taught on samples or photographs, asked about the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cascade.commands.evaluated_sides import Pictures, Sides
from cascade.commands.figure_table import named
from cascade.commands.measured_chunks import MeasuredChunks
from cascade.errors import CascadeError

if TYPE_CHECKING:
    from torch import Tensor

    from cascade.evaluation.classification import Accuracy
    from cascade.evaluation.features import Features
    from cascade.evaluation.figures import Figure
    from cascade.progress import Bars

TAUGHT = "train"
"""The split whose photographs teach."""


def check_cas(plain: Mapping[str, Any]) -> None:
    """Everything that can be said of the command line itself, before torch is imported."""
    asked = plain["cas"]
    if plain["reference"] is not None:
        raise CascadeError("cas asks photographs of two splits, with their classes: give data=..., not reference=")
    if asked["split"] not in ("val", "all"):
        raise CascadeError(f"cas.split={asked['split']} must be val (photographs that taught nothing), or all")
    if asked["folds"] < 2:
        raise CascadeError(f"cas.folds={asked['folds']} must be at least 2")
    if asked["num_photographs"] is not None and asked["num_photographs"] < asked["folds"]:
        raise CascadeError(f"cas.num_photographs={asked['num_photographs']} must be at least cas.folds")


@dataclass(frozen=True, eq=False)
class ClassificationScores:
    """Samples, photographs that teach and photographs that ask, of the same classes, opened and not yet looked at."""

    plain: Mapping[str, Any]
    samples: Pictures
    taught: Pictures
    unseen: Pictures
    class_names: Sequence[str]
    features: "Features"
    looks: Sequence[MeasuredChunks]

    @classmethod
    def open(cls, sides: Sides, features: "Features") -> "ClassificationScores":
        """Open samples and photographs, and check that the classes of all pictures are known and the same."""
        plain, samples = sides.plain, sides.generated
        taught = sides.of_data(TAUGHT, wanted=plain["cas"]["num_photographs"])
        unseen = sides.of_data(plain["cas"]["split"], wanted=None)
        names = sorted({name for name in taught.classes if name is not None})
        if len(names) < 2:
            raise CascadeError("cas tells classes apart, and the photographs have fewer than two")
        for which, pictures in (("pictures to evaluate", samples), ("photographs of " + plain["cas"]["split"], unseen)):
            for name in pictures.classes:
                if name is None:
                    raise CascadeError(f"cas needs the class of every picture, and {which} have none: CLASS/NAME.png")
                if name not in names:
                    raise CascadeError(f"{which} are of '{name}', a class of which no photograph teaches")
        looks = [
            sides.look(pictures, features, name)
            for pictures, name in (
                (taught, "photographs that teach"),
                (unseen, "photographs that ask"),
                (samples, "pictures to evaluate"),
            )
        ]
        return cls(plain, samples, taught, unseen, names, features, looks)

    def measure(self, bars: "Bars") -> "tuple[list[Figure], dict[str, Any]]":
        """Return the figures, and what the report says of how they came about."""
        from cascade.evaluation.classification import accuracy, choose_strength, fit_logistic

        seed, folds, count = self.plain["seed"], self.plain["cas"]["folds"], len(self.class_names)
        taught, unseen, samples = (self._looked_at(look) for look in self.looks)
        bars.at("fitting classifiers", 0, 3)
        strength = choose_strength(*taught, count, seed=seed, folds=folds)
        bars.at("fitting classifiers", 1, 3)
        of_photographs = fit_logistic(*taught, count, strength)
        bars.at("fitting classifiers", 2, 3)
        of_samples = fit_logistic(*samples, count, strength)
        bars.end("fitting classifiers")
        on_unseen, on_samples = accuracy(of_photographs, *unseen), accuracy(of_photographs, *samples)
        figures = self._figures(accuracy(of_samples, *unseen), on_unseen, on_samples)
        record = {
            "strength": strength,
            "folds": folds,
            "classes": list(self.class_names),
            "samples": self.samples.report(),
            "taught": self.taught.report(),
            "unseen": self.unseen.report(),
        }
        return figures, record

    def title(self) -> str:
        """What the table is of."""
        return f"{named(self.samples.source)} and {named(self.unseen.source)}, told apart by classifiers"

    def _looked_at(self, look: MeasuredChunks) -> "tuple[Tensor, Tensor]":
        """Features (N, d) and labels (N,)."""
        import torch

        labels = [self.class_names.index(name) for name in look.pictures.classes]
        return look.measurement().features, torch.tensor(labels)

    def _figures(self, cas: "Accuracy", on_unseen: "Accuracy", on_samples: "Accuracy") -> "list[Figure]":
        from cascade.evaluation.classification import ratio
        from cascade.evaluation.figures import Figure

        rules = {pictures.rule for pictures in (self.samples, self.taught, self.unseen)} - {None}
        common = {
            "resize": "; ".join([*sorted(rules), self.features.resize]),
            "features": self.features.name,
            "sha256": self.features.sha256,
            "num_images": self.samples.count,
            "num_reference": self.unseen.count,
        }
        rows = {
            "CAS: taught on samples, right on photographs": cas,
            "taught on photographs, right on photographs": on_unseen,
            "taught on photographs, right on samples": on_samples,
        }
        figures = [Figure(name, of.value, standard_error=of.standard_error, **common) for name, of in rows.items()]
        if on_unseen.right:
            value, error = ratio(on_samples, on_unseen)
            figures.append(Figure("right on samples / on photographs", value, standard_error=error, **common))
        return figures
