"""The numbers of `cascade explain`'s first figure: the levels trained, how much they weigh, and the levels sampled."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cascade.commands.explain_style import rounded, short
from cascade.commands.explain_trained import Trained, trained
from cascade.data.degradation import from_uint8
from cascade.data.procedural import ProceduralDataset
from cascade.diffusion import diffuse
from cascade.diffusion.training_profile import TrainingProfile, training_profile
from cascade.errors import CascadeError
from cascade.registry import build, complete
from cascade.rng import randn
from cascade.sampling.certificate import Bands, picture_bands
from cascade.trained_levels import levels_of_255, noise_in_words

PICTURES = 5
_SHOWN = 256  # at most so many pixels of a picture are shown, so that its noise is not averaged away
_TAIL = 1e-3  # share of the drawn levels that the axis may leave out at either end
_EXPLAINED = ("noise", "weighting", "loss", "sampler", "grid", "augmentation")
_OF_STAGE = ("name", "resolution", "low_resolution", "crop", "aug_log_snr")


@dataclass(frozen=True, eq=False)
class NoiseLevels:
    """All that the figure shows (`explain_levels_figure`).

    config        of what is explained, complete
    trained       how the levels are drawn and weighed, and what the weight is of
    loss          w(λ)·E‖ε − ε̂‖² of the exact denoiser of 1/f² pictures at the profile's levels: what training leaves;
                  None of what learns no denoiser from pictures
    grid          the levels sampled, None of a classifier without one
    span          the ends of the λ axis
    shown         the levels at which the picture is shown; `pictures` (5, 3, s, s) in [−1, 1] are these
    augmentation  trained range and level at sampling, None in a base
    bands         the 1/f² Gaussian in the place of the stage's pictures, and `data`, what it is in words
    """

    config: dict[str, Any]
    trained: Trained
    profile: TrainingProfile
    loss: Tensor | None
    grid: Tensor | None
    span: tuple[float, float]
    shown: list[float]
    pictures: Tensor
    augmentation: dict[str, Any] | None
    bands: Bands
    data: str

    def report(self) -> dict[str, Any]:
        """The numbers behind the figure, as plain JSON values."""
        curves = {key: getattr(self.profile, key) for key in ("log_snr", "p", "w")}
        if self.trained.on_x is not None:
            curves["w_on_x"] = self.profile.w_on_x
        if self.loss is not None:
            curves["exact_loss"] = self.loss
        return {
            "training": {
                "measure": "probability" if self.profile.ladder else "density",
                "w_is_of": f"{self.trained.on} ({self.trained.chosen})",
                **{key: rounded(curve) for key, curve in curves.items()},
            },
            "pictures": {"log_snr": self.shown},
            "sampling": None if self.grid is None else {"log_snr": rounded(self.grid)},
            "augmentation": self.augmentation,
        }

    def summary(self) -> list[str]:
        """Lines for a person."""
        middle = [f"{round(level, 1) + 0.0:.1f}" for level in _quantiles(self.profile, [0.05, 0.5, 0.95])]
        lines = [
            f"training: half of the levels lie below log_snr {middle[1]}, 90 % between {middle[0]} and {middle[2]}"
        ]
        if self.grid is not None:
            first, last = (f"{self.grid[i]:.2f}" for i in (0, -2))
            clean = ", then the clean picture" if self.grid[-1] == math.inf else ""
            lines.append(f"sampling: {len(self.grid) - 1} steps from log_snr {first} to {last}{clean}")
        if self.augmentation and self.augmentation["trained"]:
            low, high = self.augmentation["trained"]
            lines.append(
                f"low-res noise: trained from log_snr {low:g} to {high:g} ({short(levels_of_255(low))} to "
                f"{short(levels_of_255(high))} levels of 255), at sampling: "
                f"{noise_in_words(self.augmentation['at_sampling'])}"
            )
        return lines


def noise_levels(config: dict[str, Any]) -> NoiseLevels:
    """Build what a config of `cascade train` names, and read its levels; raises CascadeError for what is wrong."""
    found = trained(config)
    config = found.config
    profile = training_profile(found.noise, found.weighting, points=1001)
    grid = build("grid", config["grid"]) if "grid" in config else None
    augmentation = _augmentation(config)
    ends = _quantiles(profile, [_TAIL, 1 - _TAIL])
    if grid is not None:
        ends += grid[grid.isfinite()].tolist()
    span = math.floor(min(ends)) - 0.5, math.ceil(max(ends)) + 0.5
    cell = (span[1] - span[0]) / PICTURES
    shown = [round(span[0] + (k + 0.5) * cell, 2) for k in range(PICTURES)]
    stage = config["stage"]
    bands, data = _gaussian(stage, augmentation)
    loss = profile.w * bands.denoising_loss(profile.log_snr) if found.remains else None
    described: dict[str, Any] = {group: complete(group, config[group]) for group in _EXPLAINED if group in config}
    described["stage"] = {key: stage.get(key) for key in _OF_STAGE}
    if "teacher" in config:
        described["teacher"] = {"folder": config["teacher"], **{key: stage[key] for key in ("teacher_steps", "steps")}}
    pictures = _diffused(config, shown)
    return NoiseLevels(described, found, profile, loss, grid, span, shown, pictures, augmentation, bands, data)


def _gaussian(stage: dict[str, Any], augmentation: dict[str, Any] | None) -> tuple[Bands, str]:
    data = f"1/f² Gaussian of {stage['resolution']} px, pixels of standard deviation 0.5"
    if augmentation is None:
        return picture_bands(stage["resolution"]), data
    if stage["low_resolution"] == stage["resolution"]:  # what a mask hides, or greys: no frequency of it is told
        return picture_bands(stage["resolution"]), f"{data}, as what the stage is not shown of a picture"
    data += f", given its {stage['low_resolution']} px picture with noise at λ = {augmentation['at_sampling']}"
    return picture_bands(stage["resolution"], stage["low_resolution"], augmentation["at_sampling"]), data


def _diffused(config: dict[str, Any], shown: list[float]) -> Tensor:
    """One drawn picture at each level, with the same noise."""
    side = config["stage"]["resolution"]
    dataset = ProceduralDataset(side, "val")
    if config["picture"] >= len(dataset):
        raise CascadeError(f"picture={config['picture']}: there are drawn pictures 0 to {len(dataset) - 1}")
    picture = from_uint8(dataset.image(config["picture"]))
    crop = min(side, config["stage"].get("crop") or side, _SHOWN)
    start = (side - crop) // 2
    picture = picture[:, start : start + crop, start : start + crop].expand(len(shown), -1, -1, -1)
    eps = randn("explain", config["picture"], shape=picture.shape[1:]).expand_as(picture)
    return diffuse(picture, eps, torch.tensor(shown)).clamp(-1, 1)


def _augmentation(config: dict[str, Any]) -> dict[str, Any] | None:
    stage = config["stage"]
    if stage.get("low_resolution") is None:
        if config.get("augmentation", {"name": "none"})["name"] != "none":
            raise CascadeError("augmentation is of the low-res picture; a base has none: say augmentation=none")
        return None
    augmentation = build("augmentation", config["augmentation"])
    level = augmentation.default if stage["aug_log_snr"] is None else stage["aug_log_snr"]
    augmentation.check(level)
    trained = [getattr(augmentation, key, None) for key in ("log_snr_min", "log_snr_max")]
    return {
        "trained": None if None in trained else trained,
        "clean_share": getattr(augmentation, "include_clean", 1.0),
        "at_sampling": level,
        "levels_of_255": {
            "trained": None if None in trained else [round(levels_of_255(end), 3) for end in trained],
            "at_sampling": round(levels_of_255(level), 3),
        },
    }


def _quantiles(profile: TrainingProfile, shares: list[float]) -> list[float]:
    """Levels below which a share of the drawn levels lies, by the curve p."""
    p, log_snr = profile.p, profile.log_snr
    mass = p.cumsum(0) if profile.ladder else torch.cumulative_trapezoid(p, log_snr)
    place = torch.searchsorted(mass / mass[-1], torch.tensor(shares, dtype=mass.dtype))
    return log_snr[place.clamp(max=len(log_snr) - 1)].tolist()
