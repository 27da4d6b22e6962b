"""The mutants of `cascade explain`: the certificate of samplers and the curves of training."""

from mutant import Mutant, mutants

# fmt: off
MUTANTS: list[Mutant] = [
    *mutants("cascade/sampling/certificate.py", "sampling/test_certificate_is_exact.py",
        ("a small pixel is a mean, λ_a − 2 ln(side/low)", "2 * math.log(side", "math.log(side"),
        ("low frequencies of a small picture", "low[: low_side or 0, : low_side or 0] = 1", "low[: low_side or 0] = 1"),
        ("√(u² + v²)/2 cycles", ".sqrt() / 2", ".sqrt()"),
        ("what is known is left out", "known = left == 0", "known = left < 0"),
        ("a band's mean", "minlength=len(values)) / count", "minlength=len(values))"),
        ("told, κs²", "cascade.kept(stage, level) * variance)", "cascade.kept(stage, level))"),
        ("exact loss, snr/(1 + snr)", "snr / (1 + snr)", "1 / (1 + snr)"),
        ("exact loss, weighed by count", "snr) * self.count).sum(1)", "snr)).sum(1)"),
        ("a start of σ(λ0)²", "sigma.square().expand", "sigma.expand"),
        ("a² + Σ b²", "apart[1:].square().sum(0)", "apart.square().sum(0)"),
        ("superposition", "apart.sum(0) - together", "apart.sum(0) - apart.sum(0)"),
        ("α² of the last level", "alpha.square() * bands.variance", "alpha * bands.variance"),
        ("σ² of the last level", "bands.variance + sigma.square()", "bands.variance + sigma"),
        ("gain − α", "(moments.gain - alpha)", "(moments.gain - 1)"),
        ("√told", "* bands.told.sqrt()", "* bands.told"),
        ("KL, every number of a band", "(each * bands.count).sum()", "each.sum()"),
        ("KL per dimension", "nats / float(bands.count.sum())", "nats / len(bands.count)"),
        ("m = 1 in its row and in the last", "mean[[0, -1]] = 1", "mean[[0]] = 1"),
        ("each draw in a row of its own", "noise[self.row_of[key]] = 1", "noise[2] = 1"),
    ),
    *mutants("cascade/diffusion/training_profile.py", "diffusion/test_training_profile.py",
        ("w = ratio·p", "weighting.log_ratio(log_snr) + log_p", "weighting.log_ratio(log_snr)"),
        ("on x, e^λ w", "log_snr.exp() * w, ladder", "(-log_snr).exp() * w, ladder"),
        ("p is a density", "log_p.exp(), w", "log_p.exp() / 2, w"),
        ("a share totals 1", "curve / self.total(curve)", "curve / curve.sum()"),
        ("a ladder is summed", "curve.sum() if self.ladder", "curve.mean() if self.ladder"),
        ("the whole support", "torch.tensor([0.0, 1.0]", "torch.tensor([0.1, 0.9]"),
    ),
    *mutants("cascade/commands/explain_levels.py", "commands/test_explain.py",
        ("exact loss, w·loss", "profile.w * bands.denoising_loss", "profile.p * bands.denoising_loss"),
    ),
]
