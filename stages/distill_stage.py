"""Progressive distillation: round by round a student of half its teacher's steps, which begins with its weights.

Salimans & Ho 2022, "Progressive Distillation", algorithm 2.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cascade.diffusion import Condition, Denoiser
from cascade.diffusion.distillation import DistillationLoss
from cascade.diffusion.noise import NoiseDistribution
from cascade.diffusion.weighting import Weighting
from stages.after_step import AfterStep
from stages.base_stage import BaseStage
from stages.diffusion_stage import Batch, DiffusionStage, Recipe
from stages.distill_settings import Rounds
from stages.super_resolution_stage import SuperResolutionStage


@dataclass(frozen=True, eq=False)
class Course:
    """All rounds of a distillation.

    grid       the first teacher's levels, (N+1,) float64
    guided     the first teacher's guidance and threshold, around its denoiser, and the known pixels where it keeps them
    plain      the same without guidance, of the teachers after it, which have the guidance in their weights
    weighting  that of a round, for the levels of its student
    """

    rounds: Rounds
    grid: Tensor
    guided: Callable[[Denoiser], Denoiser]
    plain: Callable[[Denoiser], Denoiser]
    weighting: Callable[[NoiseDistribution], Weighting]

    def loss(self, number: int, teacher: Denoiser) -> DistillationLoss:
        """The loss of a round."""
        wrap = self.plain if number else self.guided
        return DistillationLoss(wrap(teacher), self.grid[:: self.rounds.stride(number) // 2])


class DistillStage(DiffusionStage):
    """Trains a student by DDIM steps of its teacher, two for one of its own, from its teacher's weights on.

    When a round ends, the average of its student becomes the next teacher and the next student, and optimizer, rate
    and average begin anew. The teacher is in the checkpoints: a run goes on in the middle of a round. A subclass is
    also a stage of the kind that is distilled, which shows the student what it shows any denoiser.
    """

    def __init__(self, denoiser: nn.Module, recipe: Recipe, shown: Any, course: Course) -> None:
        super().__init__(denoiser, recipe, shown)  # type: ignore[call-arg]  # of the other class beside this one
        self.course = course
        self.teacher = copy.deepcopy(self.average)
        self.register_buffer("round", torch.zeros((), dtype=torch.int64))
        self._enter(0)

    def _enter(self, number: int) -> None:
        self.loss = loss = self.course.loss(number, self.teacher)
        self.recipe = replace(self.recipe, noise=loss.noise, weighting=self.course.weighting(loss.noise))
        self.round.fill_(number)

    def on_train_start(self) -> None:
        """Enter the round that a checkpoint was of."""
        self._enter(int(self.round))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Begin the next round where the last has ended."""
        number = self.course.rounds.at(self.global_step)
        if number == int(self.round):
            return
        for module in (self.teacher, self.denoiser):
            module.load_state_dict(self.average.state_dict())
        for optimizer in self.trainer.optimizers:
            optimizer.state.clear()
        self._enter(number)

    def place(self, step: int) -> int:
        """The step within its round."""
        return step - self.course.rounds.at(step) * self.course.rounds.length

    def plain_loss(self, x: Tensor, log_snr: Tensor, eps: Tensor, condition: Condition) -> Tensor:
        """The loss of the averaged student against its teacher, (B,)."""
        return self.loss(self.average, x, log_snr, eps, condition, self.recipe.weighting)

    def train(self, mode: bool = True) -> "DistillStage":
        """Training mode for the student only."""
        super().train(mode)
        self.teacher.eval()
        return self

    def take_metrics(self) -> dict[str, float]:
        """The metrics of every stage, and how many steps the student has."""
        return {**super().take_metrics(), "train/student_steps": self.course.rounds.student_steps(int(self.round))}


class DistilledBase(DistillStage, BaseStage):
    """A student of a base stage."""


class DistilledSuperResolution(DistillStage, SuperResolutionStage):
    """A student of a super-resolution stage."""


class ExportRounds(AfterStep):
    """Calls `export(step, folder)` when a round but the last has ended: its student goes to `students/STEPS`.

    It comes after the checkpoint of the same step, as `ExportBest` does, and makes up for what was not done.
    """

    def __init__(self, rounds: Rounds, export: Callable[[int, str], None]) -> None:
        self.rounds, self.export = rounds, export

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make up for what the last process did not come to do."""
        super().on_train_start(trainer, pl_module)
        self.after_step(trainer, pl_module, trainer.global_step)

    def after_step(self, trainer: Any, stage: Any, step: int) -> None:  # noqa: ARG002
        """Export the student of a round that has ended."""
        if 0 < step < self.rounds.total and step % self.rounds.length == 0:
            self.export(step, f"students/{self.rounds.student_steps(self.rounds.after(step))}")
