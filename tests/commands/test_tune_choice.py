"""What `cascade tune` chooses: nothing of values that are alike, and what is better on both halves of the pictures."""

import pytest
import torch

from cascade.commands.tune_choice import Judged, choose, judge
from cascade.commands.tune_judge import halves_of
from cascade.evaluation.jackknife import Estimate
from cascade.evaluation.kernel import kernel_estimate
from cascade.evaluation.measurement import Measurement
from cascade.evaluation.spectrum import RadialSpectrum
from cascade.rng import randn

pytestmark = pytest.mark.usefixtures("one_thread")
SPECTRUM = RadialSpectrum(*torch.ones(3, 4, dtype=torch.float64), count=60)


def at(value, choosing, confirming=None, error=0.1):
    """A value of these distances, whose errors have nothing to do with those of other values."""
    moved = error * torch.tensor([1.0, -1.0], dtype=torch.float64)
    halves = [Estimate(distance, {str(value): moved}) for distance in (choosing, confirming or choosing)]
    assert halves[0].standard_error == pytest.approx(error)
    return Judged({"steps": value}, value, *halves, None, None, 1.0, None)


def test_the_half_that_did_not_choose_decides():
    now = at(3.0, 2.0)
    assert choose("aug_level", [at(4.0, 1.8), at(5.0, 2.5)], now).best is None, "0.2 < 2·√2·0.1"
    clear, luck = at(4.0, 1.5), at(5.0, 1.0, 1.8)
    assert choose("aug_level", [clear], now).best is clear
    assert choose("aug_level", [clear, luck], now).best is None, "the half that chose is not believed"
    better, unsure = at(6.0, 1.4), at(7.0, 1.0, error=1.0)
    assert choose("aug_level", [clear, unsure, better], now).best is better, "what lies nearer is not sure to"
    assert "did not choose" in choose("aug_level", [luck], now).why
    assert choose("aug_level", [at(4.0, 2.1, 1.0)], now).why == "no gain: nothing looks better"
    assert choose("aug_level", [], now).why == "no gain: no other value could be measured"


def test_the_fewest_steps_within_one_error_of_the_best_are_taken():
    now = at(16, 1.0)
    few, enough, more = at(4, 2.0), at(8, 1.1), at(32, 0.95)
    assert choose("steps", [few, enough, more], now).best is enough
    assert choose("steps", [few, more], now).best is None
    assert choose("steps", [few, at(8, 1.2)], now).best is None, "0.2 > √2·0.1"
    assert choose("steps", [few, at(8, 1.1, 1.2)], now).best is None, "the other half finds them worse"
    needed = at(32, 0.5)
    assert choose("steps", [few, needed], now).best is needed
    assert choose("steps", [few, at(12, 1.05), enough], now).best is enough
    spared = at(24, 0.6)
    assert choose("steps", [few, needed, spared], now).best is spared, "as good as what is better"


def test_the_halves_share_no_photograph_and_have_as_many_of_each_class():
    classes = [*"aaaaaaa", *"bbbb", *"ccccc", None]
    chosen = set()
    for seed in range(5):
        first, second = (half.tolist() for half in halves_of(classes, seed))
        assert sorted(first + second) == list(range(len(classes)))
        for name in {*classes}:
            counts = [sum(classes[place] == name for place in half) for half in (first, second)]
            assert abs(counts[0] - counts[1]) <= 1, name
        chosen.add(tuple(first))
    assert len(chosen) > 1


def test_values_that_are_alike_are_no_gain_and_a_shift_is_found():
    photographs = Measurement(randn("photographs", shape=(60, 8)), SPECTRUM, 8)
    halves = torch.arange(60).tensor_split(2)

    def judged(shift, trial, value):
        made = randn("made", trial, shape=(60, 8)) + 0.05 * randn("of it", trial, value, shape=(60, 8)) + shift
        return judge({}, value, made=(Measurement(made, SPECTRUM, 8), None), photographs=photographs, halves=halves,
                     neighbours=3)  # fmt: skip

    gains = 0
    for trial in range(10):
        choice = choose("aug_level", [judged(0.3, trial, v) for v in range(1, 6)], judged(0.3, trial, 0))
        gains += choice.best is not None
    assert gains <= 1, "each of five is beyond two errors by luck one time in forty, and then must be confirmed"
    patches = (
        torch.cat([photographs.features, photographs.features + 1]).reshape(2, 60, 8).transpose(0, 1).flatten(0, 1)
    )
    shown = judge({}, 0, made=(Measurement(patches + 0.1, SPECTRUM, 8), None), halves=halves, neighbours=3,
                  photographs=Measurement(patches, SPECTRUM, 8))  # fmt: skip
    expected = kernel_estimate(patches[:60] + 0.1, patches[:60], ("a", "b"), group=2)
    assert shown.choosing.value == pytest.approx(expected.value, rel=1e-6), "the patches of a picture stay together"
    assert shown.choosing.standard_error == pytest.approx(expected.standard_error, rel=1e-6)
    better = judged(0.1, 0, 1)
    assert choose("aug_level", [better, judged(0.6, 0, 2)], judged(0.4, 0, 0)).best is better
    assert better.precision == pytest.approx(better.recall, abs=0.5)
