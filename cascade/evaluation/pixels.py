"""The pixels of small pictures as features, beside those of a network: two spaces, and one look at each picture."""

import torch
from torch import Tensor

from cascade.data.degradation import from_uint8, shrink
from cascade.evaluation.features import Features


class BesidePixels:
    """Pixels in levels at `side` px, and behind them the features of a network: uint8 (B, 3, H, W) to (B, 3·side² + d).

    It is `Features`, so whatever shares the work of measuring takes it; `parted` gives both spaces.

    >>> from cascade.evaluation.tiny import tiny_features
    >>> both = BesidePixels(tiny_features(), side=4)
    >>> pixels, features = both.parted(both(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)))
    >>> pixels.shape, features.shape, pixels[0, 0].item()
    (torch.Size([2, 48]), torch.Size([2, 32]), -127.5)
    """

    def __init__(self, features: Features, side: int) -> None:
        self.name, self.sha256 = f"pixels beside {features.name}", features.sha256
        self.dim = 3 * side**2 + features.dim
        self.resize = f"shrunk to {side} px; {features.resize}"
        self.features, self.side = features, side

    def __call__(self, images: Tensor) -> Tensor:
        """Return both, float32; each picture is shrunk by itself."""
        pixels = [127.5 * shrink(from_uint8(image), self.side).flatten() for image in images]
        return torch.cat([torch.stack(pixels), self.features(images)], 1)

    def parted(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The pixels (N, 3·side²) and the features (N, d) of what was returned, (N, 3·side² + d)."""
        return rows[:, : 3 * self.side**2], rows[:, 3 * self.side**2 :]
