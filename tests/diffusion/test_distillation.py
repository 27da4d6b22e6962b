"""A student's target is what two DDIM steps of its teacher do, and one that has learned it samples what they sample."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cascade import rng
from cascade.diffusion import (
    Condition,
    CosineSchedule,
    EDMPreconditioning,
    GaussianDenoiser,
    LogNormalNoise,
    MinSNRWeighting,
    MixtureDenoiser,
    Posterior,
    SimpleWeighting,
    TruncatedSNRWeighting,
    VWeighting,
    X0Preconditioning,
    diffuse,
    diffusion_loss,
)
from cascade.diffusion.distillation import DistillationLoss, ddim_step, two_step_mean, two_step_target
from cascade.diffusion.ladder import GridNoise
from cascade.sampling import DDIM, ClassifierFree, StaticThreshold
from cascade.sampling.grid import karras, strided, uniform_t
from cascade.sampling.transition import transitions

MEANS = torch.tensor([[-1.2, 0.3], [0.9, 0.8], [0.4, -1.1]], dtype=torch.float64)
SPREADS = torch.stack(
    [torch.diag(torch.tensor(v, dtype=torch.float64)) for v in ([0.02, 0.1], [0.1, 0.05], [0.3, 0.02])]
)
MIXTURE = MixtureDenoiser(torch.tensor([0.3, 0.5, 0.2]), MEANS, SPREADS)
GAUSSIAN = GaussianDenoiser(MEANS[0], torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64))
GUIDED = ClassifierFree(MIXTURE, 2.5)
TEACHERS = {"Gaussian": GAUSSIAN, "mixture": MIXTURE, "guided": GUIDED, "thresholded": StaticThreshold(GUIDED)}
LEVELS = [(-18.0, -6.0, -3.0), (-6.0, -5.0, -4.5), (-2.0, 0.5, 3.0), (1.0, 6.0, 15.0), (-8.0, 0.0, math.inf)]
CONDITION = Condition(label=torch.tensor([0, 1, 2, 0, 1]))
NO_NOISE = lambda step, draw=0: None  # noqa: E731


def noise(*names, count=5):
    return rng.randn("distillation", *names, shape=(count, 2)).double()


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("name", TEACHERS)
def test_the_target_is_the_papers_and_one_step_to_it_lands_where_two_land(name, levels):
    """Salimans & Ho 2022, appendix G: x̃ = (x_s − (σs/σt)·x_t)/(αs − (σs/σt)·αt), to 1e-12."""
    grid = torch.tensor(levels, dtype=torch.float64)
    alpha, sigma = grid.sigmoid().sqrt(), (-grid).sigmoid().sqrt()
    x_t = alpha[0] * MEANS[CONDITION.label] + sigma[0] * noise(name)
    t, m, s = (level.expand(5) for level in grid)
    x_s = DDIM()(TEACHERS[name], x_t, grid, CONDITION, NO_NOISE)
    target = two_step_target(TEACHERS[name], x_t, t, m, s, CONDITION)
    ratio = sigma[2] / sigma[0]
    assert_close(target, (x_s - ratio * x_t) / (alpha[2] - ratio * alpha[0]), rtol=1e-12, atol=1e-12)
    assert_close(ddim_step(x_t, target, t, s), x_s, rtol=1e-12, atol=1e-12)
    student = lambda x, level, condition: Posterior(target)  # noqa: E731
    assert_close(DDIM()(student, x_t, grid[[0, 2]], CONDITION, NO_NOISE), x_s, rtol=1e-12, atol=1e-12)


def test_the_target_is_a_mean_of_the_two_predictions_and_exact_on_short_steps():
    first, second = noise("first").float(), noise("second").float()
    for levels in LEVELS:
        given = [torch.full((5,), level) for level in levels]
        weight = two_step_mean(torch.zeros(5, 2), torch.ones(5, 2), *given)
        assert bool(((weight > 0) & (weight <= 1)).all())
        assert_close(two_step_mean(first, second, *given), first + weight * (second - first))
    # Half way in the clock of a short step the two count alike; float32 has no digit left for a difference of levels.
    short = [torch.full((5,), level) for level in (2.0, 2.0 + 2**-12, 2.0 + 2**-11)]
    assert_close(two_step_mean(first, second, *short), (first + second) / 2, rtol=1e-3, atol=1e-3)


def test_each_picture_steps_between_levels_of_its_own():
    x_t, mean = noise("x"), noise("mean")
    t, s = torch.tensor([-9.0, -3.0, 0.0, 4.0, 1.0]).double(), torch.tensor([-3.0, -1.0, 0.5, 9.0, math.inf]).double()
    made = ddim_step(x_t, mean, t, s)
    for i in range(5):
        (step,) = transitions(torch.stack([t[i], s[i]]))
        assert_close(made[i], step.flow(x_t[i], mean[i]), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", TEACHERS)
def test_exact_students_of_students_make_in_one_step_what_the_first_teacher_makes_in_eight(name):
    grid = uniform_t(CosineSchedule(-12.0, 12.0), 8)

    def student_of(teacher, levels):
        def student(x, level, condition):
            place = 2 * int((levels[:-1:2] - level[0]).abs().argmin())
            given = [levels[place + i].expand(len(x)) for i in range(3)]
            return Posterior(two_step_target(teacher, x, *given, condition))

        return student

    x = noise("start", name)
    expected = DDIM()(TEACHERS[name], x, grid, CONDITION, NO_NOISE)
    teacher, levels = TEACHERS[name], grid
    for steps in (4, 2, 1):
        teacher, levels = student_of(teacher, levels), strided(levels, 2)
        assert len(levels) == steps + 1
        made = DDIM()(teacher, x, levels, CONDITION, NO_NOISE)
        assert_close(made, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("weighting", "weight"),
    [
        (TruncatedSNRWeighting, lambda snr: snr.clamp(min=1)),
        (VWeighting, lambda snr: snr + 1),
        (SimpleWeighting, lambda snr: snr),
    ],
)
def test_the_weightings_are_the_papers_on_the_picture(weighting, weight):
    grid = torch.tensor([-4.0, -1.0, 0.5, 2.0, 5.0, 8.0, math.inf], dtype=torch.float64)
    loss = DistillationLoss(MIXTURE, grid)
    assert loss.noise == GridNoise((-4.0, 0.5, 5.0))
    x, eps, places = noise("x"), noise("eps"), torch.tensor([0, 1, 2, 1, 0])
    student = lambda x_t, level, condition: Posterior(0.5 * x_t + level[:, None])  # noqa: E731
    level = loss.noise.log_snrs[places]
    given = loss(student, x, level, eps, CONDITION, weighting(loss.noise))
    x_t = diffuse(x, eps, level)
    between, after = grid[2 * places + 1], grid[2 * places + 2]
    target = two_step_target(MIXTURE, x_t, level, between, after, CONDITION)
    expected = weight(level.exp()) * (target - 0.5 * x_t - level[:, None]).square().mean(1)
    assert_close(given, expected, rtol=1e-12, atol=0)


def test_a_level_that_float32_has_rounded_is_still_its_place():
    grid = uniform_t(CosineSchedule(), 8)
    loss, x = DistillationLoss(GAUSSIAN, grid), noise("x").float()
    level = loss.noise.icdf(torch.tensor([0.0, 0.3, 0.6, 0.9, 0.99]))
    assert loss.noise.nearest(level).tolist() == [0, 1, 2, 3, 3]
    assert bool(loss(GAUSSIAN, x, level, x, Condition(), VWeighting(loss.noise)).isfinite().all())


def test_the_teacher_is_not_taught():
    teacher, student = nn.Linear(2, 2).double(), nn.Linear(2, 2).double()
    as_denoiser = lambda module: lambda x, level, condition: Posterior(module(x))  # noqa: E731
    loss = DistillationLoss(as_denoiser(teacher), torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64))
    level = torch.full((5,), -2.0).double()
    loss(as_denoiser(student), noise("x"), level, noise("eps"), Condition(), VWeighting(loss.noise)).sum().backward()
    assert teacher.weight.grad is None
    assert bool((student.weight.grad != 0).any())


# On the 2-D mixture, by networks


class Points(nn.Module):
    """A small network of points in the plane, told their component if it is one of `classes` (−1: none)."""

    def __init__(self, width=96, classes=0):
        super().__init__()
        self.classes = classes
        self.layers = nn.Sequential(
            nn.Linear(2 + 9 + classes, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2)
        )

    def forward(self, x, log_snr, label=None, **condition):
        place = 2 / math.pi * (-log_snr / 2).exp().atan()
        waves = [f(math.pi * k * place) for k in (1, 2, 4, 8) for f in (torch.sin, torch.cos)]
        told = [(label[:, None] == torch.arange(self.classes)).to(x)] if self.classes else []
        return self.layers(torch.cat([x, place[:, None], torch.stack(waves, 1), *told], 1))


def _fit(denoiser, loss, weighting, steps, name, lr, unlabelled=0.0):
    """Adam, the rate falling to 0; that share of the points is not told its component."""
    optimizer = torch.optim.Adam(denoiser.parameters(), lr)
    generator = rng.generator("points", name)
    axes = SPREADS.sqrt().float()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        component = torch.multinomial(torch.tensor([0.3, 0.5, 0.2]), 512, replacement=True, generator=generator)
        x = MEANS.float()[component] + torch.einsum(
            "bij,bj->bi", axes[component], torch.randn(512, 2, generator=generator)
        )
        u = (torch.arange(512) + torch.rand(512, generator=generator)) / 512
        level, eps = weighting.noise.icdf(u), torch.randn(512, 2, generator=generator)
        label = torch.where(torch.rand(512, generator=generator) < unlabelled, -1, component)
        optimizer.zero_grad()
        loss(denoiser, x, level, eps, Condition(label), weighting).mean().backward()
        optimizer.step()


@pytest.mark.usefixtures("one_thread")
def test_students_on_the_mixture_stay_near_their_teachers():
    """16 → 8 → 4 → 2 → 1 steps: a student is within 0.1 (of data of standard deviation 1.3) of its teacher.

    Less than 0.3 of what that teacher loses with as few steps as its student; and one step of the last student is
    within 0.2 of sixteen steps of the first teacher, which loses 0.9 and more with one of its own.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = EDMPreconditioning(Points(), sigma_data=1.0)
    _fit(teacher, diffusion_loss, VWeighting(LogNormalNoise(p_mean=-0.5, p_std=1.5)), 1500, "teacher", 3e-3)
    grid = uniform_t(CosineSchedule(-10.0, 10.0), 16)
    first, x = teacher, noise("start", count=2000).float()
    sample = lambda denoiser, levels: DDIM()(denoiser, x, levels, Condition(), NO_NOISE)  # noqa: E731
    with torch.no_grad():
        away = lambda a, b: float((a - b).square().sum(1).mean().sqrt())  # noqa: E731
        for number in range(4):
            levels = strided(grid, 2**number)
            loss = DistillationLoss(teacher, levels)
            student = copy.deepcopy(teacher)
            with torch.enable_grad():
                _fit(student, loss, TruncatedSNRWeighting(loss.noise), 600, number, 1e-3)
            truth, few = sample(teacher, levels), strided(levels, 2)
            distance, lost = away(sample(student, few), truth), away(sample(teacher, few), truth)
            assert distance < 0.1
            assert distance < 0.3 * lost
            teacher = student
        one, truth = strided(grid, 16), sample(first, grid)
        assert away(sample(teacher, one), truth) < 0.2
        assert away(sample(first, one), truth) > 0.9


@pytest.mark.usefixtures("one_thread")
def test_a_student_of_a_guided_teacher_that_predicts_points_needs_a_weight_with_a_bound():
    """16 → 8 steps from σ = 80 to 0.002, guided at scale 2: within 0.02, and less than a third of what no bound leaves.

    Min-SNR's weight on x̂ is the SNR itself up to γ, and so nothing where a walk of few steps is decided.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = X0Preconditioning(Points(classes=3))
    _fit(teacher, diffusion_loss, MinSNRWeighting(LogNormalNoise(-0.5, 1.5)), 800, "x0", 3e-3, unlabelled=0.2)
    guided, grid = ClassifierFree(teacher, 2.0), karras(16, 7.0, 0.002, 80.0)
    x, condition = noise("start", count=2000).float(), Condition(torch.arange(2000) % 3)
    loss, distance = DistillationLoss(guided, grid), {}
    with torch.no_grad():
        truth = DDIM()(guided, x, grid, condition, NO_NOISE)
    for gamma in (5.0, math.inf):
        student = copy.deepcopy(teacher)
        _fit(student, loss, TruncatedSNRWeighting(loss.noise, gamma=gamma), 300, "student", 1e-3)
        with torch.no_grad():
            made = DDIM()(student, x, strided(grid, 2), condition, NO_NOISE)
        distance[gamma] = float((made - truth).square().sum(1).mean().sqrt())
    assert distance[5.0] < 0.02
    assert distance[5.0] < distance[math.inf] / 3
