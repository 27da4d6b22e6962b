"""ADM's U-Net: "Diffusion Models Beat GANs on Image Synthesis" (Dhariwal & Nichol 2021), key for key."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade.networks.adm_encoder import ADMEncoder, Widths
from cascade.networks.adm_layers import Norm, Told, Up, step_embedding
from cascade.networks.embedding import check_told, label_row
from cascade.networks.layers import check_fits, zeroed


class ADMUNet(nn.Module):
    """U-Net of BigGAN blocks with multi-head attention, under the key names of the published checkpoints.

    Level l works at 1/2^l of the side with `blocks` residual blocks of channel_mult[l]·`channels` on the way down and
    one more on the way up, each of which also reads its mirror image. `attention` lists the divisors of the side at
    which attention follows a block: (2, 4, 8) at 64 px is ADM's "32,16,8". Heads are `head_channels` wide, or where
    that is None there are `heads` of them. H and W are multiples of `multiple` = 2^(levels−1) (else CascadeError).

    Its clock is a number that a sinusoidal embedding reads: the step (0 to 999) under the preconditioning `eps_steps`,
    which is how the published weights are told the noise level, or any other preconditioning's log-SNR.
    `null_label=False` leaves out the class "none", which the published networks do not have. Before training the output
    is exactly 0.

    >>> network = ADMUNet(channels=32, channel_mult=(1, 2), blocks=1, attention=(2,), head_channels=16, num_classes=3)
    >>> network(torch.randn(2, 3, 16, 16), torch.zeros(2), label=torch.tensor([1, -1])).shape
    torch.Size([2, 3, 16, 16])
    """

    receptive_radius = float("inf")

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 3,
        num_classes: int = 0,
        augment_dim: int = 0,
        channels: int = 128,
        channel_mult: Sequence[float] = (1, 2, 3, 4),
        blocks: int = 2,
        attention: Sequence[int] = (2, 4, 8),
        heads: int = 4,
        head_channels: int | None = 64,
        qkv_order: str = "qkv_first",
        scale_shift: bool = True,
        residual_resample: bool = True,
        conv_resample: bool = True,
        dropout: float = 0.0,
        null_label: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.embedding_dim = in_channels, out_channels, 4 * channels
        self.channels, self.num_classes, self.augment_dim = channels, num_classes, augment_dim
        self.null_label = null_label or not num_classes  # without classes all pictures are of none
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
        self.multiple = 2 ** (len(channel_mult) - 1)
        dim = self.embedding_dim
        self.time_embed = nn.Sequential(nn.Linear(channels, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.label_emb = nn.Embedding(num_classes + null_label, dim) if num_classes else None
        self.augment = nn.Linear(augment_dim, dim, bias=False) if augment_dim else None
        encoder = ADMEncoder(in_channels, dim, widths)
        self.input_blocks, self.middle_block = encoder.input_blocks, encoder.middle_block
        self.output_blocks = nn.ModuleList()
        mirror, width = list(encoder.mirror), encoder.out_channels
        for level in reversed(range(len(channel_mult))):
            target = widths.at(level)
            for number in range(blocks + 1):
                layers: list[nn.Module] = [widths.block(width + mirror.pop(), target, dim)]
                width = target
                layers += widths.attend(level)
                if level and number == blocks:
                    up = Up(width, conv=False)
                    layers.append(
                        widths.block(width, width, dim, up) if residual_resample else Up(width, conv=conv_resample)
                    )
                self.output_blocks.append(Told(*layers))
        self.out = nn.Sequential(Norm(width), nn.SiLU(), zeroed(nn.Conv2d(width, out_channels, 3, padding=1)))

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

        log_snr (B,), or the step; label (B,) int64 or None; augment (B, augment_dim) or None; extra (B, embedding_dim)
        or None.
        """
        check_fits(x, self.in_channels, self.multiple)
        embedding = F.silu(self._embedding(log_snr, label, augment, extra))
        mirror = []
        h = x
        for block in self.input_blocks:
            h = block(h, embedding)
            mirror.append(h)
        h = self.middle_block(h, embedding)
        for block in self.output_blocks:
            h = block(torch.cat([h, mirror.pop()], dim=1), embedding)
        return self.out(h)

    def _embedding(self, clock: Tensor, label: Tensor | None, augment: Tensor | None, extra: Tensor | None) -> Tensor:
        check_told(label, augment, self.num_classes, self.augment_dim)
        with torch.autocast(clock.device.type, enabled=False):
            embedding = self.time_embed(step_embedding(clock, self.channels).to(self.time_embed[0].weight.dtype))
            if self.label_emb is not None:
                embedding = embedding + self.label_emb(label_row(label, clock, self.num_classes, self.null_label))
            if augment is not None and self.augment is not None:
                embedding = embedding + self.augment(augment.to(embedding.dtype))
            return embedding if extra is None else embedding + extra
