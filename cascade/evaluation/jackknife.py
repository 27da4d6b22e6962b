"""Estimates from several sets of pictures whose sums and differences know their errors, by the jackknife."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cascade.errors import CascadeError


@dataclass(frozen=True)
class Estimate:
    """A number, and by how much it changes without each picture in turn: `moved[set]` (n,) for each set of pictures.

    Its error is √(Σ_sets (n − 1)·Var_i moved_i), the jackknife's (Efron & Stein 1981, "The Jackknife Estimate of
    Variance"), the sets being independent. Two estimates of the same pictures are not: their sum and difference are
    made picture by picture, so whatever both owe to the choice of the pictures cancels or adds as it should.
    Raises CascadeError where a set has another number of pictures in the other estimate.

    >>> mean = Estimate.of_mean(torch.tensor([1.0, 2.0, 6.0]), "photographs")
    >>> mean.value, round(mean.standard_error, 4), (mean - mean).standard_error  # 2.6458/√3
    (3.0, 1.5275, 0.0)
    """

    value: float
    moved: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of_mean(cls, numbers: Tensor, name: str) -> "Estimate":
        """The mean of one number (n,) of each picture of a set; at least two.

        >>> Estimate.of_mean(torch.tensor([1.0, 3.0]), "photographs").value
        2.0
        """
        numbers = numbers.double()
        if len(numbers) < 2:
            raise CascadeError(f"the error of a mean needs at least 2 pictures, not {len(numbers)}")
        mean = numbers.mean()
        return cls(mean.item(), {name: (mean - numbers) / (len(numbers) - 1)})

    @property
    def standard_error(self) -> float:
        """The jackknife's; 0 for a known number."""
        return float(sum((len(moved) - 1) * moved.var(correction=0).item() for moved in self.moved.values()) ** 0.5)

    def __add__(self, other: "Estimate") -> "Estimate":
        names = {**self.moved, **other.moved}
        nothing = torch.zeros((), dtype=torch.float64)
        for name in names:
            ours, theirs = (len(one.moved[name]) if name in one.moved else None for one in (self, other))
            if ours is not None and theirs is not None and ours != theirs:
                raise CascadeError(f"estimates of {ours} and of {theirs} {name} are not of the same ones")
        moved = {name: self.moved.get(name, nothing) + other.moved.get(name, nothing) for name in names}
        return Estimate(self.value + other.value, moved)

    def __mul__(self, factor: float) -> "Estimate":
        return Estimate(self.value * factor, {name: moved * factor for name, moved in self.moved.items()})

    def __sub__(self, other: "Estimate") -> "Estimate":
        return self + other * -1.0

    def beyond(self, errors: float = 2.0) -> bool:
        """Whether it is positive by more than so many of its errors."""
        return self.value > errors * self.standard_error
