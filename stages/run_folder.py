"""A run's folder: the configuration it was started with, and what the same command finds there the next time."""

import os
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

from cascade.artifact import images_seen
from cascade.class_tables import table_difference
from cascade.data.dataset import PictureDataset
from cascade.errors import CascadeError
from cascade.files import expanded, write_whole
from cascade.flat import flat
from cascade.registry import TABLE, complete
from cascade.stage_files import check_weights

if TYPE_CHECKING:
    from torch import nn

LAST, RUN_CONFIG = "last.ckpt", "run.yaml"
SCRATCH = "debug"
"""The name that debug=fast gives its runs: one of other settings begins again instead of being refused."""
FINGERPRINT, CLASS_NAMES, ENDED, RUN_ID = "data_fingerprint", "class_names", "ended_by_time", "run_id"

# What may differ when a run is continued: where it runs, how long, what is shown of it, and how it will be sampled.
FREE = (
    "data.verify",
    "data.workers",
    CLASS_NAMES,
    ENDED,
    FINGERPRINT,
    RUN_ID,
    "fresh",
    "logger",
    "runs",
    "trainer.accelerator",
    "trainer.checkpoint_every",
    "trainer.checkpoint_minutes",
    "trainer.devices",
    "trainer.log_every",
    "trainer.max_cpu_minutes",
    "trainer.max_minutes",
    "trainer.max_steps",
    "trainer.sample_every",
    "trainer.validate_every",
    "trainer.validation_images",
    "trainer.workers",
    "sampler",
    "grid",
    "guidance",
    "threshold",
    "stage.aug_log_snr",
    "stage.network_batch",
)
LEARNED = ("grid", "guidance", "threshold")
"""What of this a student learns from its teacher, and is therefore not free where there is one."""
UNDECIDED = {"trainer": {"precision": "auto"}, "data": {"val_size": None}}
"""Group → key → the value that leaves it to the machine or to other keys."""


class RunFolder:
    """`runs/NAME/STAGE`: `run.yaml`, `last.ckpt`, `metrics.csv`, `samples/` and, in the end, `stage/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_id = uuid.uuid4().hex[:12]
        """The name of this run among all, whatever their folders are called; kept as long as it is continued."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """The folder of the run that a configuration names."""
        return cls(expanded(config["runs"]) / config["name"] / config["stage"]["name"])

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint to resume from, if there is one."""
        return self.path / LAST if (self.path / LAST).exists() else None

    def resumed_step(self, module: "nn.Module", dataset: PictureDataset) -> int:
        """The optimizer step that the next one to be made has, 0 in a new run.

        Raises CascadeError for a checkpoint that does not hold the weights of `module`, and for other pictures than
        those of `dataset`: with them, the order of the run would be another.
        """
        if self.checkpoint is None:
            return 0
        from stages.checkpoint import read_checkpoint  # with torch, which what is said of a folder can do without

        checkpoint = read_checkpoint(self.checkpoint)
        step, state = checkpoint.get("global_step"), checkpoint.get("state_dict")
        if not isinstance(step, int) or not isinstance(state, dict):
            raise CascadeError(f"{self.checkpoint} is not a checkpoint of this program; use fresh=true")
        stored = self.stored() or {}
        if stored.get(FINGERPRINT, dataset.fingerprint) != dataset.fingerprint:
            other, table = f"the run in '{self.path}' was made with other pictures", stored.get(CLASS_NAMES)
            if table not in (None, dataset.class_names):
                other += f", of other classes ({table_difference('the run', table, 'the data', dataset.class_names)})"
            raise CascadeError(f"{other}; use those, or another name, or fresh=true")
        check_weights(module, state, f"checkpoint '{self.checkpoint}'")
        self.run_id = str(stored.get(RUN_ID, self.run_id))
        return step

    def load_weights(self, module: "nn.Module") -> None:
        """Load the checkpoint's weights into `module`."""
        from stages.checkpoint import read_checkpoint

        module.load_state_dict(read_checkpoint(self.path / LAST)["state_dict"])

    def lacks_export(self, images: int, *, ranked: bool = True) -> bool:
        """Whether a finished run ended between its last checkpoint, of a model that has seen `images`, and the export.

        That is so where there is no stage, or an older one though the last weights were the best, or none were chosen;
        with `ranked` false the last are always those that are exported.
        """
        if not (self.path / "stage").exists():
            return True
        from stages.checkpoint import read_checkpoint

        checkpoint = read_checkpoint(self.path / LAST)
        last = checkpoint["global_step"]
        chosen = checkpoint.get("callbacks", {}).get("Validation", {"best_step": last})
        return (not ranked or chosen.get("best_step") == last) and images_seen(self.path) != images

    def stored(self) -> dict[str, Any] | None:
        """The configuration the run was started with, None in a new run."""
        file = self.path / RUN_CONFIG
        if not file.exists():
            return None
        try:
            config = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise CascadeError(f"{file} is not valid YAML; use fresh=true") from error
        if not isinstance(config, dict):
            raise CascadeError(f"{file} is not a run's configuration; use fresh=true")
        return config

    def difference(
        self, config: Mapping[str, Any], defaults: Mapping[str, Any] | None = None, *, as_written: bool = False
    ) -> str | None:
        """Why the run cannot be continued under `config`, naming the first key that differs; None if it can.

        A key that the stored configuration lacks came with a later version, whose default does what was done before:
        that of the parameter itself, or what `defaults` says, a configuration in which nobody has overridden anything.
        A group that it lacks and `defaults` does not know keeps nobody from going on.
        `as_written`: compare only what both write out, which needs no torch.
        """
        stored = self.stored()
        if stored is None or self.checkpoint is None:  # a start that failed before its first checkpoint binds nobody
            return None
        config, bound = as_decided(config, stored), LEARNED if "teacher" in config else ()
        if as_written:
            old, new = dict(flat(stored)), dict(flat(config))
            keys = [key for key in new if key in old]
        else:
            defaults = defaults or {}
            old, new = (dict(flat(_completed(settings))) for settings in ({**defaults, **stored}, config))
            old = {**dict(flat(defaults)), **old}
            keys = [key for key in [*new, *old] if key.split(".")[0] in {*stored, *defaults}]
        for key in keys:
            free = any(key == name or key.startswith(name + ".") for name in FREE if name not in bound)
            if not free and old.get(key) != new.get(key):
                return (
                    f"the run in '{self.path}' was made with {key}={_show(old.get(key))}, not {_show(new.get(key))}; "
                    "continue it with that, or use another name, or fresh=true to start again"
                )
        return None

    def write_config(
        self, config: Mapping[str, Any], dataset: PictureDataset, ended: Mapping[str, Any] | None = None
    ) -> None:
        """Store the configuration and what its pictures are, whole; `ended`: the settings whose time ran out."""
        stored = {
            **config,
            FINGERPRINT: dataset.fingerprint,
            CLASS_NAMES: list(dataset.class_names),
            RUN_ID: self.run_id,
        }
        if ended is not None:
            stored[ENDED] = {key: ended[key] for key in ("max_minutes", "max_cpu_minutes", "max_steps")}
        write_whole(self.path / RUN_CONFIG, yaml.safe_dump(stored, sort_keys=False, allow_unicode=True))

    def ended_by_time(self, settings: Mapping[str, Any]) -> bool:
        """Whether the run's time ran out under the same limits: then the same command has nothing to add."""
        ended = (self.stored() or {}).get(ENDED)
        return ended is not None and all(settings[key] == value for key, value in ended.items())

    def move_aside(self) -> Path | None:
        """Rename an existing run so that a fresh one can begin; return where it went."""
        if not self.path.exists():
            return None
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        target = self.path.with_name(f"{self.path.name}.{stamp}.{os.getpid()}")
        self.path.rename(target)
        return target


def as_decided(config: Mapping[str, Any], stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return `config` with what it leaves open as the run has it: that is decided once, when the run begins."""
    decided = {group: dict(config[group]) for group in UNDECIDED if group in config}
    for group, settings in decided.items():
        for key, undecided in UNDECIDED[group].items():
            before = (stored or {}).get(group, {}).get(key, undecided)
            if key in settings and settings[key] == undecided:
                settings[key] = before
    return {**config, **decided}


def _completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the parameters that the groups leave to their defaults."""
    named = {key: value for key, value in config.items() if key in TABLE and value and value.get("name") in TABLE[key]}
    return {**config, **{group: complete(group, value) for group, value in named.items()}}


def _show(value: Any) -> str:
    return "null" if value is None else str(value)
