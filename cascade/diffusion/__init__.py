"""The mathematics of diffusion: one currency (the posterior mean), one clock (log-SNR), one condition, one loss."""

from cascade.diffusion.augmentation import Augmentation, GaussianAugmentation, NoAugmentation
from cascade.diffusion.cascade_oracle import DiagonalGaussian, GaussianCascade
from cascade.diffusion.changed_schedule import (
    InterpolatedSchedule,
    ShiftedSchedule,
    TruncatedSchedule,
    shifted_to,
)
from cascade.diffusion.condition import NULL_LABEL, UNCONDITIONED, Condition
from cascade.diffusion.denoiser import Denoiser, Posterior
from cascade.diffusion.elbo import Elbo, ElboDraws, continuous_elbo, discrete_elbo
from cascade.diffusion.elbo_ends import (
    Decoder,
    DiscretisedGaussian,
    GaussianDecoder,
    GaussianPrior,
    NoisyData,
    Prior,
    WhitePrior,
)
from cascade.diffusion.ema import ExponentialEMA
from cascade.diffusion.flow import flow_slope
from cascade.diffusion.forward import diffuse_further, forward_step
from cascade.diffusion.geometric import AugmentPipe
from cascade.diffusion.hybrid import HybridLoss
from cascade.diffusion.ladder import LadderNoise
from cascade.diffusion.likelihood import log_likelihood
from cascade.diffusion.log_snr import alpha_sigma, diffuse, eps_from_mean, score_from_mean, v_from_mean
from cascade.diffusion.loss import Loss, PlainLoss, diffusion_loss
from cascade.diffusion.multi_scale import MultiScaleLoss
from cascade.diffusion.noise import LogNormalNoise, LogNormalSchedule, NoiseDistribution, ScheduleNoise
from cascade.diffusion.oracle import GaussianDenoiser, MixtureDenoiser
from cascade.diffusion.power_ema import PowerEMA, PowerPairEMA
from cascade.diffusion.preconditioning import (
    EDMPreconditioning,
    EpsPreconditioning,
    VPreconditioning,
    X0Preconditioning,
)
from cascade.diffusion.residual_preconditioning import EDMResidualPreconditioning, ResidualPreconditioning
from cascade.diffusion.reverse import ReverseStep, Spread
from cascade.diffusion.schedule import (
    CosineSchedule,
    DiscreteBetas,
    LinearBetaSchedule,
    LinearLogSNRSchedule,
    Schedule,
)
from cascade.diffusion.sigmoid_schedule import SigmoidSchedule
from cascade.diffusion.step_preconditioning import StepEpsPreconditioning
from cascade.diffusion.training_profile import TrainingProfile, training_profile
from cascade.diffusion.uncertainty import UncertaintyLoss
from cascade.diffusion.weighting import (
    EDMWeighting,
    ELBOWeighting,
    MinSNRWeighting,
    P2Weighting,
    SigmoidWeighting,
    SimpleWeighting,
    TruncatedSNRWeighting,
    UnitWeighting,
    VWeighting,
    Weighting,
    X0Weighting,
)

__all__ = [
    "NULL_LABEL",
    "UNCONDITIONED",
    "AugmentPipe",
    "Augmentation",
    "Condition",
    "CosineSchedule",
    "Decoder",
    "Denoiser",
    "DiagonalGaussian",
    "DiscreteBetas",
    "DiscretisedGaussian",
    "EDMPreconditioning",
    "EDMResidualPreconditioning",
    "EDMWeighting",
    "ELBOWeighting",
    "Elbo",
    "ElboDraws",
    "EpsPreconditioning",
    "ExponentialEMA",
    "GaussianAugmentation",
    "GaussianCascade",
    "GaussianDecoder",
    "GaussianDenoiser",
    "GaussianPrior",
    "HybridLoss",
    "InterpolatedSchedule",
    "LadderNoise",
    "LinearBetaSchedule",
    "LinearLogSNRSchedule",
    "LogNormalNoise",
    "LogNormalSchedule",
    "Loss",
    "MinSNRWeighting",
    "MixtureDenoiser",
    "MultiScaleLoss",
    "NoAugmentation",
    "NoiseDistribution",
    "NoisyData",
    "P2Weighting",
    "PlainLoss",
    "Posterior",
    "PowerEMA",
    "PowerPairEMA",
    "Prior",
    "ResidualPreconditioning",
    "ReverseStep",
    "Schedule",
    "ScheduleNoise",
    "ShiftedSchedule",
    "SigmoidSchedule",
    "SigmoidWeighting",
    "SimpleWeighting",
    "Spread",
    "StepEpsPreconditioning",
    "TrainingProfile",
    "TruncatedSNRWeighting",
    "TruncatedSchedule",
    "UncertaintyLoss",
    "UnitWeighting",
    "VPreconditioning",
    "VWeighting",
    "Weighting",
    "WhitePrior",
    "X0Preconditioning",
    "X0Weighting",
    "alpha_sigma",
    "continuous_elbo",
    "diffuse",
    "diffuse_further",
    "diffusion_loss",
    "discrete_elbo",
    "eps_from_mean",
    "flow_slope",
    "forward_step",
    "log_likelihood",
    "score_from_mean",
    "shifted_to",
    "training_profile",
    "v_from_mean",
]
