"""ADM's noisy classifier: the encoder half of its U-Net and a pooling of the deepest map."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade.errors import CascadeError, suggest
from cascade.networks.adm_encoder import ADMEncoder, Widths
from cascade.networks.adm_layers import Norm, attend, pointwise, step_embedding
from cascade.networks.layers import check_sizes, zeroed


class ADMClassifier(nn.Module):
    """log-odds of the classes of a noisy picture (Dhariwal & Nichol 2021, section 4.3 and table 12), key for key.

    The options are those of `ADMUNet`; `size` is the side of its pictures, which pooling by attention fixes, and
    `pool` is "attention" (the released classifiers: one token for the mean of the map asks all the others), "average",
    "features" (the mean of every map on the way down, through one hidden layer; ADM's "spatial"), or "features_norm"
    (the same with a group norm of the hidden layer; ADM's "spatial_v2"). With `patch` > 1 the encoder sees patch×patch
    pixels as channels, at 1/patch of the side: not ADM's, but a CPU trains it in minutes.

    >>> network = ADMClassifier(num_classes=3, size=16, channels=32, channel_mult=(1, 2), blocks=1, attention=(2,))
    >>> network(torch.randn(2, 3, 16, 16), torch.zeros(2)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int,
        size: int = 64,
        channels: int = 128,
        channel_mult: Sequence[float] = (1, 2, 3, 4),
        blocks: int = 4,
        attention: Sequence[int] = (2, 4, 8),
        heads: int = 1,
        head_channels: int | None = 64,
        qkv_order: str = "heads_first",
        scale_shift: bool = True,
        residual_resample: bool = True,
        conv_resample: bool = True,
        dropout: float = 0.0,
        pool: str = "attention",
        patch: int = 1,
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"unknown pool '{pool}'; {suggest(pool, POOLS)}")
        widths = Widths(
            channels=channels,
            channel_mult=tuple(channel_mult),
            blocks=blocks,
            attention=tuple(attention),
            heads=heads,
            head_channels=head_channels,
            qkv_order=qkv_order,
            scale_shift=scale_shift,
            residual_resample=residual_resample,
            conv_resample=conv_resample,
            dropout=dropout,
        )
        check_sizes({"patch": patch, "size": size})
        self.in_channels, self.num_classes, self.size, self.channels = in_channels, num_classes, size, channels
        self.patch, self.multiple = patch, patch * 2 ** (len(channel_mult) - 1)
        if size % self.multiple:
            raise ValueError(f"size={size} must be a multiple of {self.multiple}, patch times 2 for each level below")
        dim = 4 * channels
        self.time_embed = nn.Sequential(nn.Linear(channels, dim), nn.SiLU(), nn.Linear(dim, dim))
        encoder = ADMEncoder(in_channels * patch**2, dim, widths)
        self.input_blocks, self.middle_block = encoder.input_blocks, encoder.middle_block
        self.pool = pool
        self.out = POOLS[pool](
            encoder, size // self.multiple, head_channels or encoder.out_channels // heads, num_classes
        )

    def forward(self, x: Tensor, log_snr: Tensor) -> Tensor:
        """x (B, in_channels, H, W), log_snr (B,) or the step → logits (B, num_classes)."""
        if x.shape[1] != self.in_channels or x.shape[-2:] != (self.size, self.size):
            raise CascadeError(
                f"this classifier reads {self.in_channels}×{self.size}×{self.size}, not {tuple(x.shape[1:])}"
            )
        with torch.autocast(x.device.type, enabled=False):
            clock = step_embedding(log_snr, self.channels).to(self.time_embed[0].weight.dtype)
            embedding = F.silu(self.time_embed(clock))
        maps = []
        x = F.pixel_unshuffle(x, self.patch)
        for block in self.input_blocks:
            x = block(x, embedding)
            maps.append(x)
        maps.append(self.middle_block(x, embedding))
        return self.out(torch.cat([m.mean((2, 3)) for m in maps], 1) if self.pool in OF_ALL_MAPS else maps[-1])


class AttentionPool(nn.Module):
    """One token, the mean of the map, asks itself and all pixels; learned positions (Radford et al., "CLIP", 2021).

    >>> AttentionPool(side=4, channels=8, head_channels=4, out_channels=3)(torch.randn(2, 8, 4, 4)).shape
    torch.Size([2, 3])
    """

    def __init__(self, side: int, channels: int, head_channels: int, out_channels: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.positional_embedding = nn.Parameter(torch.empty(channels, side**2 + 1))
        nn.init.normal_(self.positional_embedding, std=channels**-0.5)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, side, side) → (B, out_channels)."""
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1) + self.positional_embedding.T.to(x.dtype)
        mixed = attend(pointwise(self.qkv_proj, tokens), self.heads, heads_first=False)
        return pointwise(self.c_proj, mixed[:, 0])


def _attention(encoder: ADMEncoder, side: int, head_channels: int, num_classes: int) -> nn.Module:
    width = encoder.out_channels
    return nn.Sequential(Norm(width), nn.SiLU(), AttentionPool(side, width, head_channels, num_classes))


def _average(encoder: ADMEncoder, side: int, head_channels: int, num_classes: int) -> nn.Module:  # noqa: ARG001
    width = encoder.out_channels
    last = zeroed(nn.Conv2d(width, num_classes, 1))
    return nn.Sequential(Norm(width), nn.SiLU(), nn.AdaptiveAvgPool2d((1, 1)), last, nn.Flatten())


def _features(encoder: ADMEncoder, side: int, head_channels: int, num_classes: int) -> nn.Module:  # noqa: ARG001
    return nn.Sequential(nn.Linear(_means(encoder), 2048), nn.ReLU(), nn.Linear(2048, num_classes))


def _features_norm(encoder: ADMEncoder, side: int, head_channels: int, num_classes: int) -> nn.Module:  # noqa: ARG001
    hidden = nn.Linear(_means(encoder), 2048)
    return nn.Sequential(hidden, nn.GroupNorm(32, 2048), nn.SiLU(), nn.Linear(2048, num_classes))


def _means(encoder: ADMEncoder) -> int:
    """How many channels all maps on the way down have, the deepest among them."""
    return sum(encoder.mirror) + encoder.out_channels


POOLS: dict[str, Callable[[ADMEncoder, int, int, int], nn.Module]] = {
    "attention": _attention,
    "average": _average,
    "features": _features,
    "features_norm": _features_norm,
}
OF_ALL_MAPS = {"features", "features_norm"}
"""The poolings that read the mean of every map; the others read the deepest map."""
