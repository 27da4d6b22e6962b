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

    @classmethod
    def of_variance(cls, rows: Tensor, name: str) -> "Estimate":
        """The variance of n pictures (n, D), n − 1 below, as the mean over their D numbers; at least three.

        >>> Estimate.of_variance(torch.tensor([[1.0, 0.0], [2.0, 0.0], [6.0, 0.0]]), "photographs").value
        3.5
        """
        n = len(rows)
        if n < 3:
            raise CascadeError(f"the error of a variance needs at least 3 pictures, not {n}")
        total = rows.sum(0, dtype=torch.float64)
        # Row by row: pictures of 8 bits are not all held as float64.
        squares = torch.stack([row.double() @ row.double() for row in rows])
        across = torch.stack([row.double() @ total for row in rows])
        value = (squares.sum() - total @ total / n) / (n - 1)
        rest = total @ total - 2 * across + squares  # |total without picture i|²
        without = (squares.sum() - squares - rest / (n - 1)) / (n - 2)
        return cls(value.item() / rows[0].numel(), {name: (without - value) / rows[0].numel()})

    @property
    def standard_error(self) -> float:
        """The jackknife's; 0 for a known number."""
        return float(sum((len(moved) - 1) * moved.var(correction=0).item() for moved in self.moved.values()) ** 0.5)

    @property
    def bias(self) -> float:
        """The jackknife's estimate of its bias, Σ_sets (n − 1)·mean moved (Quenouille 1956): 0 for what is unbiased.

        >>> numbers = torch.tensor([1.0, 2.0, 6.0])
        >>> moved = torch.stack([numbers[numbers != x].var(correction=0) for x in numbers]) - numbers.var(correction=0)
        >>> round(Estimate(numbers.var(correction=0).item(), {"photographs": moved}).bias, 4)  # −σ²/n, 7/3
        -2.3333
        """
        return float(sum((len(moved) - 1) * moved.mean().item() for moved in self.moved.values()))

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.value + other.value, {name: a + b for name, (a, b) in self._together(other).items()})

    def __mul__(self, factor: float) -> "Estimate":
        return Estimate(self.value * factor, {name: moved * factor for name, moved in self.moved.items()})

    def __sub__(self, other: "Estimate") -> "Estimate":
        return self + other * -1.0

    def over(self, other: "Estimate") -> "Estimate":
        """The quotient, and what it is without each picture: what both owe to the same pictures cancels.

        Raises CascadeError where the other is zero.

        >>> mean = Estimate.of_mean(torch.tensor([1.0, 2.0, 6.0]), "photographs")
        >>> (mean * 3).over(mean).value, (mean * 3).over(mean).standard_error
        (3.0, 0.0)
        """
        if other.value == 0:
            raise CascadeError("there is no quotient over an estimate of zero")
        quotient = self.value / other.value
        pairs = self._together(other).items()
        moved = {name: (self.value + a) / (other.value + b) - quotient for name, (a, b) in pairs}
        return Estimate(quotient, moved)

    def _together(self, other: "Estimate") -> dict[str, tuple[Tensor, Tensor]]:
        """By how much both change without each picture, set by set."""
        names = {**self.moved, **other.moved}
        nothing = torch.zeros((), dtype=torch.float64)
        for name in names:
            ours, theirs = (len(one.moved[name]) if name in one.moved else None for one in (self, other))
            if ours is not None and theirs is not None and ours != theirs:
                raise CascadeError(f"estimates of {ours} and of {theirs} {name} are not of the same ones")
        return {name: (self.moved.get(name, nothing), other.moved.get(name, nothing)) for name in names}

    def beyond(self, errors: float = 2.0) -> bool:
        """Whether it is positive by more than so many of its errors."""
        return self.value > errors * self.standard_error
