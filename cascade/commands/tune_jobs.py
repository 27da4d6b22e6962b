"""The jobs of `cascade tune`: each samples and measures one point and leaves that in a folder, for whoever comes next.

A job may run in this process, in another one or on another machine, by whatever launcher of Hydra's: what it needs is
in its config, and what it has made is in files. One that fails leaves its reason there and stops nobody else.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade import __version__
from cascade.accelerators import is_missing
from cascade.artifact import find_cascade, load_cascade_config, load_chain
from cascade.commands.per_stage import read_per_stage
from cascade.commands.swept_points import measured
from cascade.commands.tune_points import Values, in_words, point_at
from cascade.errors import CascadeError
from cascade.files import expanded, sha256_of, write_whole
from cascade.guidance_settings import with_guides
from cascade.lock import exclusive
from cascade.plain_json import without_infinity
from cascade.stage_files import MANIFEST, find_stage
from cascade.stage_settings import StageSettings, planned, stored_samplings

if TYPE_CHECKING:
    from rich.console import Console

    from cascade.artifact import StageSampling
    from cascade.evaluation.features import Features
    from cascade.evaluation.measurement import Measurement
    from cascade.progress import Bars

RESULT, MEASURED, FAILED = "result.json", "measured.safetensors", "failed.txt"
_SAID = {"seconds", "precision", "features"}
Plain = Mapping[str, Any]
"""The config of `cascade tune` as plain values, with the name of the stage at `stage`."""


def sampled(plain: Plain, values: Values) -> "list[StageSampling]":
    """How all stages up to the tuned one are sampled at some values; raises CascadeError where they cannot be."""
    configs = load_chain(plain["cascade"])
    chosen = slice(0, [config.name for config in configs].index(plain["stage"]) + 1)
    return planned(configs, stored_samplings(plain["cascade"]), chosen, _settings(plain, values), None)


def folder_of(plain: Plain, values: Values) -> Path:
    """The folder of one point, named by all that its pictures and what is measured of them depend on."""
    cascade = find_cascade(plain["cascade"])
    samplings = sampled(plain, values)
    stages = [name for name, _ in load_cascade_config(cascade).stages][: len(samplings)]
    asked = {
        "stages": [[name, sha256_of(cascade / name / MANIFEST)] for name in stages],
        "samplings": [asdict(with_guides(sampling, _weights)) for sampling in samplings],
        **{key: plain[key] for key in ("first_seed", "num_images", "features", "device", "precision", "threads")},
        "patches": [plain["patches"], plain["seed"]] if in_patches(plain) else None,
        "version": __version__,
    }
    digest = hashlib.sha256(json.dumps(without_infinity(asked), sort_keys=True).encode()).hexdigest()
    return expanded(plain["out"]) / "points" / digest[:12]


def device_here(device: str) -> str:
    """The device of whatever waits for jobs that run elsewhere: the processor, where it has none such as theirs."""
    kind = device.partition(":")[0]
    return "cpu" if kind == "cuda" and is_missing(kind) else device


def in_patches(plain: Plain) -> bool:
    """Whether the stage is judged by patches: its pictures are so large that features would shrink its detail away."""
    resolution = next(c.resolution for c in load_chain(plain["cascade"]) if c.name == plain["stage"])
    return resolution > 2 * plain["patches"]["side"]


def looked_at_by(plain: Plain, console: "Console") -> "Features":
    """The features that judge: of whole pictures, or of as many patches of each."""
    from cascade.commands.evaluation_features import chosen_features
    from cascade.evaluation.patches import PatchFeatures

    features, patches = chosen_features(plain, console), plain["patches"]
    return PatchFeatures(features, patches["side"], patches["each"], plain["seed"]) if in_patches(plain) else features


def result_of(plain: Plain, values: Values) -> dict[str, Any] | None:
    """What the job of a point has said; None where it has not ended, has failed, or chose another arithmetic than own.

    With `precision=auto` jobs that began together, on machines of their own, may have.
    """
    folder = folder_of(plain, values)
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(result, dict) or not result.keys() >= _SAID or not (folder / MEASURED).is_file():
        return None
    own = result_of(plain, {}) if values and plain["precision"] == "auto" else None
    return result if own is None or own["precision"] == result["precision"] else None


def measurement_of(plain: Plain, values: Values) -> "Measurement":
    """What the job of a point has measured."""
    from cascade.evaluation.measured_pieces import from_bytes

    file = folder_of(plain, values) / MEASURED
    try:
        return from_bytes(file.read_bytes())
    except CascadeError as error:
        raise CascadeError(f"{file} is damaged; remove it, and it will be made again") from error


def failure_of(plain: Plain, values: Values) -> str | None:
    """Why the job of a point has failed; None where nothing is known of that."""
    file = folder_of(plain, values) / FAILED
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def note_failure(plain: Plain, values: Values, reason: str) -> None:
    """Leave the reason for who comes next."""
    write_whole(folder_of(plain, values) / FAILED, " ".join(reason.split()) + "\n")


def forget_failure(plain: Plain, values: Values) -> None:
    """It will be tried again."""
    (folder_of(plain, values) / FAILED).unlink(missing_ok=True)


def make(plain: Plain, values: Values, bars: "Bars") -> None:
    """Sample and measure one point, unless that is there."""
    import torch

    from cascade.commands.evaluated_samples import EvaluatedSamples
    from cascade.commands.evaluation_report import features_record
    from cascade.evaluation.measured_pieces import to_bytes
    from cascade.orchestrator import CascadePipeline

    torch.set_num_threads(plain["threads"])
    folder, out, stage = folder_of(plain, values), expanded(plain["out"]), plain["stage"]
    names = [config.name for config in load_chain(plain["cascade"])]
    place = names.index(stage) + 1
    seeds = range(plain["first_seed"], plain["first_seed"] + plain["num_images"])
    with exclusive(folder):
        if result_of(plain, values) is not None:
            return
        pipeline = CascadePipeline.load(plain["cascade"], plain["device"], _precision(plain), names[:place])
        others = {name: own for name, own in _settings(plain, {}).items() if name != stage}
        samples = EvaluatedSamples(pipeline, seeds, None, place, others, out / "samples")
        features = looked_at_by(plain, bars.console)
        point = point_at(values, plain["per_stage"].get(stage, {}))
        made, seconds = measured(point, samples, stage, features, bars=bars, batch=plain["batch"])
        result = {
            "point": in_words(values),
            "seconds": seconds,
            "precision": {sampler.name: sampler.arithmetic.name for sampler in samples.plan()},
            "features": features_record(features),
        }
        write_whole(folder / MEASURED, to_bytes(made))
        write_whole(folder / RESULT, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        forget_failure(plain, values)


def _precision(plain: Plain) -> Any:
    """That of the job that ran first, for the pictures of all must be alike but in what is tuned."""
    own = result_of(plain, {}) if plain["precision"] == "auto" else None
    return plain["precision"] if own is None else own["precision"]


def _weights(_: str, guide: str) -> str:
    """What stands for the folder of a guide."""
    return sha256_of(find_stage(guide) / MANIFEST)


def _settings(plain: Plain, values: Values) -> dict[str, StageSettings]:
    """The settings of every stage at some values of the tuned one's."""
    names = [config.name for config in load_chain(plain["cascade"])]
    point = point_at(values, plain["per_stage"].get(plain["stage"], {}))
    return {**read_per_stage(plain["per_stage"], names), plain["stage"]: point.settings}
