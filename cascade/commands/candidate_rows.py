"""A candidate of `cascade candidates`: trained in a process of its own, judged, and its row kept."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.commands.train_process import train_in_process
from cascade.errors import CascadeError
from cascade.files import write_whole

if TYPE_CHECKING:
    from torch import Tensor

    from cascade.commands.plan_stage import PlannedStage
    from cascade.evaluation.denoising_error import DenoisingError
    from cascade.progress import Bars


_TIMES = 3
"""So often sampling is timed; the least is the network's own."""


@dataclass(frozen=True)
class Row:
    """What is known of a trained candidate.

    losses       of each validation picture, by the loss that is common to all
    thirds       their mean over the noisiest third of the levels, over the middle, and over the cleanest
    images_seen  in training, and the processor's seconds that it took
    parameters   of the network; FLOP of its call for a training crop
    seconds      of sampling one picture at full size by the stage's own grid
    load         of the machine when the training began: programs that wanted to run
    """

    label: str
    settings: Mapping[str, str]
    losses: tuple[float, ...]
    thirds: tuple[float, ...]
    images_seen: int
    cpu_seconds: float
    parameters: int
    flop: int
    seconds: float
    load: float

    @property
    def loss(self) -> float:
        """Their mean."""
        return sum(self.losses) / len(self.losses)

    def beyond(self, other: "Row") -> tuple[float, float]:
        """How much larger its loss is than the other's, and the standard error of that: picture by picture.

        >>> told = dict(label="", settings={}, thirds=())
        >>> common = {**told, **dict(images_seen=1, cpu_seconds=1, parameters=1, flop=1, seconds=1, load=0)}
        >>> Row(losses=(2.0, 5.0), **common).beyond(Row(losses=(1.0, 4.0), **common))
        (1.0, 0.0)
        """
        differences = [a - b for a, b in zip(self.losses, other.losses, strict=True)]
        count = len(differences)
        mean = sum(differences) / count
        variance = sum((d - mean) ** 2 for d in differences) / max(1, count - 1)
        return mean, (variance / count) ** 0.5

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "loss": self.loss}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Row":
        """The row of `to_json`."""
        row = {key: value for key, value in plain.items() if key != "loss"}
        return cls(**{**row, "losses": tuple(row["losses"]), "thirds": tuple(row["thirds"])})


@dataclass(frozen=True)
class Failed:
    """A candidate of which nothing is known, and why in one line."""

    label: str
    settings: Mapping[str, str]
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Candidate:
    """A label and all that `cascade train` is told for it, key by key, but where, and for how long."""

    label: str
    settings: Mapping[str, str]
    out: Path
    minutes: float

    @property
    def name(self) -> str:
        """Of its run, log and row: other settings are another run, more minutes the same one."""
        digest = hashlib.sha256(json.dumps(dict(self.settings), sort_keys=True).encode()).hexdigest()
        return f"{self.label}-{digest[:8]}"

    def words(self) -> list[str]:
        """What `cascade train` is told, whole."""
        own = {"runs": str(self.out / "runs"), "name": self.name, "trainer.max_cpu_minutes": str(self.minutes)}
        return [f"{key}={value}" for key, value in {**self.settings, **own}.items()]

    def config(self) -> dict[str, Any]:
        """The config of its training; raises CascadeError where that is wrong."""
        from cascade.commands.configuration import plain_config
        from cascade.commands.overrides import check

        return plain_config(check("train", self.words()).config)

    def row(self, judge: "DenoisingError", common: Mapping[str, Any], bars: "Bars") -> Row | Failed:
        """The row that is kept where it was made in the same way (`common`: the judge in words), else made now."""
        from cascade.commands.plan_stage import planned_stage

        asked = {"settings": dict(self.settings), "minutes": self.minutes, **common}
        file = self.out / "judged" / f"{self.name}.json"
        if (kept := _read(file, asked)) is not None:
            return kept
        try:
            row = self._make(planned_stage(self.config()), judge, bars)
        except CascadeError as error:
            return Failed(self.label, self.settings, " ".join(str(error).split()))
        write_whole(file, json.dumps({"asked": asked, "row": row.to_json()}, ensure_ascii=False) + "\n")
        return row

    def _make(self, planned: "PlannedStage", judge: "DenoisingError", bars: "Bars") -> Row:
        from cascade.artifact import load_stage
        from cascade.commands.plan_measure import sampling_costs

        load, name, budget = os.getloadavg()[0], f"  {self.label}, CPU seconds", int(60 * self.minutes)
        log = self.out / "runs" / f"{self.name}.log"
        train_in_process(self.words(), log, lambda used: bars.at(name, min(int(used), budget), budget))
        bars.end(name)
        run = self.out / "runs" / self.name / planned.stage.config.name
        stage = load_stage(run)
        losses = judge(stage.denoiser, lambda done: bars.at(f"  {self.label}, judged", done, judge.count, "pictures"))
        bars.end(f"  {self.label}, judged")
        chunk_seconds = min(sampling_costs(planned, lambda *_: None)[0] for _ in range(_TIMES))
        return Row(
            self.label,
            self.settings,
            tuple(losses.mean(1).tolist()),
            thirds(losses, judge.log_snr()),
            images_seen=stage.config.images_seen,
            cpu_seconds=_cpu_seconds(run / "last.ckpt"),
            parameters=planned.crop_cost.parameters,
            flop=planned.crop_cost.flop,
            seconds=chunk_seconds / stage.config.sampling.network_batch,
            load=load,
        )


def thirds(losses: "Tensor", log_snr: "Tensor") -> tuple[float, ...]:
    """The mean of `losses` over each third of the levels `log_snr`, the noisiest first; both of one shape.

    >>> import torch
    >>> thirds(torch.tensor([[5.0, 1.0, 3.0]]), torch.tensor([[9.0, -9.0, 0.0]]))
    (1.0, 3.0, 5.0)
    """
    order = log_snr.flatten().argsort()
    return tuple(float(part.mean()) for part in losses.flatten()[order].tensor_split(3) if len(part))


def _cpu_seconds(checkpoint: Path) -> float:
    import torch

    stored = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return float(stored["callbacks"]["CpuBudget"]["seconds"])


def _read(file: Path, asked: Mapping[str, Any]) -> Row | None:
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        if plain["asked"] != asked:
            return None
        return Row.from_json(plain["row"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
