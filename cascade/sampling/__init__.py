"""Sampling: grids of noise levels, samplers that walk them, and wrappers of the denoiser they ask.

    x0 = sampler(denoiser, x, log_snrs, condition, randn)

x is (B, ...) at the level log_snrs[0]; log_snrs (N+1,) float64, noisiest first, its last entry may be +inf; randn(step,
draw=0) gives noise like x. Any sampler walks any grid; guidance and thresholding are denoisers around the denoiser.
"""

from cascade.sampling.ancestral import Ancestral
from cascade.sampling.classifier_guidance import ClassifierAncestral, ClassifierGuidance, LabelLogProb
from cascade.sampling.ddim import DDIM
from cascade.sampling.dpm_solver_pp import DPMSolverPP
from cascade.sampling.grid import karras, uniform_log_snr, uniform_t
from cascade.sampling.guidance import AutoGuidance, ClassifierFree, Interval, Unconditional, Unguided
from cascade.sampling.heun import Heun
from cascade.sampling.thresholding import DynamicThreshold, NoThreshold, StaticThreshold
from cascade.sampling.transition import Noise, Sampler

__all__ = [
    "DDIM",
    "Ancestral",
    "AutoGuidance",
    "ClassifierAncestral",
    "ClassifierFree",
    "ClassifierGuidance",
    "DPMSolverPP",
    "DynamicThreshold",
    "Heun",
    "Interval",
    "LabelLogProb",
    "NoThreshold",
    "Noise",
    "Sampler",
    "StaticThreshold",
    "Unconditional",
    "Unguided",
    "karras",
    "uniform_log_snr",
    "uniform_t",
]
