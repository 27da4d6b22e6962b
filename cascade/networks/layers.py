"""The parts of a convolutional network: two norms, a residual block told by an embedding, halving and doubling."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade.networks.dropout import Dropout


class GroupNorm(nn.GroupNorm):
    """Wu & He (2018): zero mean, unit variance over each group of 16 channels and all pixels of an image."""

    def __init__(self, channels: int) -> None:
        super().__init__(num_groups=max(1, channels // 16), num_channels=channels)


class PixelNorm(nn.Module):
    """y = x·g/√(mean over channels of x² + 1e-5) at each pixel: no statistic crosses pixels, so crops agree with the
    full frame. Karras et al., "Progressive growing of GANs" (2018), section 4.2, with a learned gain g.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, 1e-5).permute(0, 3, 1, 2)


NORMS: dict[str, type[nn.Module]] = {"group": GroupNorm, "pixel": PixelNorm}


class ResidualBlock(nn.Module):
    """x + conv(dropout(silu(norm(conv(silu(norm(x))))·(1 + scale) + shift))), scale and shift linear in the embedding.

    FiLM: Perez et al. (2018); in diffusion: Dhariwal & Nichol (2021), equation 10 of the appendix ("AdaGN").
    The last convolution is zero-initialised, so the block is the identity at the start.
    """

    def __init__(self, channels: int, embedding_dim: int, norm: str, dropout: float) -> None:
        super().__init__()
        self.norm1 = NORMS[norm](channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(embedding_dim, 2 * channels)
        self.norm2 = NORMS[norm](channels)
        self.dropout = Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, C, H, W), embedding (B, E), already activated → (B, C, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(embedding)[:, :, None, None].to(h.dtype).chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return x + self.conv2(self.dropout(F.silu(h)))


class Halve(nn.Conv2d):
    """2×2 convolution of stride 2: every output reads its own 2×2 pixels, so aligned crops stay aligned."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=2, stride=2)


class Double(nn.Module):
    """1×1 convolution, then each pixel repeated 2×2 (the channels change where there are fewer pixels)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.conv(x), scale_factor=2.0, mode="nearest")
