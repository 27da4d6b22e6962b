"""The stage that `cascade plan` speaks of: built from a config of `cascade train`, its weights random."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cascade.artifact import NETWORK_CONTEXT, Stage, StageConfig, StageSampling, build_denoiser
from cascade.diffusion import Condition, Posterior
from cascade.files import expanded
from cascade.guidance_settings import with_guides, without_labels
from cascade.networks.flops import Cost, cost
from cascade.registry import build, complete

Config = Mapping[str, Any]


@dataclass(frozen=True)
class PlannedStage:
    """A stage of random weights, its crop in training, and FLOP and number of the calls of its network.

    crop_cost, full_cost  of one picture, at the training crop and at the full size
    evaluations           calls of the network for one chunk of pictures: steps, orders and guidance
    """

    stage: Stage
    crop: int
    crop_cost: Cost
    full_cost: Cost
    steps: int
    evaluations: int

    def example(self, batch: int, side: int) -> tuple[Tensor, Condition]:
        """Empty pictures of that size and what the network is told of them."""
        config = self.stage.config
        label = torch.zeros(batch, dtype=torch.int64) if config.class_names else None
        augment = torch.zeros(batch, config.augment_dim) if config.augment_dim else None
        if config.factor is None:
            return torch.zeros(batch, 3, side, side), Condition(label, augment=augment)
        low_res = torch.zeros(batch, config.shown.channels, side // config.factor, side // config.factor)
        level = torch.full((batch,), float(config.sampling.aug_log_snr or 0.0))
        return torch.zeros(batch, 3, side, side), Condition(label, low_res, level)


def planned_stage(config: Config) -> PlannedStage:
    """Build what a config of `cascade train` names; raises CascadeError for what is wrong in it."""
    described = _described(config)
    denoiser = build_denoiser(described)
    stage = Stage(described, denoiser, Path(), sha256="")
    side = config["stage"]["crop"] or described.resolution
    shape = described.factor or 1, described.shown.channels
    crop_cost = cost(denoiser.network, side, *shape)
    full_cost = crop_cost if side == described.resolution else cost(denoiser.network, described.resolution, *shape)
    steps, evaluations = _calls(described)
    return PlannedStage(stage, side, crop_cost, full_cost, steps, evaluations)


def _described(config: Config) -> StageConfig:
    stage = config["stage"]
    base = stage["low_resolution"] is None
    level = stage["aug_log_snr"]
    if not base and level is None:
        level = build("augmentation", config["augmentation"]).default
    classes = _classes(config["data"]) if stage["labelled"] else ()
    guidance = complete("guidance", config["guidance"])
    return StageConfig(
        name=stage["name"],
        resolution=stage["resolution"],
        low_resolution=stage["low_resolution"],
        class_names=classes,
        network={key: value for key, value in config["network"].items() if key not in NETWORK_CONTEXT},
        preconditioning=dict(config["preconditioning"]),
        augmentation={"name": "none"} if base else dict(config["augmentation"]),
        augment_dim=build("geometric", config["geometric"]).dim if base else 0,
        low_res=dict(config["low_res_input"]),
        condition=dict(config["condition"]),
        sampling=StageSampling(
            sampler=dict(config["sampler"]),
            grid=dict(config["grid"]),
            guidance=guidance if classes else without_labels(guidance),
            threshold=dict(config["threshold"]),
            aug_log_snr=None if base else level,
            network_batch=stage["network_batch"],
        ),
    )


def _classes(data: Config) -> tuple[str, ...]:
    """The classes of the data; its pictures are not looked at."""
    from cascade.data.cache import read_index
    from cascade.data.listing import list_pictures
    from cascade.data.source import open_dataset

    if data["name"] == "folder":
        return tuple(list_pictures(expanded(data["root"]), "all", data.get("labelled", True)).class_names)
    if data["name"] == "cache":
        return tuple(read_index(expanded(data["root"]))["class_names"])
    return tuple(open_dataset(data, 8, "train").class_names)


def _calls(config: StageConfig) -> tuple[int, int]:
    """Steps, and calls of the network, counted by walking the grid with a denoiser that only counts."""
    calls = 0

    def counting(x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:  # noqa: ARG001
        nonlocal calls
        calls += 1
        return Posterior(torch.zeros_like(x_t), variance_fraction=torch.zeros_like(x_t))

    # A weak stage is asked like the stage itself; a classifier is no call of its network.
    of_kind = {"weak": counting, "classifier": lambda x_t, log_snr, condition: 0 * x_t.flatten(1).sum(1)}  # noqa: ARG005
    sampling = with_guides(config.sampling, lambda kind, _: of_kind[kind])
    denoiser = build("guidance", sampling.guidance, denoiser=counting)
    log_snrs = build("grid", sampling.grid)
    x, condition = torch.zeros(1, 3, 2, 2), Condition(torch.zeros(1, dtype=torch.int64) if config.class_names else None)
    build("sampler", sampling.sampler)(denoiser, x, log_snrs, condition, lambda *_: torch.zeros_like(x))
    return len(log_snrs) - 1, calls
