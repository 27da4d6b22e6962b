"""The way down of ADM's networks, which its U-Net and its classifier share."""

from dataclasses import dataclass

from torch import Tensor, nn

from cascade.networks.adm_layers import ADMBlock, Attention, Down, Told
from cascade.networks.layers import check_counts, check_divisors, check_sizes


@dataclass(frozen=True)
class Widths:
    """The options of ADM that both of its networks have: see `ADMUNet`.

    >>> widths = Widths(32, (1, 2), 1, (2,), 4, 16, "qkv_first", True, True, True, 0.0)
    >>> widths.at(1), len(widths.attend(1)), len(widths.attend(0))
    (64, 1, 0)
    """

    channels: int
    channel_mult: tuple[float, ...]
    blocks: int
    attention: tuple[int, ...]
    heads: int
    head_channels: int | None
    qkv_order: str
    scale_shift: bool
    residual_resample: bool
    conv_resample: bool
    dropout: float

    def __post_init__(self) -> None:
        if not self.channel_mult:
            raise ValueError("channel_mult names no level")
        check_sizes({"channels": self.channels, "heads": self.heads})
        check_sizes({"head_channels": 1 if self.head_channels is None else self.head_channels})
        check_sizes({"channel_mult times channels": [self.at(level) for level in range(len(self.channel_mult))]})
        check_counts({"blocks": self.blocks})
        check_divisors(self.attention, len(self.channel_mult))

    def at(self, level: int) -> int:
        """The channels of a level."""
        return int(self.channel_mult[level] * self.channels)

    def block(self, in_channels: int, out_channels: int, dim: int, resample: nn.Module | None = None) -> ADMBlock:
        """A residual block told by an embedding of `dim`."""
        return ADMBlock(
            in_channels, out_channels, dim, dropout=self.dropout, scale_shift=self.scale_shift, resample=resample
        )

    def attention_of(self, channels: int) -> Attention:
        """An attention layer."""
        heads = self.heads if self.head_channels is None else channels // self.head_channels
        if self.head_channels is not None and channels % self.head_channels:
            raise ValueError(f"head_channels={self.head_channels} does not divide {channels} channels")
        return Attention(channels, heads, self.qkv_order)

    def attend(self, level: int) -> list[nn.Module]:
        """The attention behind a block of `level`: one layer or none."""
        return [self.attention_of(self.at(level))] if 2**level in self.attention else []


class ADMEncoder(nn.Module):
    """`input_blocks` and `middle_block`; `mirror` holds the channels behind each input block.

    >>> import torch
    >>> widths = Widths(32, (1, 2), 1, (2,), 4, 16, "qkv_first", True, True, True, 0.0)
    >>> encoder = ADMEncoder(3, 128, widths)
    >>> encoder(torch.randn(2, 3, 16, 16), torch.randn(2, 128)).shape
    torch.Size([2, 64, 8, 8])
    """

    def __init__(self, in_channels: int, embedding_dim: int, widths: Widths) -> None:
        super().__init__()
        width = widths.at(0)
        self.input_blocks = nn.ModuleList([Told(nn.Conv2d(in_channels, width, 3, padding=1))])
        mirror = [width]
        levels = range(len(widths.channel_mult))
        for level in levels:
            for _ in range(widths.blocks):
                block = widths.block(width, widths.at(level), embedding_dim)
                width = widths.at(level)
                self.input_blocks.append(Told(block, *widths.attend(level)))
                mirror.append(width)
            if level != levels[-1]:
                if widths.residual_resample:
                    down: nn.Module = widths.block(width, width, embedding_dim, Down(width, conv=False))
                else:
                    down = Down(width, conv=widths.conv_resample)
                self.input_blocks.append(Told(down))
                mirror.append(width)
        self.middle_block = Told(
            widths.block(width, width, embedding_dim),
            widths.attention_of(width),
            widths.block(width, width, embedding_dim),
        )
        self.mirror, self.out_channels = tuple(mirror), width

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, C, H, W), embedding (B, E) after its SiLU → the deepest map (B, out_channels, h, w)."""
        for block in self.input_blocks:
            x = block(x, embedding)
        return self.middle_block(x, embedding)
