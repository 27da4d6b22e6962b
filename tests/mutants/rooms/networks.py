"""The mutants of cascade/networks."""

from mutant import Mutant, mutants

# fmt: off
MUTANTS: list[Mutant] = [
    *mutants("cascade/networks/embedding.py", "networks/test_conditions_reach_the_network.py",
        ("(2/π)·atan e^{−λ/2}", "torch.exp(-0.5 * log_snr)", "torch.exp(-log_snr)"),
        ("−1 is the null label", "label % (self.num_classes + 1)", "label % self.num_classes"),
    ),
    *mutants("cascade/networks/low_res.py", "networks/test_conditions_reach_the_network.py",
        ("gates g₁·x + g₂·↑low", "own * x + low * upsampled", "low * x + own * upsampled"),
        ("no level is a clean level", "torch.full_like(log_snr, torch.inf)", "torch.zeros_like(log_snr)"),
    ),
    *mutants("cascade/networks/dropout.py", "networks/test_dropout_belongs_to_the_image.py",
        ("1/(1 − p)", "mul_(2**16 / (2**16 - dropped))", "mul_(1)"),
        ("share p", "round(self.p * 2**16)", "round(self.p * 2**15)"),
    ),
    *mutants("cascade/networks/adm_layers.py", "networks/test_adm_is_the_published_network.py",
        ("10000^{−i/half}", "(-math.log(10000) / half)", "(-math.log(10000) / (half - 1))"),
        ("cos before sin", "[phases.cos(), phases.sin()]", "[phases.sin(), phases.cos()]"),
        ("norm(h)·(1 + a) + b", "torch.addcmul(shift, norm(h), 1 + scale)", "torch.addcmul(shift, norm(h), scale)"),
        ("a before b", "scale, shift = told.chunk", "shift, scale = told.chunk"),
        ("norm(h + b)", "norm(h + told)", "norm(h) + told"),
        ("resample before the convolution", "conv(self.resample(silu(norm(x))))", "self.resample(conv(silu(norm(x))))"),
        ("[head, qkv, channel]", ".permute(3, 0, 2, 1, 4)", ".permute(3, 0, 1, 2, 4)"),
        ("[qkv, head, channel]", "(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)",
         "(batch, length, heads, 3, -1).permute(3, 0, 2, 1, 4)"),
        ("32 groups", "super().__init__(32, channels)", "super().__init__(16, channels)"),
    ),
    *mutants("cascade/networks/adm.py", "networks/test_adm_is_the_published_network.py",
        ("4 times as wide an embedding", "self.embedding_dim = in_channels, out_channels, 4 * channels",
         "self.embedding_dim = in_channels, out_channels, 2 * channels"),
        ("attention behind the blocks of its level", "layers += widths.attend(level)", "layers += widths.attend(level)[:0]"),
        ("the class is added", "embedding + self.label_emb(", "embedding - self.label_emb("),
    ),
]
