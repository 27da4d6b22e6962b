"""EDM2's U-Net, configuration G, under the key names of the published code.

Karras et al. 2024, figure 22 and the equations named below: numbers are those of arXiv 2312.02696v2.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade.networks.dropout import Dropout
from cascade.networks.embedding import check_told, label_row
from cascade.networks.layers import check_counts, check_divisors, check_fits, check_sizes
from cascade.networks.magnitude import MPConv, MPFourier, mp_cat, mp_silu, mp_sum, normalize

CLIP = 256.0
"""Activations stay within ±CLIP, which bf16 and fp16 hold; nothing that works comes near it."""


class EDM2Block(nn.Module):
    """Encoder or decoder block, with or without attention, figure 22.

    Encoder: x ← normalize(skip(x)) over channels. Then y = conv(silu(conv(silu(x))·(1 + gain·linear(embedding)))), and
    x ← mp_sum(x, y, 0.3); attention likewise.

    >>> EDM2Block(8, 16, 4, encodes=True, resample="down")(torch.randn(2, 8, 8, 8), torch.randn(2, 4)).shape
    torch.Size([2, 16, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_dim: int,
        *,
        encodes: bool,
        resample: str = "keep",
        head_channels: int | None = None,
        dropout: float = 0.0,
        balance: float = 0.3,
    ) -> None:
        super().__init__()
        if head_channels is not None and out_channels % head_channels:
            raise ValueError(f"head_channels={head_channels} does not divide {out_channels} channels")
        self.encodes, self.resample, self.balance = encodes, resample, balance
        self.out_channels = out_channels
        self.heads = 0 if head_channels is None else out_channels // head_channels
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = MPConv(out_channels if encodes else in_channels, out_channels, 3)
        self.emb_linear = MPConv(embedding_dim, out_channels, 0)
        self.dropout = Dropout(dropout)
        self.conv_res1 = MPConv(out_channels, out_channels, 3)
        self.conv_skip = MPConv(in_channels, out_channels, 1) if in_channels != out_channels else None
        self.attn_qkv = MPConv(out_channels, 3 * out_channels, 1) if self.heads else None
        self.attn_proj = MPConv(out_channels, out_channels, 1) if self.heads else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, in_channels, H, W), embedding (B, E) → (B, out_channels, H′, W′)."""
        if self.resample == "down":
            x = F.avg_pool2d(x, 2)
        elif self.resample == "up":
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        if self.encodes:
            x = normalize(x if self.conv_skip is None else self.conv_skip(x), dim=1)
        y = self.conv_res0(mp_silu(x))
        # Equation 104.
        scale = self.emb_linear(embedding, gain=self.emb_gain) + 1
        y = self.dropout(mp_silu(y * scale[:, :, None, None].to(y.dtype)))
        y = self.conv_res1(y)
        if not self.encodes and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, y, self.balance)
        if self.attn_qkv is not None and self.attn_proj is not None:
            x = mp_sum(x, self.attn_proj(self._mix(self.attn_qkv(x))), self.balance)
        return x.clip(-CLIP, CLIP)

    # Equations 32 to 34: by the cosine similarity of q and k, normalised for each head as v is.
    def _mix(self, qkv: Tensor) -> Tensor:
        batch, _, height, width = qkv.shape
        heads = qkv.reshape(batch, self.heads, -1, 3, height * width)
        q, k, v = normalize(heads, dim=2).transpose(2, 4).unbind(3)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(2, 3).reshape(batch, -1, height, width)


class EDM2UNet(nn.Module):
    """Magnitude-preserving U-Net: every layer keeps unit magnitude and every weight unit length; no biases.

    Level l works at 1/2^l of the side with `blocks` blocks of channel_mult[l]·`channels` on the way down and one more
    on the way up. `attention` lists the divisors of the side with attention: (4, 8) at 64 px is the paper's 16 and 8.
    `size` is the side that names the levels in the published state dicts, and binds nothing else; it, H and W are
    multiples of `multiple` = 2^(levels−1) (else ValueError, CascadeError). `null_label=False` leaves out the class
    "none", which the published conditional networks do not have. Use it under preconditioning=edm, with no weight
    decay. `out_gain` is 0 before training, and so is the output.

    >>> network = EDM2UNet(channels=16, channel_mult=(1, 2), blocks=1, attention=(2,), head_channels=16, num_classes=3)
    >>> network(torch.randn(2, 3, 16, 16), torch.zeros(2), label=torch.tensor([1, -1])).shape
    torch.Size([2, 3, 16, 16])
    """

    receptive_radius = math.inf

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 3,
        num_classes: int = 0,
        augment_dim: int = 0,
        channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        blocks: int = 3,
        attention: Sequence[int] = (4, 8),
        head_channels: int = 64,
        dropout: float = 0.0,
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        size: int = 64,
        null_label: bool = True,
    ) -> None:
        super().__init__()
        if not channel_mult:
            raise ValueError("channel_mult names no level")
        check_sizes({"channels": channels, "channel_mult": channel_mult, "head_channels": head_channels, "size": size})
        check_counts({"blocks": blocks})
        check_divisors(attention, len(channel_mult))
        for name, balance in {"label_balance": label_balance, "concat_balance": concat_balance}.items():
            if not 0 <= balance <= 1:
                raise ValueError(f"{name} is a share in [0, 1], not {balance}")
        widths = [channels * mult for mult in channel_mult]
        dim = max(widths)
        self.in_channels, self.out_channels, self.embedding_dim = in_channels, out_channels, dim
        self.num_classes, self.augment_dim = num_classes, augment_dim
        self.null_label = null_label or not num_classes  # without classes all pictures are of none
        self.label_balance, self.concat_balance = label_balance, concat_balance
        self.multiple = 2 ** (len(widths) - 1)
        if size % self.multiple:
            raise ValueError(f"size={size} must be a multiple of {self.multiple}, 2 for each level below the first")
        self.emb_fourier = MPFourier(widths[0])
        self.emb_noise = MPConv(widths[0], dim, 0)
        self.emb_label = MPConv(num_classes + null_label, dim, 0) if num_classes else None
        self.emb_augment = MPConv(augment_dim, dim, 0) if augment_dim else None
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()

        def block(read: int, write: int, encodes: bool, resample: str = "keep", attends: bool = False) -> EDM2Block:
            heads = head_channels if attends else None
            return EDM2Block(read, write, dim, encodes=encodes, resample=resample, head_channels=heads, dropout=dropout)

        width, mirror = in_channels + 1, []  # a channel of ones stands in for the bias
        for level, wide in enumerate(widths):
            side, attends = f"{size >> level}x{size >> level}", 2**level in attention
            if level == 0:
                self.enc[f"{side}_conv"] = MPConv(width, wide, 3)
                width = wide
            else:
                self.enc[f"{side}_down"] = block(width, width, True, "down")
            mirror.append(width)
            for number in range(blocks):
                self.enc[f"{side}_block{number}"] = block(width, wide, True, attends=attends)
                width = wide
                mirror.append(width)
        for level, wide in reversed(list(enumerate(widths))):
            side, attends = f"{size >> level}x{size >> level}", 2**level in attention
            if level == len(widths) - 1:
                self.dec[f"{side}_in0"] = block(width, width, False, attends=True)
                self.dec[f"{side}_in1"] = block(width, width, False)
            else:
                self.dec[f"{side}_up"] = block(width, width, False, "up")
            for number in range(blocks + 1):
                self.dec[f"{side}_block{number}"] = block(width + mirror.pop(), wide, False, attends=attends)
                width = wide
        self.out_conv = MPConv(width, out_channels, 3)
        self.out_gain = nn.Parameter(torch.zeros([]))

    def forward(
        self,
        x: Tensor,
        log_snr: Tensor,
        label: Tensor | None = None,
        *,
        augment: Tensor | None = None,
        extra: Tensor | None = None,
    ) -> Tensor:
        """x (B, in_channels, H, W) → (B, out_channels, H, W).

        log_snr (B,); label (B,) int64 or None; augment (B, augment_dim) or None; extra (B, embedding_dim) or None.
        """
        check_fits(x, self.in_channels, self.multiple)
        with torch.autocast(x.device.type, enabled=False):
            embedding = self._embedding(log_snr, label, augment, extra)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        mirror = []
        for block in self.enc.values():
            x = block(x) if isinstance(block, MPConv) else block(x, embedding)
            mirror.append(x)
        for name, block in self.dec.items():
            if "block" in name:
                x = mp_cat(x, mirror.pop(), self.concat_balance)
            x = block(x, embedding)
        return self.out_conv(x, gain=self.out_gain)

    def _embedding(self, log_snr: Tensor, label: Tensor | None, augment: Tensor | None, extra: Tensor | None) -> Tensor:
        check_told(label, augment, self.num_classes, self.augment_dim)
        # Equation 8: c_noise = ln(σ)/4, which is −λ/8.
        embedding = self.emb_noise(self.emb_fourier(-log_snr / 8).to(self.emb_noise.weight.dtype))
        if self.emb_label is not None:
            # Appendix B.3: of N rows one is √N, which makes a mean square of 1.
            row, rows = label_row(label, log_snr, self.num_classes, self.null_label), self.emb_label.weight.shape[1]
            hot = F.one_hot(row, rows).to(embedding.dtype) * math.sqrt(rows)
            embedding = mp_sum(embedding, self.emb_label(hot), self.label_balance)
        if augment is not None and self.emb_augment is not None:
            # Not EDM2's, which has no augmentation: a plain sum, in which zeros ("not augmented") change nothing.
            embedding = embedding + self.emb_augment(augment.to(embedding.dtype))
        if extra is not None:
            embedding = mp_sum(embedding, normalize(extra.to(embedding.dtype)), self.label_balance)
        return mp_silu(embedding)
