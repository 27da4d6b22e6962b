"""`cascade reconstruct-ema`: a stage of another average of a run's weights, rebuilt from the snapshots it kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from cascade.commands.stage_out import check_stage_out
from cascade.errors import CascadeError
from cascade.files import expanded
from cascade.lock import beside, check_place
from cascade.snapshots import Snapshots

if TYPE_CHECKING:
    import numpy as np

    from cascade.diffusion.power_ema import Snapshot

LARGEST_ERROR = 0.01
"""How far the rebuilt profile may be from that of the width, as a share of its norm."""


def run(config: DictConfig) -> None:
    """Rebuild the average, and write the stage with its weights. See `conf/reconstruct-ema.yaml`."""
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)
    folder, out = (expanded(plain[key]) for key in ("run", "out"))
    kept, sigma_rel = Snapshots(folder), plain["sigma_rel"]
    step, chosen = _chosen(kept, folder, plain["step"])
    if not 0.001 <= sigma_rel < 12**-0.5:
        raise CascadeError(f"sigma_rel={sigma_rel:g} is out of range: a width is at least 0.001 and below 0.289")
    check_stage_out(out, overwrite=plain["overwrite"])
    check_place(out, beside)

    from cascade.diffusion.power_ema import combine
    from cascade.stage_files import write_stage

    weights, error = _weights(chosen, step, sigma_rel)
    config_of_stage = kept.config()
    if not isinstance(config_of_stage, dict):
        raise CascadeError(f"the snapshots in '{kept.path}' are damaged: their config is no mapping")
    described = {**config_of_stage, "images_seen": kept.images_seen(*chosen[-1])}
    state = combine((kept.read(*snapshot) for snapshot in chosen), weights.tolist())
    with beside(out):
        write_stage(out, described, state)
    print(
        f"{out}: {described.get('name')} with the average of sigma_rel {sigma_rel:g} at step {step}, of "
        f"{len({at for at, _ in chosen})} snapshots of each width; its profile is {100 * error:.2g}% off"
    )


def _chosen(kept: Snapshots, folder: Path, step: int | None) -> "tuple[int, list[Snapshot]]":
    """The step at which the average is made, and the snapshots up to it."""
    if not folder.is_dir():
        raise CascadeError(f"there is no run at '{folder}': no such folder")
    found = list(kept.found())
    if not found:
        raise CascadeError(f"the run in '{folder}' has no snapshots; ema=power_pair keeps them")
    steps = sorted({at for at, _ in found})
    last = steps[-1] if step is None else step
    if last not in steps:
        nearest = min(steps, key=lambda at: abs(at - last))
        raise CascadeError(f"step={step}: there is no snapshot of that step; the nearest is step={nearest}")
    return last, [snapshot for snapshot in found if snapshot[0] <= last]


def _weights(chosen: "list[Snapshot]", step: int, sigma_rel: float) -> "tuple[np.ndarray, float]":
    """The snapshots' weights, and how far off the profile is; a width out of their reach is refused."""
    from cascade.diffusion.power_ema import profile_error, reconstruction

    weights = reconstruction(chosen, step, sigma_rel)
    error = profile_error(chosen, step, sigma_rel, weights)
    if error > LARGEST_ERROR:
        widths = sorted({width for _, width in chosen})
        steps, of = len({at for at, _ in chosen}), " and ".join(f"{width:g}" for width in widths)
        inside = widths[0] <= sigma_rel <= widths[-1]
        mend = "these are too few: train on, or with a smaller ema.every" if inside else "choose one between these"
        raise CascadeError(
            f"sigma_rel={sigma_rel:g} is out of reach: of {steps} snapshots of {of} "
            f"its profile would be {100 * error:.2g}% off; {mend}"
        )
    return weights, error
