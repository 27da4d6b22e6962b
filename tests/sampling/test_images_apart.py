"""An image is the same alone, among others and in a padded batch; levels and numbers keep their precision."""

import math
from dataclasses import replace

import pytest
import torch

from cascade.diffusion import Condition, Posterior
from cascade.errors import CascadeError
from cascade.rng import ImageNoise
from cascade.sampling import (
    DDIM,
    Ancestral,
    AnnealedLangevin,
    ClassifierFree,
    DPMSolver,
    DPMSolverPP,
    DPMSolverPPSingle,
    DynamicThreshold,
    EulerMaruyama,
    Heun,
    Interval,
    PredictorCorrector,
    ProbabilityFlow,
    SDEDPMSolverPP,
    karras,
)

F64 = torch.float64
SHAPE = (3, 4, 4)
SAMPLERS = [
    Ancestral("small"),
    Ancestral("large"),
    Ancestral("learned"),
    DDIM(),
    DDIM(0.5),
    DPMSolver(3),
    DPMSolverPP(),
    DPMSolverPP(3),
    DPMSolverPPSingle(3),
    SDEDPMSolverPP(),
    Heun(9.0),
    EulerMaruyama(),
    ProbabilityFlow(1),
    PredictorCorrector(),
    AnnealedLangevin(2, 1e-10),
]

each_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=str)


def elementwise(x_t, log_snr, condition):
    """Not exact for any data, but a function of each image alone whose bits do not depend on the batch."""
    level, label = log_snr.reshape(-1, 1, 1, 1), condition.label.reshape(-1, 1, 1, 1)
    mean = 2 / (1 + x_t.square()) * x_t + 0.3 * label - level / 20
    return Posterior(mean, variance_fraction=x_t / (1 + x_t.square()))


WRAPPED = DynamicThreshold(Interval(ClassifierFree(elementwise, 3.0), elementwise, -3.0, 4.0), 0.9)


def sample(sampler, seeds, labels):
    noise = ImageNoise(seeds, "stage", SHAPE)
    return sampler(WRAPPED, noise(-1), karras(5), Condition(label=torch.tensor(labels)), noise)


@each_sampler
def test_an_image_is_the_same_alone_among_others_and_padded(sampler):
    three = sample(sampler, [7, 8, 9], [0, 1, 2])
    assert torch.equal(sample(sampler, [8], [1])[0], three[1])
    assert torch.equal(sample(sampler, [9, 7], [2, 0]), three[[2, 0]])
    assert torch.equal(sample(sampler, [7, 8, 9, 0, 0, 0, 0, 0], [0, 1, 2, 0, 0, 0, 0, 0])[:3], three)
    assert not torch.equal(three[0], three[1])


@each_sampler
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_samples_keep_the_dtype_and_are_near_the_float64_ones(sampler, dtype):
    def run(dtype):
        noise = ImageNoise([1, 2], "stage", SHAPE, dtype=dtype)
        grid = torch.tensor([-20.0, -3.0, 0.0, 3.0, 20.0, math.inf], dtype=F64)
        return sampler(WRAPPED, noise(-1), grid, Condition(label=torch.tensor([0, 1])), noise)

    assert run(dtype).dtype == dtype
    torch.testing.assert_close(run(dtype).to(F64), run(F64), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    ("dtype", "told"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (F64, F64)]
)
@each_sampler
def test_levels_are_told_to_each_image_and_never_in_half_precision(sampler, dtype, told):
    grid = torch.tensor([-3.1, 0.1, 3.1, math.inf], dtype=F64)
    seen = []

    def denoiser(x_t, log_snr, condition):
        assert log_snr.shape == (2,)
        assert log_snr.dtype == told
        seen.append(log_snr[0].item())
        return Posterior(x_t.to(told), variance_fraction=torch.zeros_like(x_t))

    sampler = replace(sampler, s_churn=0.0) if isinstance(sampler, Heun) else sampler
    noise = ImageNoise([1, 2], "stage", SHAPE, dtype=dtype)
    sampler(denoiser, noise(-1), grid, Condition(), noise)
    levels = grid.to(told).tolist()
    if isinstance(sampler, Heun):
        assert seen == [*levels[:2], levels[1], levels[2], levels[2]]
    else:
        # Levels inside a step are not the grid's.
        assert [level for level in dict.fromkeys(seen) if level in levels] == levels[:3]


@pytest.mark.parametrize(("variance", "says"), [("learned", "predicts"), ("optimal", "covariance")])
def test_a_variance_that_the_denoiser_does_not_give_is_refused(variance, says):
    noise = ImageNoise([1], "stage", SHAPE)
    denoiser = lambda x_t, log_snr, condition: Posterior(x_t)  # noqa: E731
    with pytest.raises(CascadeError, match=says):
        Ancestral(variance)(denoiser, noise(-1), karras(3), Condition(), noise)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Ancestral("smal"), "did you mean 'small'"),
        (lambda: DDIM(1.5), "eta"),
        (lambda: DDIM(math.nan), "eta"),
        (lambda: DPMSolver(0), "order"),
        (lambda: DPMSolver(4), "order"),
        (lambda: DPMSolverPPSingle(4), "order"),
        (lambda: SDEDPMSolverPP(3), "order"),
        (lambda: SDEDPMSolverPP(eta=-0.1), "eta"),
        (lambda: SDEDPMSolverPP(eta=math.inf), "eta"),
        (lambda: SDEDPMSolverPP(eta=1e30), "must be from 0 to 100"),
        (lambda: SDEDPMSolverPP(eta=math.nan), "eta"),
        (lambda: DPMSolverPP(0), "order"),
        (lambda: DPMSolverPP(4), "order"),
        (lambda: Heun(s_churn=-1.0), "s_churn"),
        (lambda: Heun(s_noise=math.inf), "s_noise"),
        (lambda: Heun(s_min=2.0, s_max=1.0), "s_min"),
    ],
)
def test_wrong_parameters_are_refused(make, says):
    with pytest.raises(CascadeError, match=says):
        make()
