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
]
