"""What a feature network is to every metric: a name, a size, a hash, a resize rule, and a function of pictures."""

import hashlib
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from cascade.errors import CascadeError
from cascade.full_float32 import full_float32

BATCH = 16
"""Pictures in a call of a feature network: always so many, for the last bits depend on it."""


@runtime_checkable
class Features(Protocol):
    """Maps uint8 pictures (B, 3, H, W) of one size to float32 features (B, d) on the CPU.

    `sha256` is that of the weights, `resize` says in words how a picture is brought to the network's size. A figure
    without these and the number of pictures cannot be repeated, so every figure carries them.
    """

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def sha256(self) -> str: ...

    @property
    def resize(self) -> str: ...

    def __call__(self, images: Tensor, /) -> Tensor: ...


class NetworkFeatures:
    """Features of a frozen network, called in chunks of exactly `batch` pictures, the last one padded.

    The last bits of a convolution depend on the size of its batch; with chunks of one size they do not depend on how
    the pictures arrive. It is no nn.Module, so no `.train()` of a module tree reaches the network.

    `network` maps what `prepare` makes of a uint8 chunk (batch, 3, H, W) to (batch, d).

    >>> features = NetworkFeatures(
    ...     name="mean", dim=3, sha256="", resize="none", network=nn.Flatten(), prepare=lambda u: u.float().mean((2, 3))
    ... )
    >>> features(torch.full((5, 3, 2, 2), 7, dtype=torch.uint8)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        *,
        name: str,
        dim: int,
        sha256: str,
        resize: str,
        network: nn.Module,
        prepare: Callable[[Tensor], Tensor],
        batch: int = BATCH,
        device: torch.device | str = "cpu",
    ) -> None:
        if batch < 1:
            raise CascadeError(f"the batch of a feature network must be at least 1, not {batch}")
        self.name, self.dim, self.sha256, self.resize = name, dim, sha256, resize
        self._network = network.to(device=torch.device(device), dtype=torch.float32).eval().requires_grad_(False)
        self._prepare = prepare
        self._batch = batch
        self._device = torch.device(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the features; raises CascadeError for anything but uint8 pictures of three colours."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise CascadeError(f"expected uint8 pictures (B, 3, H, W), not {images.dtype} {tuple(images.shape)}")
        out = [torch.zeros(0, self.dim)]
        for start in range(0, len(images), self._batch):
            part = images[start : start + self._batch]
            chunk = part.new_zeros(self._batch, *part.shape[1:])
            chunk[: len(part)] = part
            with torch.autocast(self._device.type, enabled=False), full_float32():
                features = self._network(self._prepare(chunk.to(self._device)))
            out.append(features[: len(part)].float().cpu())
        return torch.cat(out)


class RememberedFeatures:
    """The same features, each picture looked at once: several metrics ask for those of the same pictures.

    `inner` remembers nothing; patches, of which there are many, are asked of it.

    >>> from cascade.evaluation.tiny import tiny_features
    >>> features, pictures = tiny_features(), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    >>> torch.equal(RememberedFeatures(features)(pictures), features(pictures))
    True
    """

    def __init__(self, features: Features) -> None:
        self.name, self.dim, self.sha256, self.resize = features.name, features.dim, features.sha256, features.resize
        self.inner = features
        self._rows: dict[bytes, Tensor] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Return the features of uint8 pictures (B, 3, H, W), (B, d)."""
        keys = [hashlib.sha256(repr(image.shape).encode() + image.cpu().numpy().tobytes()).digest() for image in images]
        new = {key: i for i, key in enumerate(keys) if key not in self._rows}
        if new:
            self._rows.update(zip(new, self.inner(images[list(new.values())]), strict=True))
        return torch.stack([self._rows[key] for key in keys]) if keys else self.inner(images)
