"""Random numbers that are pure functions of names.

There is no global generator and no saved generator state in this library. A number is named by what it is for,
(seed of the image, stage, step, draw) or (run seed, optimizer step, index in the global batch, purpose), and the name
alone decides its value. So an image is the same alone or among 64, and a resumed run draws what it would have drawn.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Name = str | int


def generator(*names: Name) -> torch.Generator:
    """Return a CPU generator seeded by the SHA-256 of `names`; different names are independent streams.

    >>> a, b = generator("data", 0, 7), generator("data", 0, 7)
    >>> torch.equal(torch.rand(3, generator=a), torch.rand(3, generator=b))
    True
    """
    for name in names:
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise TypeError(f"a random stream is named by str and int, not {type(name).__name__}")
    # repr of a tuple of str and int is unambiguous: ("1", 2) and (1, 2) differ.
    digest = hashlib.sha256(repr(names).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def randn(*names: Name, shape: Sequence[int] = ()) -> Tensor:
    """Standard normal float32 tensor of `shape`, a pure function of `names`."""
    return torch.randn(tuple(shape), generator=generator(*names))


def uniform(*names: Name, shape: Sequence[int] = ()) -> Tensor:
    """Uniform float32 tensor on [0, 1) of `shape`, a pure function of `names`."""
    return torch.rand(tuple(shape), generator=generator(*names))


def permutation(*names: Name, size: int) -> Tensor:
    """A permutation of range(size) as int64, a pure function of `names`."""
    return torch.randperm(size, generator=generator(*names))


@dataclass(frozen=True)
class ImageNoise:
    """The noise of a sampling run: image i of the batch draws from ("sample", seeds[i], stage, step, draw).

    Calling it with (step, draw) gives (B, *shape); step −1 is the noise that sampling starts from.

    >>> alone = ImageNoise([5], "base64", (3, 4, 4))(0)
    >>> among = ImageNoise([3, 5], "base64", (3, 4, 4))(0)
    >>> torch.equal(alone[0], among[1])
    True
    """

    seeds: Sequence[int]
    stage: str
    shape: tuple[int, ...]
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32

    def __call__(self, step: int, draw: int = 0) -> Tensor:
        noise = [randn("sample", seed, self.stage, step, draw, shape=self.shape) for seed in self.seeds]
        return torch.stack(noise).to(device=self.device, dtype=self.dtype)
