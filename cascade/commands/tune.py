"""`cascade tune`: settings of a stage that are better beyond two standard errors, found by sweeps over their values.

One setting after the other is tuned, each at the best of those before, so what is recorded was sampled as it is. The
values of one setting are the jobs of a Hydra multirun (`tune_jobs`), which any of its launchers may spread.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cascade import __version__
from cascade.artifact import StageConfig, find_cascade, load_chain
from cascade.commands.configuration import plain_of_stage
from cascade.commands.evaluated_sides import check_sides
from cascade.commands.launchers import KEY
from cascade.commands.per_stage import extra_keys, place_of
from cascade.commands.reports import check_out, write_report
from cascade.commands.tune_jobs import (
    Plain,
    device_here,
    failure_of,
    forget_failure,
    in_patches,
    make,
    note_failure,
    result_of,
    sampled,
)
from cascade.commands.tune_points import TUNABLE, Values, in_words, tried_values, tuned_keys, values_in
from cascade.errors import CascadeError
from cascade.files import expanded, write_whole
from cascade.lock import exclusive
from cascade.stage_files import PRETRAINED

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from cascade.commands.overrides import Checked
    from cascade.commands.tune_choice import Choice, Judged
    from cascade.commands.tune_judge import Judge

__all__ = ["drive", "extra_keys", "run"]

REPORT, FIGURE = "tune.json", "tune.png"
_MADE_BY = "cascade tune"
_LEAST = 6  # pictures, and photographs: three in each half

Launch = Callable[[Sequence[str]], object]
"""Runs a multirun of this command with further overrides, some of them with several values."""


@dataclass(frozen=True, eq=False)
class Round:
    """What one setting has come to: `failed` are the values whose jobs failed, with the reasons."""

    key: str
    present: "Judged"
    judged: "Sequence[Judged]"
    failed: Mapping[float, str]
    choice: "Choice"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        best = self.choice.best
        return {
            "over": self.key,
            "present": self.present.to_json(self.present),
            "tried": [one.to_json(self.present) for one in self.judged],
            "failed": [{"value": value, "reason": reason} for value, reason in self.failed.items()],
            "best": None if best is None else best.value,
            "why": self.choice.why,
        }


def run(config: "DictConfig") -> None:
    """Make the point of one job. In a sweep a failure is noted, and the other jobs go on; by hand it is said."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from cascade.progress import progress_bars

    plain = plain_of_stage(config)
    _checked(plain)
    values = values_in(plain["point"])
    try:
        with progress_bars() as bars:
            make(plain, values, bars)
    except Exception as error:
        note_failure(plain, values, str(error) or type(error).__name__)
        if HydraConfig.get().mode is not RunMode.MULTIRUN:
            raise


def drive(checked: "Checked", launch: Launch) -> None:
    """Have the jobs made that are missing, choose, draw, and record what is found. See `conf/tune.yaml`."""
    from cascade.commands.tune_figure import draw_tune
    from cascade.commands.tune_table import print_rounds, title_of
    from cascade.commands.tune_written import evidence_of, record
    from cascade.commands.written import shell_line, written

    plain = plain_of_stage(checked.config)
    elsewhere = any(override.startswith(f"{KEY}=") for override in checked.overrides)
    stage, keys = _checked({**plain, "device": device_here(plain["device"])} if elsewhere else plain)
    out = expanded(plain["out"])
    check_out(out, REPORT, _MADE_BY, [FIGURE])
    command = shell_line("tune", written([f"{key}={options[0]}" for key, options in checked.swept.items()]))
    with exclusive(out):
        rounds, judge, found = _rounds(plain, stage, keys, launch)
        report = {
            "made_by": _MADE_BY,
            "command": command,
            "cascade": str(plain["cascade"]),
            "stage": stage.name,
            **judge.report(),
            "num_images": plain["num_images"],
            "first_seed": plain["first_seed"],
            "neighbours": plain["neighbours"],
            "seed": plain["seed"],
            "threads": plain["threads"],
            "patches": plain["patches"] if in_patches(plain) else None,
            "rounds": [one.to_json() for one in rounds],
            "found": {TUNABLE[key].key: value for key, value in found.items()},
            "written": bool(plain["write"] and found),
            "version": __version__,
        }
        if plain["write"] and found:
            record(plain["cascade"], stage.name, found, evidence_of(report))
        write_report(out / REPORT, report)
        title = title_of(plain, judge)
        write_whole(out / FIGURE, draw_tune(rounds, judge.name, title))
    print_rounds(rounds, found, judge.name, title, written=report["written"])
    print(f"{out / FIGURE}\n{out / REPORT}")


def _rounds(
    plain: Plain, stage: StageConfig, keys: Sequence[str], launch: Launch
) -> "tuple[list[Round], Judge, dict[str, float]]":
    """Tune one setting after the other; what was found differs from the cascade's own."""
    from cascade.commands.tune_choice import choose
    from cascade.commands.tune_judge import Judge

    rounds: list[Round] = []
    found: dict[str, float] = {}
    judge = Judge.open(plain, stage)  # first, for what is wrong with the photographs is to be known before any job runs
    _make(plain, [{}], launch)
    if (reason := failure_of(plain, {})) is not None:
        raise CascadeError(f"the stage as it is cannot be measured, and nothing compared with it: {reason}")
    for key in keys:
        sampling = sampled(plain, found)[-1]
        tried = {value: {**found, key: value} for value in tried_values(key, plain["values"], stage, sampling)}
        _make(plain, list(tried.values()), launch)
        present = judge(found, TUNABLE[key].present(sampling))
        made = {value: values for value, values in tried.items() if result_of(plain, values) is not None}
        judged = [judge(values, value) for value, values in made.items()]
        failed = {value: failure_of(plain, tried[value]) or "" for value in tried if value not in made}
        choice = choose(key, judged, present)
        rounds.append(Round(key, present, judged, failed, choice))
        if choice.best is not None:
            found = dict(choice.best.values)
    return rounds, judge, found


def _make(plain: Plain, points: Sequence[Values], launch: Launch) -> None:
    """Launch the jobs of the points that are missing; one that ends its process takes none of the others with it."""
    missing = [values for values in points if result_of(plain, values) is None]
    if not missing:
        return
    for values in missing:
        forget_failure(plain, values)
    if _launched(missing, launch) is not None:
        for values in _left(plain, missing):
            if (reason := _launched([values], launch)) is not None:
                note_failure(plain, values, reason)
    for values in _left(plain, missing):
        note_failure(plain, values, "its job has ended without a word")


def _left(plain: Plain, points: Sequence[Values]) -> list[Values]:
    """Those of which there is neither a result nor a reason."""
    return [v for v in points if result_of(plain, v) is None and failure_of(plain, v) is None]


def _launched(points: Sequence[Values], launch: Launch) -> str | None:
    """Why a launch as a whole has failed: a launcher gives up where a job's process dies."""
    from cascade.commands.values import quoted

    try:
        launch([f"point={','.join(quoted(in_words(values)) for values in points)}"])
    except CascadeError:
        raise
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _checked(plain: Plain) -> tuple[StageConfig, list[str]]:
    """The stage and what is tuned; everything that can be said without sampling."""
    from cascade.data.source import check_source

    configs = load_chain(plain["cascade"])
    stage = configs[place_of(plain["stage"], [config.name for config in configs])]
    check_sides(plain)
    if plain["threads"] is None:
        raise CascadeError("threads=null would leave the number, and the last bits, to each machine: give a number")
    check_source(plain["data"], stage.resolution, [plain["data"]["split"]])
    for key in ("num_images", "num_reference"):
        if plain[key] is not None and plain[key] < _LEAST:
            raise CascadeError(f"{key}={plain[key]} must be at least {_LEAST}: three in each half")
    counts = {"neighbours": plain["neighbours"], **{f"patches.{key}": n for key, n in plain["patches"].items()}}
    for key, value in counts.items():
        if value < 1:
            raise CascadeError(f"{key}={value} must be at least 1")
    sampling = sampled(plain, {})[-1]
    keys = tuned_keys(plain["over"], stage, sampling)
    if not keys:
        raise CascadeError(f"there is nothing to tune in stage '{stage.name}'")
    own = plain["per_stage"].get(stage.name, {})
    if taken := [TUNABLE[key].key for key in keys if TUNABLE[key].key in own]:
        raise CascadeError(f"{stage.name}.{taken[0]} is what varies here; leave it out, or leave it out of over=...")
    for key in keys:
        tried_values(key, plain["values"], stage, sampling)
    if plain["write"]:
        if plain["per_stage"]:
            raise CascadeError(
                "write=true records what is better in the cascade as it is: give no STAGE.key=... beside"
            )
        if PRETRAINED in find_cascade(plain["cascade"]).absolute().parents:
            raise CascadeError(f"'{plain['cascade']}' is installed with the package and stays as it is; copy it first")
    return stage, keys
