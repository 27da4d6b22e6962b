"""The settings of a distillation: its rounds, what follows from its teacher, and what is refused. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from cascade.artifact import StageConfig
from cascade.distilled import halvings
from cascade.errors import CascadeError
from cascade.guidance_settings import asks_guides, classifier_free_scale
from cascade.stage_settings import load_sampled_config, refuse_without_none

Config = Mapping[str, Any]

OF_TEACHERS = (
    "network", "classifier", "preconditioning", "loss", "noise", "sampler", "augmentation", "condition",
    "low_res_input", "geometric",
)  # fmt: skip
"""The groups of a training that a student has from its teacher, or that follow from its steps."""


@dataclass(frozen=True)
class Rounds:
    """`teacher_steps` → half of them → ... → `steps`, each round of `length` optimizer steps.

    >>> rounds = Rounds(32, 8, length=10)
    >>> rounds.count, [rounds.at(step) for step in (0, 9, 10, 25)], [rounds.student_steps(n) for n in (0, 1)]
    (2, [0, 0, 1, 1], [16, 8])
    """

    teacher_steps: int
    steps: int
    length: int

    @classmethod
    def of(cls, config: Config) -> Self:
        """Those of a configuration; CascadeError where the one number is not the other halved some times."""
        stage = config["stage"]
        for key in ("teacher_steps", "steps", "round_steps"):
            if stage[key] < 1:
                raise CascadeError(f"stage.{key} must be at least 1, not {stage[key]}")
        halvings(stage["teacher_steps"], stage["steps"])
        return cls(stage["teacher_steps"], stage["steps"], stage["round_steps"])

    @property
    def count(self) -> int:
        """How many rounds there are."""
        return halvings(self.teacher_steps, self.steps)

    @property
    def total(self) -> int:
        """The optimizer steps of all of them."""
        return self.count * self.length

    def at(self, step: int) -> int:
        """The round, from 0, of optimizer step `step`, from 0."""
        return min(step // self.length, self.count - 1)

    def after(self, steps: int) -> int:
        """The round whose student there is after so many optimizer steps."""
        return self.at(max(0, steps - 1))

    def student_steps(self, number: int) -> int:
        """The steps of the student of a round; its teacher has twice as many."""
        return self.teacher_steps >> (number + 1)

    def stride(self, number: int) -> int:
        """Every how many-th level of the first teacher's grid the student of a round meets."""
        return 1 << (number + 1)


def completed(config: Config) -> dict[str, Any]:
    """Return the configuration with what follows from its teacher, if it has one: name, sizes, and the run's length.

    What it does not say of the teacher's sampling is that of its cascade, where it lies in one, else the teacher's own.
    """
    if "teacher" not in config:
        return dict(config)
    teacher, rounds = load_sampled_config(config["teacher"]), Rounds.of(config)
    stage, trainer = config["stage"], config["trainer"]
    sizes = {"resolution": teacher.resolution, "low_resolution": teacher.low_resolution}
    steps = rounds.total if trainer["max_steps"] is None else trainer["max_steps"]
    groups = ("threshold",) if teacher.distilled else ("grid", "guidance", "threshold")
    return {
        **{group: dict(getattr(teacher.sampling, group)) for group in groups},
        **config,
        "stage": {**stage, **sizes, "name": teacher.name if stage["name"] is None else stage["name"]},
        "trainer": {**trainer, "max_steps": steps},
    }


def check_student(config: Config) -> None:
    """Refuse what a distillation cannot have, each in one line."""
    teacher, rounds = load_sampled_config(config["teacher"]), Rounds.of(config)
    for group in OF_TEACHERS:
        if group in config:
            hint = " (debug=fast chooses one, debug=fast_distill does not)" if group == "network" else ""
            raise CascadeError(f"a student has its teacher's {group}, or none; leave {group} out{hint}")
    if config["init"] is not None:
        raise CascadeError("a student begins with its teacher's weights; leave init out")
    if config["trainer"]["max_steps"] > rounds.total:
        raise CascadeError(
            f"trainer.max_steps={config['trainer']['max_steps']} is more than the {rounds.count} rounds of "
            f"stage.round_steps={rounds.length}"
        )
    if config["ema"]["name"] == "power_pair":
        raise CascadeError(
            "ema=power_pair keeps snapshots of one training, and a distillation is several; say ema=exponential_short"
        )
    guidance = config.get("guidance", teacher.sampling.guidance)
    if asks_guides(guidance):
        raise CascadeError(
            "a teacher is guided by itself here, and not by another model; say guidance=classifier_free, or none"
        )
    if classifier_free_scale(guidance) != 1:
        refuse_without_none(teacher, "classifier-free guidance", "say guidance=none")
    if config["stage"]["label_dropout"]:
        refuse_without_none(teacher, "a picture without its label", "say stage.label_dropout=0")
    _check_distilled_teacher(config, teacher)


def _check_distilled_teacher(config: Config, teacher: StageConfig) -> None:
    if teacher.distilled is None:
        return
    for group in ("grid", "guidance"):
        if group in config:
            raise CascadeError(f"teacher={config['teacher']} was distilled and has its own {group}; leave {group} out")
    if config["stage"]["teacher_steps"] != teacher.distilled.steps:
        raise CascadeError(
            f"teacher={config['teacher']} was distilled to {teacher.distilled.steps} steps; say "
            f"stage.teacher_steps={teacher.distilled.steps}"
        )
