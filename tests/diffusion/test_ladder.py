"""A ladder of levels: a probability for each, its quantile function, and weightings by the same measure."""

import math
from statistics import NormalDist

import pytest
import torch
from torch.testing import assert_close

from cascade.diffusion import (
    CosineSchedule,
    EDMWeighting,
    ELBOWeighting,
    LadderNoise,
    LogNormalNoise,
    MinSNRWeighting,
    P2Weighting,
    ScheduleNoise,
    SigmoidWeighting,
    SimpleWeighting,
    TruncatedSNRWeighting,
    VWeighting,
    X0Weighting,
)
from cascade.errors import CascadeError
from cascade.registry import build

UNEVEN = (0.0, 3.0, 1.0, 0.0, 2.0, 0.0)
LADDERS = [
    LadderNoise(),
    LadderNoise(0.01, 1.0, 10),
    LadderNoise(0.05, 2.0, 6, UNEVEN),
    LadderNoise(0.5, 0.6, 2, (1.0, 3.0)),
]
each = pytest.mark.parametrize("noise", LADDERS, ids=["NCSN v2", "NCSN", "uneven", "two"])


def test_sigma_falls_geometrically_and_the_defaults_are_ncsns():
    sigma = (-LADDERS[1].log_snrs / 2).exp()
    assert_close(sigma[[0, -1]], torch.tensor([1.0, 0.01], dtype=torch.float64))
    assert_close(sigma[1:] / sigma[:-1], torch.full((9,), 0.01 ** (1 / 9), dtype=torch.float64))
    levels = LadderNoise().log_snrs
    assert (len(levels), *(-levels[[0, -1]] / 2).exp().tolist()) == pytest.approx((232, 50, 0.01))
    # Song & Ermon 2020, technique 2: neighbouring shells of 3,072 dimensions overlap by a half at this ratio.
    ratio = float(((levels[1] - levels[0]) / 2).exp())
    overlap = NormalDist().cdf(math.sqrt(2 * 3072) * (ratio - 1) + 3 * ratio) - NormalDist().cdf(
        math.sqrt(2 * 3072) * (ratio - 1) - 3 * ratio
    )
    assert overlap == pytest.approx(0.5, abs=0.1)


@each
def test_probabilities_add_up_to_one_and_are_those_given(noise):
    mass = noise.log_density(noise.log_snrs).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-12)
    given = torch.tensor(noise.probabilities or [1.0] * noise.levels, dtype=torch.float64)
    assert_close(mass, given / given.sum())


@each
def test_between_the_levels_there_is_nothing(noise):
    levels = noise.log_snrs
    middle, low, high = (levels[1:] + levels[:-1]) / 2, levels[:1] - 0.1, levels[-1:] + 0.1
    off = torch.cat([middle, low, high, levels + 2e-4, levels - 2e-4])
    assert bool((noise.log_density(off) == -math.inf).all())
    # A float32 λ is still its level, whichever way it was rounded.
    assert_close(noise.log_density(levels.float()).double(), noise.log_density(levels), rtol=1e-6, atol=1e-6)
    assert torch.equal(noise.log_density(levels + 5e-5), noise.log_density(levels))
    assert torch.equal(noise.log_density(levels - 5e-5), noise.log_density(levels))


@each
def test_every_level_is_drawn_as_often_as_its_probability_says(noise):
    # The quantile function is a staircase: the length of each stair, exactly to the resolution of the uniform numbers.
    count = 60_000
    drawn = noise.icdf((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    assert bool((drawn.diff() >= 0).all())
    share = torch.stack([(drawn == level).double().mean() for level in noise.log_snrs])
    assert_close(share, noise.masses, rtol=0, atol=2 / count)


@each
def test_ends_are_levels_that_have_a_probability(noise):
    for dtype in (torch.float32, torch.float64):
        drawn = noise.icdf(torch.tensor([0.0, 2**-24, 1 - 2**-24, 1.0], dtype=dtype))
        assert drawn.dtype == dtype
        assert bool(noise.log_density(drawn).isfinite().all())


MAKERS = [SimpleWeighting, MinSNRWeighting, VWeighting, X0Weighting, TruncatedSNRWeighting, P2Weighting, EDMWeighting]


@pytest.mark.parametrize("make", MAKERS)
def test_the_objective_does_not_depend_on_the_probabilities_it_is_drawn_by(make):
    reference = LadderNoise(0.05, 2.0, 6, (1.0, 3.0, 1.0, 0.0, 2.0, 5.0))
    own = make(reference, reference=reference)
    error = torch.linspace(1, 2, 6, dtype=torch.float64).square()  # any errors will do
    sums = []
    for noise in (LadderNoise(0.05, 2.0, 6), LadderNoise(0.05, 2.0, 6, (9.0, 1.0, 2.0, 2.0, 0.5, 0.1)), reference):
        weighting = make(noise, reference=reference)
        mass, ratio = noise.masses, weighting.log_ratio(noise.log_snrs).exp()
        sums.append(float((mass * ratio * error)[mass > 0].sum()))
    expected = float((reference.masses * own.log_ratio(reference.log_snrs).exp() * error).sum())
    assert sums == pytest.approx([expected] * 3, rel=1e-10)


@pytest.mark.parametrize("make", [ELBOWeighting, SigmoidWeighting])
def test_an_absolute_weight_is_a_sum_over_the_levels(make):
    error = torch.linspace(1, 2, 6, dtype=torch.float64)
    sums = []
    for probabilities in (None, (9.0, 1.0, 2.0, 2.0, 0.5, 0.1)):
        noise = LadderNoise(0.05, 2.0, 6, probabilities)
        sums.append(float((noise.masses * make(noise).log_ratio(noise.log_snrs).exp() * error).sum()))
    weight = torch.ones(6) if make is ELBOWeighting else (-noise.log_snrs).sigmoid()
    assert sums == pytest.approx([float((weight * error).sum())] * 2, rel=1e-10)


@pytest.mark.parametrize("make", MAKERS)
def test_a_density_against_probabilities_is_refused(make):
    ladder, cosine = LadderNoise(), ScheduleNoise(CosineSchedule())
    for noise, reference in ((ladder, cosine), (cosine, ladder)):
        with pytest.raises(ValueError, match="must both be ladders, or neither"):
            make(noise, reference=reference)
    make(ladder, reference=LadderNoise(levels=9))
    make(cosine, reference=LogNormalNoise())


def test_edms_own_reference_is_no_ladder():
    with pytest.raises(CascadeError, match=r"weighting .edm.: .* both be ladders"):
        build("weighting", {"name": "edm", "reference": None}, noise=LadderNoise())


def test_the_registry_builds_it():
    noise = build("noise", {"name": "ladder", "sigma_max": 1.0, "levels": 2, "probabilities": [1, 3]})
    assert noise.masses.tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    "make",
    [
        lambda: LadderNoise(sigma_min=0.0),
        lambda: LadderNoise(sigma_min=2.0, sigma_max=1.0),
        lambda: LadderNoise(sigma_max=math.inf),
        lambda: LadderNoise(levels=1),
        lambda: LadderNoise(0.1, 0.1001, 10),
        lambda: LadderNoise(levels=3, probabilities=(1.0, 1.0)),
        lambda: LadderNoise(levels=2, probabilities=(0.0, 0.0)),
        lambda: LadderNoise(levels=2, probabilities=(1.0, -0.1)),
        lambda: LadderNoise(levels=2, probabilities=(1.0, math.nan)),
    ],
)
def test_impossible_numbers_are_refused_in_one_line(make):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        make()
