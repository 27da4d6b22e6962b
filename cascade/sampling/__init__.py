"""Sampling: grids of noise levels, samplers that walk them, and wrappers of the denoiser they ask.

    x0 = sampler(denoiser, x, log_snrs, condition, randn)

x is (B, ...) at the level log_snrs[0]; log_snrs (N+1,) float64, noisiest first, its last entry may be +inf; randn(step,
draw=0) gives noise like x. Any sampler walks any grid; guidance and thresholding are denoisers around the denoiser.
"""

from cascade.sampling.ancestral import Ancestral
from cascade.sampling.certificate import Bands, Certificate, certify, picture_bands
from cascade.sampling.classifier_guidance import ClassifierAncestral, ClassifierGuidance, LabelLogProb
from cascade.sampling.ddim import DDIM
from cascade.sampling.dpm_solver import DPMSolver
from cascade.sampling.dpm_solver_pp import DPMSolverPP
from cascade.sampling.dpm_solver_pp_single import DPMSolverPPSingle
from cascade.sampling.euler_maruyama import EulerMaruyama
from cascade.sampling.grid import adm_respaced, karras, uniform_log_snr, uniform_t
from cascade.sampling.guidance import AutoGuidance, ClassifierFree, Interval, Unconditional, Unguided
from cascade.sampling.heun import Heun
from cascade.sampling.known import KeepKnown
from cascade.sampling.langevin import AnnealedLangevin, langevin_chain
from cascade.sampling.predictor_corrector import PredictorCorrector
from cascade.sampling.probability_flow import ProbabilityFlow
from cascade.sampling.sde_dpm_solver_pp import SDEDPMSolverPP
from cascade.sampling.thresholding import DynamicThreshold, NoThreshold, StaticThreshold
from cascade.sampling.tiling import Tiled
from cascade.sampling.transition import Noise, Sampler

__all__ = [
    "DDIM",
    "Ancestral",
    "AnnealedLangevin",
    "AutoGuidance",
    "Bands",
    "Certificate",
    "ClassifierAncestral",
    "ClassifierFree",
    "ClassifierGuidance",
    "DPMSolver",
    "DPMSolverPP",
    "DPMSolverPPSingle",
    "DynamicThreshold",
    "EulerMaruyama",
    "Heun",
    "Interval",
    "KeepKnown",
    "LabelLogProb",
    "NoThreshold",
    "Noise",
    "PredictorCorrector",
    "ProbabilityFlow",
    "SDEDPMSolverPP",
    "Sampler",
    "StaticThreshold",
    "Tiled",
    "Unconditional",
    "Unguided",
    "adm_respaced",
    "certify",
    "karras",
    "langevin_chain",
    "picture_bands",
    "uniform_log_snr",
    "uniform_t",
]
