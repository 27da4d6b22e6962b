"""Adapters that give any network the signature a preconditioning calls: without and with a low-res picture."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade.errors import CascadeError
from cascade.networks.embedding import NoiseEmbedding, NoiseFeatures


class BaseNetwork(nn.Module):
    """A network that starts from noise alone: `low_res` and `aug_log_snr` must be None (else CascadeError).

    >>> from cascade.networks.efficient import EfficientUNet
    >>> network = BaseNetwork(EfficientUNet(patch=2, channels=(8,), blocks=(1,), attention=(False,), embedding_dim=8))
    >>> network(torch.zeros(1, 3, 8, 8), torch.zeros(1), low_res=torch.zeros(1, 3, 2, 2))
    Traceback (most recent call last):
    cascade.errors.CascadeError: ...
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        x: Tensor,
        log_snr: Tensor,
        label: Tensor | None = None,
        *,
        low_res: Tensor | None = None,
        aug_log_snr: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        """x (B, C, H, W), log_snr (B,) → (B, out_channels, H, W)."""
        if low_res is not None or aug_log_snr is not None:
            raise CascadeError("a base stage starts from noise alone: low_res and aug_log_snr must be None")
        return self.network(x, log_snr, label=label, augment=augment)

    @property
    def receptive_radius(self) -> float:
        """The network's own, in pixels."""
        return self.network.receptive_radius


class LowResConditioned(nn.Module):
    """Make an image-conditional network of one with as many more input channels as low_res has: 3, or 4 with a mask.

    y = F([x, ↑low_res], λ, e(λ_aug)) + g₁(λ, λ_aug)·x + g₂(λ, λ_aug)·↑low_res, where ↑ is bicubic upsampling to x's
    size, e embeds the augmentation level, and the gates g₁ and g₂ are learned and 0 at the start: the network is left
    with the residual that neither picture explains. Saharia et al., "SR3" (2021), section 2.3 (concatenation); Ho et
    al., "Cascaded diffusion models" (2022), section 4 (augmentation).

    low_res: (B, 3, h, w), already augmented, with H = f·h, W = f·w for an integer f. aug_log_snr: (B,), +inf (or None)
    is clean. The gates act on the first 3 output channels and are computed in float32.

    >>> from cascade.networks.efficient import EfficientUNet
    >>> inner = EfficientUNet(in_channels=6, patch=2, channels=(8,), blocks=(1,), attention=(False,), embedding_dim=8)
    >>> network, level = LowResConditioned(inner), torch.full((1,), 3.0)
    >>> network(torch.zeros(1, 3, 8, 8), torch.zeros(1), low_res=torch.zeros(1, 3, 2, 2), aug_log_snr=level).shape
    torch.Size([1, 3, 8, 8])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.aug_embedding = NoiseEmbedding(network.embedding_dim)
        self.features = NoiseFeatures()
        self.gates = nn.Sequential(nn.Linear(2 * self.features.out_features, 64), nn.SiLU(), nn.Linear(64, 2))
        nn.init.zeros_(self.gates[-1].weight)
        nn.init.zeros_(self.gates[-1].bias)

    def forward(
        self,
        x: Tensor,
        log_snr: Tensor,
        label: Tensor | None = None,
        *,
        low_res: Tensor | None = None,
        aug_log_snr: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        """x (B, C, H, W), log_snr (B,), low_res (B, C, h, w) → (B, out_channels, H, W)."""
        if low_res is None:
            raise CascadeError("a super-resolution stage starts from a picture: low_res must be given")
        if aug_log_snr is None:
            aug_log_snr = torch.full_like(log_snr, torch.inf)
        upsampled = upsample(low_res, x.shape[-2:])
        y = self.network(
            torch.cat([x, upsampled], dim=1),
            log_snr,
            label=label,
            augment=augment,
            extra=self.aug_embedding(aug_log_snr),
        )
        with torch.autocast(x.device.type, enabled=False):
            features = torch.cat([self.features(log_snr), self.features(aug_log_snr)], dim=1)
            own, low = self.gates(features.to(self.gates[0].weight.dtype))[:, :, None, None, None].unbind(1)
            direct = own * x + low * upsampled[:, : x.shape[1]]  # the picture, without the mask of a part of it
            extra_channels = y.shape[1] - direct.shape[1]
            return y + (F.pad(direct, (0, 0, 0, 0, 0, extra_channels)) if extra_channels else direct)

    def receptive_radius_for(self, factor: int) -> float:
        """Return the distance in pixels of x from the border of a crop, aligned to the low-res grid, that it disturbs.

        It is the network's own radius and the reach of upsampling.
        """
        return self.network.receptive_radius + reach_of_upsampling(factor)


class LowResConcatenated(nn.Module):
    """Make an image-conditional network of one with low_res's channels more, and tell it no augmentation level.

    y = F([x, ↑low_res], λ), ↑ bilinear: ADM's upsampler (Dhariwal & Nichol 2021, section 5.2, table 13). Its only
    level is clean: `aug_log_snr` is +inf or None (else CascadeError).

    >>> from cascade.networks.efficient import EfficientUNet
    >>> inner = EfficientUNet(in_channels=6, patch=2, channels=(8,), blocks=(1,), attention=(False,), embedding_dim=8)
    >>> network, level = LowResConcatenated(inner), torch.full((1,), torch.inf)
    >>> network(torch.zeros(1, 3, 8, 8), torch.zeros(1), low_res=torch.zeros(1, 3, 2, 2), aug_log_snr=level).shape
    torch.Size([1, 3, 8, 8])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        x: Tensor,
        log_snr: Tensor,
        label: Tensor | None = None,
        *,
        low_res: Tensor | None = None,
        aug_log_snr: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        """x (B, C, H, W), log_snr (B,), low_res (B, C, h, w) → (B, out_channels, H, W)."""
        if low_res is None:
            raise CascadeError("a super-resolution stage starts from a picture: low_res must be given")
        if aug_log_snr is not None and not bool((aug_log_snr == torch.inf).all()):
            raise CascadeError("this network is told no augmentation level: aug_log_snr must be inf (clean)")
        upsampled = upsample(low_res, x.shape[-2:], mode="bilinear")
        return self.network(torch.cat([x, upsampled], dim=1), log_snr, label=label, augment=augment)


def reach_of_upsampling(factor: int) -> int:
    """Return how many pixels to the side bicubic upsampling by `factor` reads: 3/2 low-res pixels.

    >>> reach_of_upsampling(4)
    6
    """
    return 3 * factor // 2


def upsample(low_res: Tensor, size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Bicubic (or `mode`) upsampling of (B, C, h, w) to `size`, an integer multiple of (h, w); else CascadeError.

    >>> upsample(torch.ones(1, 3, 4, 4), (16, 16)).mean().item()
    1.0
    """
    height, width = low_res.shape[-2:]
    factor = size[0] // height
    if factor < 1 or (factor * height, factor * width) != tuple(size):
        raise CascadeError(f"low_res of {height}×{width} pixels does not fit {size[0]}×{size[1]} by a whole factor")
    return F.interpolate(low_res, size=tuple(size), mode=mode, align_corners=False)
