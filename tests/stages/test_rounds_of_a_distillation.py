"""What happens between two rounds, by the smallest denoiser that learns."""

import pytest
import torch

from cascade.diffusion import Posterior
from cascade.diffusion.weighting import UnitWeighting
from stages.distill_assembly import STILL
from stages.distill_settings import Rounds
from stages.distill_stage import Course, DistilledBase

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

GRID = torch.tensor([-4.0, -1.0, 1.0, 4.0, torch.inf], dtype=torch.float64)


def named(name, called):
    """A wrapper that tells by which name its teacher was called, and at which levels."""

    def wrap(denoiser):
        def call(x_t, log_snr, condition):
            called.append((name, sorted(set(log_snr.tolist()))))
            return Posterior((2 if name == "guided" else 1) * denoiser(x_t, log_snr, condition).mean)

        return call

    return wrap


def made(scale, recipe, called, length, **changes):
    course = Course(Rounds(4, 1, length), GRID, named("guided", called), named("plain", called), UnitWeighting)
    return DistilledBase(scale(), recipe(total_steps=length, label_dropout=0.0, **changes), STILL, course)


def test_the_average_of_a_student_teaches_the_next_and_the_optimizer_begins_anew(scale, recipe, batch, fit):
    called = []
    adam = lambda parameters: torch.optim.Adam(parameters, lr=0.05)  # noqa: E731
    stage = made(scale, recipe, called, length=3, optimizer=adam, warmup_steps=2)
    history = fit(stage, [batch(step) for step in range(5)])
    # Two calls a step: at student's levels and between them; only the first teacher is guided.
    assert [name for name, _ in called] == ["guided"] * 6 + ["plain"] * 4
    assert called[0][1] == [-4.0, 1.0]
    assert called[1][1] == [-1.0, 4.0]
    assert [levels for _, levels in called[6:8]] == [[-4.0], [1.0]]
    assert stage.teacher.weight.item() == history.averages[2]
    assert history.averages[2] != history.weights[2]
    assert [round(rate / 0.05, 6) for rate in history.rates] == [0.5, 1, 1, 0.5, 1]
    state = stage.trainer.optimizers[0].state[stage.denoiser.weight]
    assert int(state["step"]) == 2
    assert int(stage.round) == 1
    # Adam's first step is its whole rate, from the average on.
    assert abs(abs(history.weights[3] - history.averages[2]) - 0.025) < 1e-6


def test_pieces_of_a_batch_are_the_batch_across_rounds(scale, recipe, batch, fit):
    whole, pieces = (made(scale, recipe, [], length=1) for _ in range(2))
    fit(whole, [batch(step) for step in range(2)])
    fit(pieces, [batch(step, range(i, i + 2)) for step in range(2) for i in (0, 2)], accumulate=2)
    assert torch.allclose(whole.denoiser.weight, pieces.denoiser.weight, rtol=0, atol=1e-12)
    assert whole.teacher.weight.item() != 0.5
    assert torch.allclose(whole.teacher.weight, pieces.teacher.weight, rtol=0, atol=1e-12)


def test_what_is_validated_is_the_average_against_its_teacher(scale, recipe, batch):
    stage = made(scale, recipe, [], length=3)
    stage.average.weight.data.fill_(0.7)
    stage.denoiser.weight.data.fill_(100.0)
    pictures = batch() | {"log_snr": torch.tensor([-4.0, 1.0, -4.0, 1.0])}
    log_snr, terms = stage.validation_terms(pictures)
    draws = stage._draws(-1, pictures)
    x, condition = stage.validation_examples(pictures, draws)
    eps = draws.normal("eps", (3, 4, 4)).double()
    student = lambda x_t, level, condition: Posterior(0.7 * x_t)  # noqa: E731
    expected = stage.loss(student, x, log_snr, eps, condition, stage.recipe.weighting)
    assert torch.allclose(terms["loss"], expected)
    assert torch.allclose(terms["eps_mse"], expected)
