"""What `cascade tune write=true` leaves in `cascade.yaml`: the settings that are better, and the evidence for them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cascade.artifact import (
    StageSampling,
    find_cascade,
    load_cascade_config,
    load_stage_config,
    save_cascade_config,
)
from cascade.commands.tune_points import TUNABLE, Values, settings_at
from cascade.stage_settings import changed
from cascade.trained_levels import levels_of_255


def evidence_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """Of a report the few numbers that show why, for each setting: its gain with the error, on either half."""
    found = {}
    for one in report["rounds"]:
        if one["best"] is None:
            continue
        best = next(row for row in one["tried"] if row["value"] == one["best"])
        in_levels = {"levels_of_255": round(levels_of_255(one["best"]), 2)} if one["over"] == "aug_level" else {}
        found[TUNABLE[one["over"]].key] = {
            "before": one["present"]["value"],
            "now": one["best"],
            **in_levels,
            "why": one["why"],
            "gain": {half: dict(estimate) for half, estimate in best["gain"].items()},
            "judged_by": {
                "distance": report["distance"],
                "features": dict(report["features"]),
                "pictures": report["num_images"],
                "first_seed": report["first_seed"],
                "photographs": report["reference"]["count"],
                "fingerprint": report["reference"]["fingerprint"],
                "halves": report["halves"],
            },
            "command": report["command"],
            "version": report["version"],
        }
    return found


def record(cascade: str, stage: str, found: Values, evidence: Mapping[str, Any]) -> None:
    """Change the settings of a stage in a cascade's `cascade.yaml`, and put the evidence there, setting by setting."""
    folder = find_cascade(cascade)
    config = load_cascade_config(folder)

    def now(name: str, sampling: StageSampling) -> StageSampling:
        of_stage = load_stage_config(folder / name)
        return changed(sampling, settings_at(found), of_stage) if of_stage.name == stage else sampling

    stages = tuple((name, now(name, sampling)) for name, sampling in config.stages)
    of_stage = {**config.tuned.get(stage, {}), **evidence}  # what was recorded of its other settings stays
    save_cascade_config(folder, replace(config, stages=stages, tuned={**config.tuned, stage: of_stage}))
