"""The linear probe: ½ where nothing tells two sets apart, 1 where something always does, and Gaussians' closed form."""

import math

import pytest
import torch

from cascade.diffusion.augmentation import augment
from cascade.errors import CascadeError
from cascade.evaluation.jackknife import Estimate
from cascade.evaluation.probe import area_under_curve, probe_auc, start_level, told_apart
from cascade.rng import randn
from cascade.trained_levels import levels_of_255, log_snr_of

pytestmark = pytest.mark.usefixtures("one_thread")
STRENGTHS = (0.1, 0.01)


def gaussians(count=200, shift=2.0, deviation=1.0, dim=3):
    """Pictures of one pixel: two Gaussian sets, shifted along the first colour."""
    first, second = (randn("probe test", name, shape=(count, dim)) * deviation for name in "ab")
    first[:, 0] += shift
    return first, second


def gaussian_auc(shift, deviation, log_snr):
    """The AUC of the best probe between N(0, s²) and N(δ, s²) seen as α·x + σ·ε: Φ(αδ/√(2(α²s² + σ²)))."""
    noise = math.exp(-log_snr)  # σ²/α²
    return 0.5 * (1 + math.erf(shift / math.sqrt(2 * (deviation**2 + noise)) / math.sqrt(2)))


def seen(x, log_snr, name):
    level = torch.full((len(x),), float(log_snr))
    return augment(x[:, :, None, None], level, randn("noise", name, shape=(*x.shape, 1, 1))).flatten(1)


def auc_at(log_snr, **about):
    first, second = gaussians(**about)
    return probe_auc(seen(first, log_snr, "a"), seen(second, log_snr, "b"), seed=0, strengths=STRENGTHS)


def test_the_area_is_the_share_of_pairs_by_brute_force():
    a, b = randn("scores", "a", shape=(7,)).round(decimals=1), randn("scores", "b", shape=(5,)).round(decimals=1)
    a[0] = b[0]
    wins = [[(1 if x > y else 0.5 if x == y else 0) for y in b.tolist()] for x in a.tolist()]
    area, of_a, of_b = area_under_curve(a, b)
    assert area == pytest.approx(sum(map(sum, wins)) / 35)
    assert of_a.tolist() == pytest.approx([sum(row) / 5 for row in wins])
    assert of_b.tolist() == pytest.approx([sum(column) / 7 for column in zip(*wins, strict=True)])


def test_two_sets_of_one_distribution_give_a_half_within_the_error():
    aucs = [probe_auc(*gaussians(shift=0.0, dim=40), seed=seed, strengths=STRENGTHS) for seed in range(3)]
    for auc in aucs:
        assert abs(auc.value - 0.5) < 3 * auc.standard_error
        # That of a random score on 200 and 200 pictures is √((n + m + 1)/(12·n·m)).
        assert auc.standard_error == pytest.approx(math.sqrt(401 / 12 / 200**2), rel=0.15)
    first, _ = gaussians(shift=0.0)
    same = probe_auc(first, first.clone(), seed=0, strengths=STRENGTHS)
    assert not told_apart(same)


def test_sets_that_a_plane_parts_give_one():
    auc = probe_auc(*gaussians(shift=30.0), seed=0, strengths=STRENGTHS)
    assert (auc.value, auc.standard_error) == (1.0, 0.0)
    assert told_apart(auc)


@pytest.mark.parametrize("log_snr", [math.inf, 2.0, 0.0, -2.0])
def test_shifted_gaussians_under_noise_have_their_closed_form(log_snr):
    auc = auc_at(log_snr, count=400, shift=1.0)
    exact = gaussian_auc(1.0, 1.0, log_snr)
    assert auc.value == pytest.approx(exact, abs=3 * auc.standard_error)


def test_noise_only_hides():
    levels = [math.inf, 1.0, -1.0, -3.0, -8.0]
    measured = [auc_at(level).value for level in levels]
    assert measured == sorted(measured, reverse=True)
    assert abs(measured[-1] - 0.5) < 0.1


def test_the_start_is_the_least_noise_from_which_on_nothing_is_told_apart():
    known = {inf: Estimate(value) for inf, value in ((math.inf, 1.0), (6.0, 0.5), (4.0, 0.8), (2.0, 0.5), (0.0, 0.49))}
    assert start_level(known) == 2.0, "6 is luck: 4, which is noisier, is told apart"
    assert start_level({3.0: Estimate(0.9)}) is None
    assert start_level({math.inf: Estimate(0.5), 3.0: Estimate(0.5)}) == math.inf, "nothing needs hiding"
    unsure = Estimate(0.6, {"first": torch.tensor([0.1, -0.1], dtype=torch.float64)})
    assert unsure.standard_error == pytest.approx(0.1)
    assert not told_apart(unsure)


@pytest.mark.parametrize("log_snr", [-1.0, 4.0, 8.0])
def test_a_level_in_levels_of_255_is_the_noise_beside_the_picture(log_snr):
    picture = randn("a picture", shape=(1, 3, 64, 64)) / 2
    seen = augment(picture, torch.tensor([log_snr]), randn("its noise", shape=picture.shape))
    noise = 127.5 * (seen / math.sqrt(1 / (1 + math.exp(-log_snr))) - picture)
    assert noise.std().item() == pytest.approx(levels_of_255(log_snr), rel=0.02)
    assert log_snr_of(levels_of_255(log_snr)) == pytest.approx(log_snr)


def test_too_few_pictures_are_refused():
    with pytest.raises(CascadeError, match="too few"):
        probe_auc(torch.zeros(9, 2), torch.zeros(20, 2), seed=0)
    with pytest.raises(CascadeError, match="3 or more"):
        probe_auc(torch.zeros(9, 2), torch.zeros(20, 2), seed=0, folds=2)
