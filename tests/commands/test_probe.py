"""`cascade probe`: a row for each level with its error, the same classes on both sides, and nothing sampled twice."""

import json
import math

import pytest
from PIL import Image

from cascade.commands.command_line import main
from cascade.commands.probe import FIGURE, REPORT, matched
from cascade.commands.probe_figure import draw_probe
from cascade.evaluation.jackknife import Estimate
from tests.conftest import small_stage

pytestmark = pytest.mark.usefixtures("one_thread")
ASKED = ["stage=sr16", "num_images=9", "data.val_size=8", "features=tiny", "folds=3", "levels=[0,6,3]"]


@pytest.fixture(scope="module")
def unlabelled(make_cascade, tmp_path_factory):
    """A cascade without classes, so that any pictures are those of its kind."""
    stages = [small_stage("tiny8", 8, chunk=4, class_names=()), small_stage("sr16", 16, 8, class_names=())]
    return make_cascade(tmp_path_factory.mktemp("unlabelled") / "cascade", stages)


def test_every_level_has_its_auc_and_a_rerun_samples_nothing(unlabelled, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert main(["probe", f"cascade={unlabelled}", f"out={out}", *ASKED]) == 0
    report = json.loads((out / REPORT).read_text())
    assert report["num_images"] == 8, "as many as there are on both sides"
    assert [row["aug_log_snr"] for row in report["levels"]] == [6.0, 3.0, 0.0]
    assert [row["levels_of_255"] for row in report["levels"]] == pytest.approx([6.35, 28.4, 127.5], abs=0.05)
    assert all(0 <= row["auc"] <= 1 for row in report["levels"])
    assert report["in_the_cascade"] == 3.0
    assert "noise of 28 levels of 255 (λ = 3)" in capsys.readouterr().out
    with Image.open(out / FIGURE) as image:
        assert image.width == 1200
    monkeypatch.setattr("cascade.stage_sampler.StageSampler.run", None)  # nothing may be sampled
    assert main(["probe", f"cascade={unlabelled}", f"out={out}", *ASKED]) == 0
    assert json.loads((out / REPORT).read_text()) == report


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["stage=sr61"], "did you mean 'sr16'?"),
        (["stage=tiny8"], "comes first"),
        (["stage=sr16", "levels=[9]"], "was not trained; choose a log-SNR from 0 to 6: 128 to 6.3 levels of 255"),
        (["stage=sr16", "levels=[3,3]"], "each once"),
        (["stage=sr16", "folds=2"], "at least 3"),
        (["stage=sr16", "sr16.steps=3"], "stage 'sr16' does not run here"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(small_cascade, here, capsys, settings, message):
    assert main(["probe", f"cascade={small_cascade}", "out=o", "features=tiny", *settings]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (here / "o").exists()


def test_both_sides_have_as_many_of_each_class():
    ours, theirs = ["a", "b", "a", "b", "a"], ["a", "c", "b", "b", "b", "a"]
    mine, others = matched(ours, theirs)
    assert sorted(ours[i] for i in mine) == sorted(theirs[i] for i in others) == ["a", "a", "b", "b"]


def test_the_same_curve_is_the_same_figure():
    aucs = {math.inf: Estimate(1.0), 3.0: Estimate(0.5)}
    drawn = draw_probe(aucs, 3.0, math.inf, "tiny", "title")
    assert drawn == draw_probe(aucs, 3.0, math.inf, "tiny", "title")
    assert drawn != draw_probe(aucs, None, math.inf, "tiny", "title")
