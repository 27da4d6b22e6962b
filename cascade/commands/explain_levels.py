"""The numbers of `cascade explain`'s first figure: the levels trained, how much they weigh, and the levels sampled."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cascade.commands.explain_style import rounded, short
from cascade.data.degradation import from_uint8
from cascade.data.procedural import ProceduralDataset
from cascade.diffusion import diffuse
from cascade.diffusion.training_profile import TrainingProfile, training_profile
from cascade.errors import CascadeError
from cascade.registry import build, complete
from cascade.rng import randn
from cascade.sampling.certificate import Bands, picture_bands

PICTURES = 5
_SHOWN = 256  # at most so many pixels of a picture are shown, so that its noise is not averaged away
_TAIL = 1e-3  # share of the drawn levels that the axis may leave out at either end
_EXPLAINED = ("noise", "weighting", "loss", "sampler", "grid", "augmentation")


@dataclass(frozen=True, eq=False)
class NoiseLevels:
    """All that the figure shows (`explain_levels_figure`).

    config        of what is explained, complete
    loss          w(λ)·E‖ε − ε̂‖² of the exact denoiser of 1/f² pictures at the profile's levels: what training leaves
    span          the ends of the λ axis
    shown         the levels at which the picture is shown; `pictures` (5, 3, s, s) in [−1, 1] are these
    augmentation  trained range and level at sampling, None in a base
    bands         the 1/f² Gaussian in the place of the stage's pictures, and `data`, what it is in words
    """

    config: dict[str, Any]
    profile: TrainingProfile
    loss: Tensor
    grid: Tensor
    span: tuple[float, float]
    shown: list[float]
    pictures: Tensor
    augmentation: dict[str, Any] | None
    bands: Bands
    data: str

    def report(self) -> dict[str, Any]:
        """The numbers behind the figure, as plain JSON values."""
        curves = {key: rounded(getattr(self.profile, key)) for key in ("log_snr", "p", "w", "w_on_x")}
        return {
            "training": {
                "measure": "probability" if self.profile.ladder else "density",
                **curves,
                "exact_loss": rounded(self.loss),
            },
            "pictures": {"log_snr": self.shown},
            "sampling": {"log_snr": rounded(self.grid)},
            "augmentation": self.augmentation,
        }

    def summary(self) -> list[str]:
        """Lines for a person."""
        first, last = (f"{self.grid[i]:.2f}" for i in (0, -2))
        middle = [f"{round(level, 1) + 0.0:.1f}" for level in _quantiles(self.profile, [0.05, 0.5, 0.95])]
        lines = [
            f"training: half of the levels lie below log_snr {middle[1]}, 90 % between {middle[0]} and {middle[2]}",
            f"sampling: {len(self.grid) - 1} steps from log_snr {first} to {last}"
            + (", then the clean picture" if self.grid[-1] == math.inf else ""),
        ]
        if self.augmentation and self.augmentation["trained"]:
            low, high = self.augmentation["trained"]
            lines.append(
                f"low-res noise: trained from log_snr {low:g} to {high:g} ({short(levels_of_255(low))} to "
                f"{short(levels_of_255(high))} levels of 255), sampled at {self.augmentation['at_sampling']}"
            )
        return lines


def levels_of_255(aug_log_snr: float) -> float:
    """The standard deviation of augmentation noise in levels of 255: 127.5·e^{−λ/2}, on a picture of full contrast.

    >>> round(levels_of_255(6.0), 1), levels_of_255(math.inf)
    (6.3, 0.0)
    """
    return 127.5 * math.exp(-aug_log_snr / 2)


def noise_levels(config: dict[str, Any]) -> NoiseLevels:
    """Build what a config of `cascade train` names, and read its levels; raises CascadeError for what is wrong."""
    noise = build("noise", config["noise"])
    profile = training_profile(noise, build("weighting", config["weighting"], noise=noise), points=1001)
    grid = build("grid", config["grid"])
    augmentation = _augmentation(config)
    finite = grid[grid.isfinite()]
    low, high = _quantiles(profile, [_TAIL, 1 - _TAIL])
    span = math.floor(min(low, float(finite[0]))) - 0.5, math.ceil(max(high, float(finite[-1]))) + 0.5
    cell = (span[1] - span[0]) / PICTURES
    shown = [round(span[0] + (k + 0.5) * cell, 2) for k in range(PICTURES)]
    stage = config["stage"]
    bands, data = _gaussian(stage, augmentation)
    loss = profile.w * bands.denoising_loss(profile.log_snr)
    described = {group: complete(group, config[group]) for group in _EXPLAINED}
    described["stage"] = {key: stage[key] for key in ("name", "resolution", "low_resolution", "crop", "aug_log_snr")}
    pictures = _diffused(config, shown)
    return NoiseLevels(described, profile, loss, grid, span, shown, pictures, augmentation, bands, data)


def _gaussian(stage: dict[str, Any], augmentation: dict[str, Any] | None) -> tuple[Bands, str]:
    data = f"1/f² Gaussian of {stage['resolution']} px, pixels of standard deviation 0.5"
    if augmentation is None:
        return picture_bands(stage["resolution"]), data
    data += f", given its {stage['low_resolution']} px picture with noise at λ = {augmentation['at_sampling']}"
    return picture_bands(stage["resolution"], stage["low_resolution"], augmentation["at_sampling"]), data


def _diffused(config: dict[str, Any], shown: list[float]) -> Tensor:
    """One drawn picture at each level, with the same noise."""
    side = config["stage"]["resolution"]
    dataset = ProceduralDataset(side, "val")
    if config["picture"] >= len(dataset):
        raise CascadeError(f"picture={config['picture']}: there are drawn pictures 0 to {len(dataset) - 1}")
    picture = from_uint8(dataset.image(config["picture"]))
    crop = min(side, config["stage"]["crop"] or side, _SHOWN)
    start = (side - crop) // 2
    picture = picture[:, start : start + crop, start : start + crop].expand(len(shown), -1, -1, -1)
    eps = randn("explain", config["picture"], shape=picture.shape[1:]).expand_as(picture)
    return diffuse(picture, eps, torch.tensor(shown)).clamp(-1, 1)


def _augmentation(config: dict[str, Any]) -> dict[str, Any] | None:
    stage = config["stage"]
    if stage["low_resolution"] is None:
        if config["augmentation"]["name"] != "none":
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
