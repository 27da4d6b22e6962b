"""The random numbers of training: each a function of (run seed, optimizer step, index in the global batch, purpose)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cascade import rng


@dataclass(frozen=True)
class Draws:
    """The draws of one micro-batch, whose images are the `indices` of optimizer step `step`'s global batch.

    Since no draw depends on the process or the micro-batch, 1 and 2 processes, or 1 and 3 accumulated pieces, meet the
    same numbers; and since none depends on what was drawn before, a resumed run needs no saved generator.

    >>> whole, half = Draws(0, 7, (0, 1, 2, 3), 4), Draws(0, 7, (2, 3), 4)
    >>> torch.equal(whole.normal("eps", (2,))[2:], half.normal("eps", (2,)))
    True
    """

    run_seed: int
    step: int
    indices: tuple[int, ...]
    global_batch: int

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normal (b, *shape)."""
        return torch.stack([rng.randn(*self._names(purpose, i), shape=shape) for i in self.indices])

    def uniform(self, purpose: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Uniform on [0, 1), (b, *shape)."""
        return torch.stack([rng.uniform(*self._names(purpose, i), shape=shape) for i in self.indices])

    def stratified(self, purpose: str) -> Tensor:
        """One uniform number for each image, (b,): image i lies in the π(i)-th of `global_batch` equal strata.

        π is a new permutation at each step, so that no class of images keeps a stratum. The variance of the loss falls
        (Kingma et al., "Variational Diffusion Models", 2021, appendix I.1).
        """
        strata = rng.permutation("train", self.run_seed, self.step, purpose, size=self.global_batch)
        offsets = self.uniform(purpose)
        return (strata[list(self.indices)] + offsets) / self.global_batch

    def generators(self, purpose: str) -> list[torch.Generator]:
        """A generator for each image, for layers that draw on their own (dropout)."""
        return [rng.generator(*self._names(purpose, i)) for i in self.indices]

    def _names(self, purpose: str, index: int) -> tuple[rng.Name, ...]:
        return ("train", self.run_seed, self.step, purpose, index)
