"""The table of names that may stand in a config or on disk, and the one way to build what they name.

Nothing on disk is code: a stage stores `{name: efficient, channels: [64, 128]}`, and this table, not the file, says
which class that is. A class can be renamed or moved, and old stages still load. To add one: write it, add its row here,
and add `conf/GROUP/NAME.yaml`.
"""

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from cascade.errors import CascadeError, suggest

TABLE: dict[str, dict[str, str]] = {
    "data": {
        "procedural": "cascade.data.procedural:ProceduralDataset",
        "folder": "cascade.data.folder:FolderDataset",
        "cache": "cascade.data.cache:CachedDataset",
    },
    "network": {
        "efficient": "cascade.networks.efficient:EfficientUNet",
        "adm": "cascade.networks.adm:ADMUNet",
        "edm2": "cascade.networks.edm2:EDM2UNet",
        "imagen_unet": "cascade.networks.imagen_unet:ImagenUNet",
        "uvit": "cascade.networks.uvit:UViT",
        "dit": "cascade.networks.dit:DiT",
        "jit": "cascade.networks.jit:JiT",
    },
    "classifier": {
        "adm": "cascade.networks.adm_classifier:ADMClassifier",
    },
    "condition": {
        "low_res": "cascade.data.condition_picture:LowRes",
        "grayscale": "cascade.data.condition_picture:Grayscale",
        "mask_centre": "cascade.data.condition_picture:mask_centre",
        "mask_half": "cascade.data.condition_picture:mask_half",
        "mask_boxes": "cascade.data.condition_picture:mask_boxes",
    },
    "low_res_input": {
        "augmented": "cascade.networks.low_res:LowResConditioned",
        "concatenated": "cascade.networks.low_res:LowResConcatenated",
    },
    "preconditioning": {
        "eps": "cascade.diffusion.preconditioning:EpsPreconditioning",
        "eps_steps": "cascade.diffusion.step_preconditioning:StepEpsPreconditioning",
        "v": "cascade.diffusion.preconditioning:VPreconditioning",
        "x0": "cascade.diffusion.preconditioning:X0Preconditioning",
        "residual": "cascade.diffusion.residual_preconditioning:ResidualPreconditioning",
        "edm_residual": "cascade.diffusion.residual_preconditioning:EDMResidualPreconditioning",
        "edm": "cascade.diffusion.preconditioning:EDMPreconditioning",
    },
    "schedule": {
        "cosine": "cascade.diffusion.schedule:CosineSchedule",
        "linear_beta": "cascade.diffusion.schedule:LinearBetaSchedule",
        "discrete_betas": "cascade.diffusion.schedule:DiscreteBetas",
        "sigmoid": "cascade.diffusion.sigmoid_schedule:SigmoidSchedule",
        "linear_log_snr": "cascade.diffusion.schedule:LinearLogSNRSchedule",
        "log_normal": "cascade.diffusion.noise:LogNormalSchedule",
        "shifted": "cascade.diffusion.changed_schedule:ShiftedSchedule",
        "shifted_to": "cascade.diffusion.changed_schedule:shifted_to",
        "interpolated": "cascade.diffusion.changed_schedule:InterpolatedSchedule",
        "truncated": "cascade.diffusion.changed_schedule:TruncatedSchedule",
    },
    "noise": {
        "schedule": "cascade.diffusion.noise:ScheduleNoise",
        "log_normal": "cascade.diffusion.noise:LogNormalNoise",
        "ladder": "cascade.diffusion.ladder:LadderNoise",
    },
    "weighting": {
        "unit": "cascade.diffusion.weighting:UnitWeighting",
        "simple": "cascade.diffusion.weighting:SimpleWeighting",
        "elbo": "cascade.diffusion.weighting:ELBOWeighting",
        "v": "cascade.diffusion.weighting:VWeighting",
        "x0": "cascade.diffusion.weighting:X0Weighting",
        "truncated_snr": "cascade.diffusion.weighting:TruncatedSNRWeighting",
        "p2": "cascade.diffusion.weighting:P2Weighting",
        "min_snr": "cascade.diffusion.weighting:MinSNRWeighting",
        "sigmoid": "cascade.diffusion.weighting:SigmoidWeighting",
        "edm": "cascade.diffusion.weighting:EDMWeighting",
    },
    "loss": {
        "plain": "cascade.diffusion.loss:PlainLoss",
        "multi_scale": "cascade.diffusion.multi_scale:MultiScaleLoss",
        "uncertainty": "cascade.diffusion.uncertainty:UncertaintyLoss",
        "hybrid": "cascade.diffusion.hybrid:HybridLoss",
    },
    "augmentation": {
        "none": "cascade.diffusion.augmentation:NoAugmentation",
        "gaussian": "cascade.diffusion.augmentation:GaussianAugmentation",
    },
    "geometric": {
        "affine": "cascade.diffusion.geometric:AugmentPipe",
    },
    "features": {
        "inception": "cascade.evaluation.inception:inception_features",
        "efficientnet_lite0": "cascade.evaluation.efficientnet:efficientnet_lite0_features",
        "random": "cascade.evaluation.random_network:random_features",
        "tiny": "cascade.evaluation.tiny:tiny_features",
    },
    "protocol": {
        "own": "cascade.protocol:own",
        "adm": "cascade.protocol:adm",
        "torchmetrics": "cascade.protocol:torchmetrics_default",
        "clean": "cascade.protocol:clean",
    },
    "bound": {
        "continuous": "cascade.evaluation.bits_per_dim:ContinuousBound",
        "discrete": "cascade.evaluation.bits_per_dim:DiscreteBound",
    },
    "ema": {
        "exponential": "cascade.diffusion.ema:ExponentialEMA",
        "power": "cascade.diffusion.power_ema:PowerEMA",
        "power_pair": "cascade.diffusion.power_ema:PowerPairEMA",
    },
    "sampler": {
        "ancestral": "cascade.sampling.ancestral:Ancestral",
        "classifier_ancestral": "cascade.sampling.classifier_guidance:classifier_ancestral",
        "ddim": "cascade.sampling.ddim:DDIM",
        "dpm_solver": "cascade.sampling.dpm_solver:DPMSolver",
        "dpm_solver_pp": "cascade.sampling.dpm_solver_pp:DPMSolverPP",
        "dpm_solver_pp_single": "cascade.sampling.dpm_solver_pp_single:DPMSolverPPSingle",
        "sde_dpm_solver_pp": "cascade.sampling.sde_dpm_solver_pp:SDEDPMSolverPP",
        "heun": "cascade.sampling.heun:Heun",
        "euler_maruyama": "cascade.sampling.euler_maruyama:EulerMaruyama",
        "probability_flow": "cascade.sampling.probability_flow:ProbabilityFlow",
        "predictor_corrector": "cascade.sampling.predictor_corrector:PredictorCorrector",
        "annealed_langevin": "cascade.sampling.langevin:AnnealedLangevin",
    },
    "grid": {
        "uniform_t": "cascade.sampling.grid:uniform_t",
        "uniform_log_snr": "cascade.sampling.grid:uniform_log_snr",
        "karras": "cascade.sampling.grid:karras",
        "adm_respaced": "cascade.sampling.grid:adm_respaced",
        "strided": "cascade.sampling.grid:strided",
    },
    "guidance": {
        "none": "cascade.sampling.guidance:Unguided",
        "classifier_free": "cascade.sampling.guidance:ClassifierFree",
        "interval": "cascade.sampling.guidance:interval",
        "autoguidance": "cascade.sampling.guidance:autoguidance",
        "classifier": "cascade.sampling.classifier_guidance:classifier_guidance",
        "classifier_around": "cascade.sampling.classifier_guidance:classifier_around",
    },
    "threshold": {
        "none": "cascade.sampling.thresholding:NoThreshold",
        "static": "cascade.sampling.thresholding:StaticThreshold",
        "dynamic": "cascade.sampling.thresholding:DynamicThreshold",
    },
}

# A parameter whose value is itself a {name: ...} mapping is built from the group of its own name, but for these.
_GROUP_OF_PARAMETER = {
    "base": "schedule",
    "betas": "schedule",
    "reference": "noise",
    "guided": "guidance",
    "predictor": "sampler",
}


def resolve(group: str, name: str) -> Any:
    """Return the class or function that `name` stands for in `group`."""
    if group not in TABLE:
        raise CascadeError(f"'{group}' is nothing that has a name: write its value")
    names = TABLE[group]
    if not isinstance(name, str) or name not in names:
        raise CascadeError(f"unknown {group} '{name}'; {suggest(str(name), names)}")
    module, attribute = names[name].split(":")
    return getattr(import_module(module), attribute)


def complete(group: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `config` with every parameter that it leaves to a default written out, nested configs too.

    What is stored is stored complete: a default that changes later does not change old stages.

    >>> complete("augmentation", {"name": "gaussian", "default": 3.0})["blur_sigma_max"]
    0.6
    >>> complete("grid", {"name": "uniform_t", "n": 8, "schedule": {"name": "cosine"}})["schedule"]
    {'name': 'cosine', 'log_snr_min': -20.0, 'log_snr_max': 20.0}
    """
    parameters = inspect.signature(resolve(group, config["name"])).parameters
    defaults = {
        key: list(p.default) if isinstance(p.default, tuple) else p.default
        for key, p in parameters.items()
        if isinstance(p.default, bool | int | float | str | tuple)
    }
    given = {key: complete(_group_of(key), value) if _is_config(value) else value for key, value in config.items()}
    return {**given, **{key: value for key, value in defaults.items() if key not in given}}


def build(group: str, config: Mapping[str, Any], **context: Any) -> Any:
    """Build `{name: NAME, parameter: value, ...}` of `group`; `context` holds what the caller supplies itself.

    Raises CascadeError naming the nearest name for an unknown name or parameter, and the parameter for a missing one.

    >>> build("schedule", {"name": "shifted", "shift": -2.0, "base": {"name": "cosine"}}).shift
    -2.0
    """
    parameters = {key: value for key, value in config.items() if key != "name"}
    if "name" not in config:
        raise CascadeError(f"a {group} needs a 'name': {suggest('', TABLE[group])}")
    target = resolve(group, config["name"])
    where = f"{group} '{config['name']}'"
    accepted = inspect.signature(target).parameters
    for key, value in parameters.items():
        if key not in accepted or key in context:
            open_names = [name for name in accepted if name not in context]
            raise CascadeError(f"{where} has no parameter '{key}'; {suggest(key, open_names)}")
        if _is_config(value):
            # Context that the inner object also needs (the training noise under a weighting) does not reach it: an
            # inner config is complete in itself. One of the same group is of the same: guidance of one denoiser.
            inner = _group_of(key)
            parameters[key] = build(inner, value, **(context if inner == group else {}))
        elif isinstance(value, list):
            parameters[key] = tuple(value)
    given = {**parameters, **context}
    missing = [n for n, p in accepted.items() if p.default is inspect.Parameter.empty and n not in given]
    if missing:
        raise CascadeError(f"{where} needs '{missing[0]}'")
    try:
        return target(**given)
    except (TypeError, ValueError) as error:
        raise CascadeError(f"{where}: {error}") from error


def _group_of(parameter: str) -> str:
    return _GROUP_OF_PARAMETER.get(parameter, parameter)


def _is_config(value: Any) -> bool:
    return isinstance(value, Mapping) and "name" in value
