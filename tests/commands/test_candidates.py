"""`cascade candidates`: one loss judges all, what is there is not made again, and a failure stops nobody else."""

import json
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from cascade.commands.candidate_rows import Candidate, Row
from cascade.commands.candidates import FIGURE, REPORT
from cascade.commands.candidates_figure import draw_candidates
from cascade.commands.command_line import main
from cascade.commands.configuration import plain_config
from cascade.commands.overrides import check
from cascade.commands.train_process import train_in_process
from cascade.errors import CascadeError
from stages.run import train

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = [
    "stage=base64", "stage.resolution=16", "data.size=6", "data.val_size=6", "trainer.max_steps=2", "trainer.batch=2",
    "minutes=1", "levels=2", "grid.n=2", "guidance=none",
]  # fmt: skip
OF = [
    "candidates.of.efficient_base64=network=tiny",
    "candidates.of.v=network=tiny preconditioning=v weighting=v",
    "candidates.of.dit=network=tiny network.no_such_key=1",
    "only=[efficient_base64,v,dit]",
]


def candidates(out, *words, instead=None):
    """Run it; the trainings in this process, which has imported everything already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cascade.commands.candidate_rows.train_in_process", instead or here_instead)
        return main(["candidates", f"out={out}", *OF, *SMALL, *words])


def here_instead(words, log, tell):
    train(plain_config(check("train", words).config), lambda line: None)


def row(label="a", losses=(1.0, 2.0), images=100, seconds=0.5):
    return Row(label, {}, losses, (1.0, 2.0, 3.0), images, 60.0, 1000, 10**9, seconds, 0.1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("candidates") / "out"
    assert candidates(out) == 0
    return out


def test_each_has_its_loss_its_price_and_a_failure_its_reason(made):
    report = json.loads((made / REPORT).read_text())
    one, two, failed = report["candidates"]
    assert [c["label"] for c in (one, two, failed)] == ["efficient_base64", "v", "dit"]
    assert "no_such_key" in failed["reason"]
    assert "\n" not in failed["reason"]
    for candidate in (one, two):
        assert len(candidate["losses"]) == 6
        assert sum(candidate["thirds"]) == pytest.approx(3 * candidate["loss"]), "12 levels, four a third"
        assert candidate["images_seen"] == 4
        assert candidate["cpu_seconds"] > 0
        assert candidate["seconds"] > 0
        assert candidate["parameters"] > 1000
    assert one["loss"] != two["loss"]
    assert report["judge"]["noise"]["p_mean"] == -0.8, "the stage's own, whatever a candidate trains by"
    with Image.open(made / FIGURE) as image:
        assert image.text["Software"] == "cascade"


def test_a_rerun_makes_only_what_is_missing(made):
    trained = []

    def noted(words, log, tell):
        trained.append(next(word for word in words if word.startswith("name=")))
        here_instead(words, log, tell)

    before = json.loads((made / REPORT).read_text())
    assert candidates(made, instead=noted) == 0
    assert trained == []
    assert json.loads((made / REPORT).read_text()) == before
    (lost,) = (made / "judged").glob("v-*.json")
    lost.unlink()
    assert candidates(made, instead=noted) == 0
    assert [name.split("-")[0] for name in trained] == ["name=v"]
    after = json.loads((made / REPORT).read_text())
    assert [c.get("losses") for c in after["candidates"]] == [c.get("losses") for c in before["candidates"]]
    assert after["candidates"][1]["cpu_seconds"] == before["candidates"][1]["cpu_seconds"], "the run was finished"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["only=[v]", "weighting=v"], "is what varies here"),
        (["only=[dti]"], "unknown candidate 'dti'"),
        (["only=[]"], "name one or more, each once"),
        (["only=[v,v]"], "name one or more, each once"),
        (["candidates.each='trainer.batch=\"4'"], "candidates.each="),
        (["minutes=0"], "must be above 0"),
        (["levels=0"], "must be at least 1"),
        (["name=mine"], "this command's to choose"),
        (["data=cache", "data.root=nowhere"], "does not exist"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(here, capsys, words, message):
    small = [word for word in SMALL if word.split("=")[0] not in {w.split("=")[0] for w in words}]
    small = [word for word in small if "data=cache" not in words or not word.startswith("data.")]
    assert main(["candidates", "out=o", *small, *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (here / "o").exists()


def test_other_settings_are_another_run_and_more_minutes_the_same_one(tmp_path):
    one = Candidate("a", {"network": "dit"}, tmp_path, 1.0)
    assert one.name == Candidate("a", {"network": "dit"}, tmp_path, 2.0).name
    assert one.name != Candidate("a", {"network": "uvit"}, tmp_path, 1.0).name
    assert "trainer.max_cpu_minutes=1.0" in one.words()


def test_differences_are_taken_picture_by_picture():
    difference, error = row(losses=(11.0, 1.0, 6.0)).beyond(row(losses=(10.0, 0.0, 5.0)))
    assert (difference, error) == (1, 0), "however much the pictures differ among each other"
    difference, error = row(losses=(1.0, 3.0)).beyond(row(losses=(0.0, 0.0)))
    assert (difference, error) == (2, pytest.approx(1.0))


def test_the_same_rows_are_the_same_figure():
    rows = [row(), row("b", (3.0, 5.0), 200, 0.7)]
    assert draw_candidates(rows, "title") == draw_candidates(rows, "title")
    assert draw_candidates(rows, "title") != draw_candidates(rows[::-1], "title")


def test_a_training_that_fails_gives_its_own_line(tmp_path):
    with pytest.raises(CascadeError, match=r"^unknown network 'dti'"):
        train_in_process(["network=dti"], tmp_path / "log", lambda _: None)


def test_a_training_ends_with_the_process_that_wanted_it(tmp_path):
    """Killed outright, that process can tell it nothing; the training saves a checkpoint nevertheless."""
    words = ["data.size=6", "stage.resolution=16", "network=tiny", "trainer.batch=2", "trainer.workers=0",
             "trainer.validation_images=0", "trainer.sample_every=0", f"runs={tmp_path}", "name=a"]  # fmt: skip
    code = f"""
from pathlib import Path
from cascade.commands.train_process import train_in_process
train_in_process({words!r}, Path({str(tmp_path / "log")!r}), print)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    metrics, checkpoint = tmp_path / "a" / "base64" / "metrics.csv", tmp_path / "a" / "base64" / "last.ckpt"
    until = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < until:
        time.sleep(0.1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while not checkpoint.exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert checkpoint.exists()
