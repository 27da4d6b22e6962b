"""The mathematics of diffusion: one currency (the posterior mean), one clock (log-SNR), one condition, one loss."""

from cascade.diffusion.augmentation import Augmentation, GaussianAugmentation, NoAugmentation
from cascade.diffusion.cascade_oracle import DiagonalGaussian, GaussianCascade
from cascade.diffusion.condition import NULL_LABEL, UNCONDITIONED, Condition
from cascade.diffusion.denoiser import Denoiser, Posterior
from cascade.diffusion.ema import ExponentialEMA
from cascade.diffusion.geometric import AugmentPipe
from cascade.diffusion.log_snr import alpha_sigma, diffuse, eps_from_mean, score_from_mean, v_from_mean
from cascade.diffusion.loss import diffusion_loss
from cascade.diffusion.noise import LogNormalNoise, NoiseDistribution, ScheduleNoise
from cascade.diffusion.oracle import GaussianDenoiser, MixtureDenoiser
from cascade.diffusion.preconditioning import (
    EDMPreconditioning,
    EpsPreconditioning,
    ResidualPreconditioning,
    VPreconditioning,
    X0Preconditioning,
)
from cascade.diffusion.schedule import CosineSchedule, DiscreteBetas, LinearBetaSchedule, Schedule, ShiftedSchedule
from cascade.diffusion.weighting import (
    EDMWeighting,
    MinSNRWeighting,
    SigmoidWeighting,
    SimpleWeighting,
    UnitWeighting,
    Weighting,
)

__all__ = [
    "NULL_LABEL",
    "UNCONDITIONED",
    "AugmentPipe",
    "Augmentation",
    "Condition",
    "CosineSchedule",
    "Denoiser",
    "DiagonalGaussian",
    "DiscreteBetas",
    "EDMPreconditioning",
    "EDMWeighting",
    "EpsPreconditioning",
    "ExponentialEMA",
    "GaussianAugmentation",
    "GaussianCascade",
    "GaussianDenoiser",
    "LinearBetaSchedule",
    "LogNormalNoise",
    "MinSNRWeighting",
    "MixtureDenoiser",
    "NoAugmentation",
    "NoiseDistribution",
    "Posterior",
    "ResidualPreconditioning",
    "Schedule",
    "ScheduleNoise",
    "ShiftedSchedule",
    "SigmoidWeighting",
    "SimpleWeighting",
    "UnitWeighting",
    "VPreconditioning",
    "Weighting",
    "X0Preconditioning",
    "alpha_sigma",
    "diffuse",
    "diffusion_loss",
    "eps_from_mean",
    "score_from_mean",
    "v_from_mean",
]
