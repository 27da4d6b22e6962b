"""Random numbers that are pure functions of names.

There is no global generator and no saved generator state in this library. A number is named by what it is for,
(seed of the image, stage, step, draw) or (run seed, optimizer step, index in the global batch, purpose), and the name
alone decides its value. So an image is the same alone or among 64, and a resumed run draws what it would have drawn.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Name = str | int


def _digest(names: tuple[Name, ...]) -> bytes:
    for name in names:
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise TypeError(f"a random stream is named by str and int, not {type(name).__name__}")
    # repr of a tuple of str and int is unambiguous: ("1", 2) and (1, 2) differ.
    return hashlib.sha256(repr(names).encode()).digest()


def _stream(names: tuple[Name, ...]) -> np.random.Generator:
    # Philox (Salmon et al. 2011) is keyed by 128 bits, so no two names ever share a stream in practice. torch's own CPU
    # generator keeps 32 bits of its seed: among 50,000 pictures two would start from the same noise one time in four.
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_digest(names)[:16], "little")))


def generator(*names: Name) -> torch.Generator:
    """Return a CPU generator of torch, for layers that draw on their own; seeded by 32 bits of the names' SHA-256.

    >>> a, b = generator("data", 0, 7), generator("data", 0, 7)
    >>> torch.equal(torch.rand(3, generator=a), torch.rand(3, generator=b))
    True
    """
    return torch.Generator().manual_seed(int.from_bytes(_digest(names)[:4], "little"))


def randn(*names: Name, shape: Sequence[int] = ()) -> Tensor:
    """Standard normal float32 tensor of `shape`, a pure function of `names`; different names are independent."""
    return torch.as_tensor(_stream(names).standard_normal(tuple(shape), dtype=np.float32))


def uniform(*names: Name, shape: Sequence[int] = ()) -> Tensor:
    """Uniform float32 tensor on [0, 1) of `shape`, a pure function of `names`; different names are independent."""
    return torch.as_tensor(_stream(names).random(tuple(shape), dtype=np.float32))


def permutation(*names: Name, size: int) -> Tensor:
    """A permutation of range(size) as int64, a pure function of `names`."""
    return torch.from_numpy(_stream(names).permutation(size).astype(np.int64))


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
