"""A run's folder: the configuration it was started with, and what the same command finds there the next time."""

import os
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from cascade.artifact import check_weights
from cascade.errors import CascadeError
from cascade.files import write_whole
from cascade.registry import TABLE, complete
from stages.checkpoint import LAST, read_checkpoint

RUN_CONFIG = "run.yaml"
FINGERPRINT, ENDED, RUN_ID = "data_fingerprint", "ended_by_time", "run_id"

# What may differ when a run is continued: where it runs, how long, what is shown of it, and how it will be sampled.
FREE = (
    "data.verify",
    "data.workers",
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


class RunFolder:
    """`runs/NAME/STAGE`: `run.yaml`, `last.ckpt`, `metrics.csv`, `samples/` and, in the end, `stage/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_id = uuid.uuid4().hex[:12]
        """The name of this run among all, whatever their folders are called; kept as long as it is continued."""

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint to resume from, if there is one."""
        return self.path / LAST if (self.path / LAST).exists() else None

    def resumed_step(self, module: nn.Module, fingerprint: str) -> int:
        """The optimizer step that the next one to be made has, 0 in a new run.

        Raises CascadeError for a checkpoint that does not hold the weights of `module`, and for other pictures than
        those of `fingerprint`: with them, the order of the run would be another.
        """
        if self.checkpoint is None:
            return 0
        checkpoint = read_checkpoint(self.checkpoint)
        step, state = checkpoint.get("global_step"), checkpoint.get("state_dict")
        if not isinstance(step, int) or not isinstance(state, dict):
            raise CascadeError(f"{self.checkpoint} is not a checkpoint of this program; use fresh=true")
        check_weights(module, state, f"checkpoint '{self.checkpoint}'")
        if (self.stored() or {}).get(FINGERPRINT, fingerprint) != fingerprint:
            raise CascadeError(
                f"the run in '{self.path}' was made with other pictures; use those, or another name, or fresh=true"
            )
        self.run_id = str((self.stored() or {}).get(RUN_ID, self.run_id))
        return step

    def load_weights(self, module: nn.Module) -> None:
        """Load the checkpoint's weights into `module`."""
        module.load_state_dict(read_checkpoint(self.path / LAST)["state_dict"])

    def stored(self) -> dict[str, Any] | None:
        """The configuration the run was started with, None in a new run."""
        file = self.path / RUN_CONFIG
        if not file.exists():
            return None
        try:
            config = yaml.safe_load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise CascadeError(f"{file} is not valid YAML; use fresh=true") from error
        if not isinstance(config, dict):
            raise CascadeError(f"{file} is not a run's configuration; use fresh=true")
        return config

    def difference(self, config: Mapping[str, Any]) -> str | None:
        """Why the run cannot be continued under `config`, naming the first key that differs; None if it can.

        A group or a parameter that the stored configuration does not know came with a later version, and its default
        does what was done before.
        """
        stored = self.stored()
        if stored is None or self.checkpoint is None:  # a start that failed before its first checkpoint binds nobody
            return None
        old, new = (dict(_flat(_completed(settings))) for settings in (stored, config))
        for key in [*new, *old]:
            free = any(key == name or key.startswith(name + ".") for name in FREE)
            if not free and key.split(".")[0] in stored and old.get(key) != new.get(key):
                return (
                    f"the run in '{self.path}' was made with {key}={_show(old.get(key))}, not {_show(new.get(key))}; "
                    "continue it with that, or use another name, or fresh=true to start again"
                )
        return None

    def write_config(self, config: Mapping[str, Any], fingerprint: str, ended: Mapping[str, Any] | None = None) -> None:
        """Store the configuration and the name of its pictures, whole; `ended`: the settings whose time ran out."""
        stored = {**config, FINGERPRINT: fingerprint, RUN_ID: self.run_id}
        if ended is not None:
            stored[ENDED] = {key: ended[key] for key in ("max_minutes", "max_steps")}
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


def _completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the parameters that the groups leave to their defaults."""
    named = {key: value for key, value in config.items() if key in TABLE and value and value.get("name") in TABLE[key]}
    return {**config, **{group: complete(group, value) for group, value in named.items()}}


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _show(value: Any) -> str:
    return "null" if value is None else str(value)
