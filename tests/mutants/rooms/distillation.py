"""The mutants of distillation and of averages that are rebuilt."""

from mutant import Mutant, mutants

# fmt: off
MUTANTS: list[Mutant] = [
    *mutants("cascade/diffusion/distillation.py", "diffusion/test_distillation.py",
        ("DDIM, (σs/σt)·x_t", "sigma_s / sigma_t * x_t -", "sigma_s * x_t -"),
        ("DDIM, αs·x̂", "- alpha_s * ((t - s) / 2).expm1() * mean", "- ((t - s) / 2).expm1() * mean"),
        ("DDIM, h = (λs − λt)/2", "((t - s) / 2).expm1() * mean", "(t - s).expm1() * mean"),
        ("target, 1 − e^{−(λs−λm)/2}", "((m - s) / 2).expm1() /", "(m - s).expm1() /"),
        ("target, 1 − e^{−(λs−λt)/2}", "/ ((t - s) / 2).expm1())", "/ (t - s).expm1())"),
        ("target, the second counts by w", "torch.lerp(first, second,", "torch.lerp(second, first,"),
        ("the second step begins where the first ends", "first, log_snr_t, log_snr_m), log_snr_m,",
         "first, log_snr_t, log_snr_m), log_snr_t,"),
        ("the first step ends at m", "ddim_step(x_t, first, log_snr_t, log_snr_m)",
         "ddim_step(x_t, first, log_snr_t, log_snr_s)"),
        ("the student's levels are every second", "self.log_snrs[:-1:2]", "self.log_snrs[:-1]"),
        ("a student's level is the teacher's 2i-th", "2 * self.noise.nearest(level)", "self.noise.nearest(level)"),
        ("the weight is of ε, e^λ on x", "(weighting.log_ratio(t) + t).exp()", "weighting.log_ratio(t).exp()"),
        ("at x_t = αx + σε", "x_t = diffuse(x, eps, t)", "x_t = diffuse(x, eps, m)"),
        ("the teacher is not taught", "@torch.no_grad()\n", ""),
    ),
    *mutants("cascade/diffusion/power_ema.py", "diffusion/test_power_ema.py",
        ("Σ weight = 1", "return weights / weights.sum()", "return weights"),
        ("error, −2wᵀb", "- 2 * weights @ target", "- weights @ target"),
        ("error, its root", "/ square) ** 0.5", "/ square)"),
        ("snapshots, at most count", "step // interval > self.count", "step // interval > 2 * self.count"),
        ("snapshots, twice as far apart", "interval *= 2", "interval *= 4"),
    ),
    *mutants("cascade/sampling/grid.py", "diffusion/test_distillation.py",
        ("every stride-th level", "return grid[::stride]", "return grid[:: stride + 1]"),
    ),
]
