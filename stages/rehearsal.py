"""One step without weights on disk, before a run begins; `checks` and `parts` have what can be told without."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cascade.artifact import Stage, StageConfig
from cascade.stage_sampler import StageSampler
from stages.diffusion_stage import DiffusionStage
from stages.draws import Draws


@torch.no_grad()
def rehearse(config: Mapping[str, Any], described: StageConfig, stage: DiffusionStage, view: Any) -> None:
    """Meet before the run what would else fail in or after it: sizes, labels, its loss and how it is sampled."""
    current = Stage(described, stage.average, Path(), sha256="")
    StageSampler.prepare(current, described.sampling, torch.device("cpu"), config["trainer"]["precision"])
    side = view.crop
    batch = {"image": torch.zeros(1, 3, side, side), "label": torch.zeros(1, dtype=torch.long)}
    if view.factor is not None:
        batch["low_res"] = view.condition(torch.zeros(3, side // view.factor, side // view.factor), "rehearsal")[None]
    x, condition = stage.validation_examples(batch, Draws(config["seed"], -1, (0,), 1))
    log_snr = stage.recipe.noise.icdf(torch.full((1,), 0.5))
    stage.loss(stage.average, x, log_snr, torch.zeros_like(x), condition, stage.recipe.weighting)
