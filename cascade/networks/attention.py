"""Global self-attention over the pixels of a small map."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """x + W_o·softmax(q kᵀ/√d) v over all pixels, heads of `head_channels`; q and k are normalised to unit RMS.

    Vaswani et al., "Attention is all you need" (2017), equation 1; normalised q and k keep bf16 logits bounded
    (Dehghani et al., "Scaling vision transformers to 22 billion parameters", 2023, section 2.1).
    Zero-initialised W_o: the identity at the start.
    """

    def __init__(self, channels: int, head_channels: int, norm: nn.Module) -> None:
        super().__init__()
        if channels % head_channels:
            raise ValueError(f"head_channels {head_channels} does not divide {channels} channels")
        self.heads = channels // head_channels
        self.norm = norm
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        batch, channels, height, width = x.shape
        tokens = self.qkv(self.norm(x)).permute(0, 2, 3, 1)
        q, k, v = tokens.reshape(batch, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = F.rms_norm(q, q.shape[-1:]).to(v.dtype), F.rms_norm(k, k.shape[-1:]).to(v.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        mixed = mixed.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        return x + self.out(mixed)
