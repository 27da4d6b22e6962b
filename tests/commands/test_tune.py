"""`cascade tune`: what is alike is no gain, what is better is found and recorded, and only what is missing is made."""

import json
import math
import shutil

import pytest
import torch
import yaml
from PIL import Image

from cascade.artifact import load_cascade_config, load_chain
from cascade.commands import tune
from cascade.commands.command_line import main
from cascade.commands.swept_points import measured
from cascade.commands.tune import FIGURE, REPORT
from cascade.commands.tune_choice import Choice
from cascade.commands.tune_jobs import folder_of
from cascade.commands.tune_points import in_words, tried_values, tuned_keys, values_in
from cascade.commands.tune_written import record
from cascade.errors import CascadeError
from cascade.evaluation.measured_pieces import from_bytes
from tests.conftest import small_stage

pytestmark = pytest.mark.usefixtures("one_thread")
ASKED = [
    "stage=sr16", "over=aug_level,steps", "values.aug_level=[0,6]", "values.steps=[2]", "num_images=8",
    "data.val_size=8", "features=tiny",
]  # fmt: skip


@pytest.fixture(scope="module")
def unlabelled(make_cascade, tmp_path_factory):
    """A cascade without classes, so that any pictures are those of its kind."""
    stages = [small_stage("tiny8", 8, chunk=4, class_names=()), small_stage("sr16", 16, 8, class_names=())]
    return make_cascade(tmp_path_factory.mktemp("unlabelled") / "cascade", stages)


@pytest.fixture(scope="module")
def tuned(unlabelled, tmp_path_factory):
    """A sweep in which the job of one value fails."""
    out = tmp_path_factory.mktemp("tune") / "out"

    def fails_at_6(point, *args, **kwargs):
        if point.varied.get("aug_level") == 6.0:
            raise RuntimeError("the machine\nis on fire")
        return measured(point, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cascade.commands.tune_jobs.measured", fails_at_6)
        assert main(["tune", f"cascade={unlabelled}", f"out={out}", *ASKED]) == 0
    return out


def test_a_failed_job_is_listed_and_a_rerun_makes_only_it(tuned, unlabelled, monkeypatch, capsys):
    report = json.loads((tuned / REPORT).read_text())
    levels, steps = report["rounds"]
    assert levels["failed"] == [{"value": 6.0, "reason": "the machine is on fire"}]
    assert [row["value"] for row in levels["tried"]] == [0.0]
    assert (levels["present"]["value"], steps["present"]["value"]) == (3.0, 3)
    assert [row["value"] for row in steps["tried"]] == [2]
    assert report["num_images"] == 8
    assert report["reference"]["data"]["split"] == "val"
    with Image.open(tuned / FIGURE) as image:
        assert image.width == 1200
    made, threads = [], []

    def noted(point, *args, **kwargs):
        made.append(point.varied)
        threads.append(torch.get_num_threads())
        return measured(point, *args, **kwargs)

    monkeypatch.setattr("cascade.commands.tune_jobs.measured", noted)
    torch.set_num_threads(2)  # as another machine would: a job's figures are those of its own number of threads
    assert main(["tune", f"cascade={unlabelled}", f"out={tuned}", *ASKED]) == 0
    assert set(threads) == {1}
    assert {"aug_level": 6.0} in made
    again = json.loads((tuned / REPORT).read_text())
    assert again["rounds"][0]["failed"] == []
    assert again["rounds"][0]["tried"][0] == levels["tried"][0]
    assert "noise of 28 levels of 255 (λ = 3)" in capsys.readouterr().out
    monkeypatch.setattr("cascade.commands.tune_jobs.measured", None)  # all is there
    assert main(["tune", f"cascade={unlabelled}", f"out={tuned}", *ASKED]) == 0
    assert json.loads((tuned / REPORT).read_text()) == again


def test_a_job_that_takes_its_launcher_along_takes_no_other(monkeypatch):
    done, failed, launched = [], {}, []
    monkeypatch.setattr(tune, "result_of", lambda plain, values: {} if values in done else None)
    monkeypatch.setattr(tune, "failure_of", lambda plain, values: failed.get(in_words(values)))
    monkeypatch.setattr(tune, "forget_failure", lambda plain, values: failed.pop(in_words(values), None))
    monkeypatch.setattr(tune, "note_failure", lambda plain, values, why: failed.update({in_words(values): why}))

    def launch(overrides):
        (words,) = overrides
        points = [values_in(word) for word in words.removeprefix("point='").removesuffix("'").split("','")]
        launched.append(len(points))
        for values in points:
            if values["aug_level"] == 2.0:
                raise MemoryError("the worker was killed")
            done.append(values)

    points = [{"aug_level": level} for level in (1.0, 2.0, 3.0)]
    tune._make({}, points, launch)
    assert done == [points[0], points[2]]
    assert failed == {"aug_level=2.0": "MemoryError: the worker was killed"}
    assert launched == [3, 1, 1], "all, then each that is left alone"
    with pytest.raises(KeyboardInterrupt):
        tune._make({}, points, lambda _: (_ for _ in ()).throw(KeyboardInterrupt))


def test_one_point_by_hand_is_a_job_of_the_sweep(unlabelled, tmp_path, capsys):
    asked = [*ASKED, f"cascade={unlabelled}", f"out={tmp_path / 'out'}"]
    assert main(["tune", *asked, "point=aug_level=0"]) == 0
    (whole,) = (tmp_path / "out" / "points").glob("*/measured.safetensors")
    assert main(["tune", *asked, "point=aug_level=0", "patches.side=4", "patches.each=3"]) == 0
    (patches,) = set((tmp_path / "out" / "points").glob("*/measured.safetensors")) - {whole}
    rows = [len(from_bytes(file.read_bytes()).features) for file in (whole, patches)]
    assert rows == [8, 3 * 8], "of more than twice a patch's side patches are judged"
    short = ["num_images=6", "data.val_size=7", "over=steps", "values.steps=[2]", "patches.side=4", "features=tiny"]
    assert main(["tune", "stage=sr16", f"cascade={unlabelled}", f"out={tmp_path / 'out'}", *short]) == 0
    report = json.loads((tmp_path / "out" / REPORT).read_text())
    assert (report["distance"], report["reference"]["count"]) == ("patch-KID-tiny", 6)
    said = whole.with_name("result.json")
    said.write_text("{}")
    assert main(["tune", *asked, "point=aug_level=0"]) == 0
    assert "seconds" in json.loads(said.read_text()), "what is damaged is made again"
    assert main(["tune", *asked, "point=aug_level=7"]) == 2
    assert "was not trained" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["stage=sr61"], "did you mean 'sr16'?"),
        (["stage=sr16", "over=aug_levle"], "did you mean 'aug_level'?"),
        (["stage=sr16", "over=steps,steps"], "named twice"),
        (["stage=tiny8", "over=aug_level"], "is a base stage"),
        (["stage=sr32", "over=guidance_scale"], "has no classes"),
        (["stage=sr16", "sr16.steps=3"], "is what varies here"),
        (["stage=sr16", "values.aug_level=[9]"], "was not trained"),
        (["stage=sr16", "values.steps=[3]"], "name one that the stage does not have already"),
        (["stage=sr16", "values.steps=[2,2]"], "name each once"),
        (["stage=sr16", "num_images=5"], "at least 6"),
        (["stage=sr16", "threads=null"], "would leave the number, and the last bits, to each machine"),
        (["stage=sr16", "write=true", "tiny8.steps=2"], "give no STAGE.key=... beside"),
        (["stage=sr16", "hydra/launcher=jobilb"], "did you mean 'joblib'?"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(small_cascade, here, capsys, settings, message):
    assert main(["tune", f"cascade={small_cascade}", "out=o", "features=tiny", *settings]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (here / "o").exists()


def test_what_a_stage_has_is_tuned(small_cascade):
    configs = {config.name: config for config in load_chain(small_cascade)}
    keys = {name: tuned_keys(None, config, config.sampling) for name, config in configs.items()}
    assert keys == {
        "tiny8": ["guidance_scale", "steps"],
        "sr16": ["aug_level", "guidance_scale", "steps"],
        "sr32": ["aug_level", "steps"],
    }
    sr16 = configs["sr16"]
    assert tried_values("aug_level", {}, sr16, sr16.sampling) == [6.0, 5.0, 4.0, 2.0, 1.0, 0.0], "without its own 3"
    assert tried_values("steps", {}, sr16, sr16.sampling) == [1, 6]
    values = {"aug_level": math.inf, "guidance_scale": 1.25, "steps": 8}
    assert values_in(in_words(values)) == values
    with pytest.raises(CascadeError, match="must be a number"):
        values_in("steps=many")


def test_a_gain_is_written_into_the_cascade_and_sampled_from_then_on(tuned, unlabelled, tmp_path, monkeypatch, capsys):
    cascade, out = shutil.copytree(unlabelled, tmp_path / "cascade"), shutil.copytree(tuned, tmp_path / "out")
    forced = lambda key, judged, present: Choice(judged[0], "forced")  # noqa: E731
    monkeypatch.setattr("cascade.commands.tune_choice.choose", forced)
    asked = [word for word in ASKED if not word.startswith(("over=", "values."))]
    asked += ["over=aug_level", "values.aug_level=[0]", f"out={out}", f"cascade={cascade}"]
    assert main(["tune", *asked]) == 0
    assert "write=true records it" in capsys.readouterr().out
    assert load_cascade_config(cascade).tuned == {}
    assert main(["tune", *asked, "write=true"]) == 0
    assert "recorded in cascade.yaml" in capsys.readouterr().out
    written = load_cascade_config(cascade)
    assert written.stages[1][1].aug_log_snr == 0.0
    evidence = written.tuned["sr16"]["aug_log_snr"]
    assert (evidence["before"], evidence["levels_of_255"]) == (3.0, 127.5)
    assert evidence["gain"]["confirming"]["standard_error"] > 0
    assert evidence["judged_by"]["photographs"] == 8
    assert evidence["command"].startswith("cascade tune ")


def test_what_is_wrong_with_the_photographs_is_said_before_anything_is_sampled(
    small_cascade, here, monkeypatch, capsys
):
    monkeypatch.setattr("cascade.stage_sampler.StageSampler.run", None)
    for place in ("requests", "commands.tune_jobs"):
        monkeypatch.setattr(f"cascade.{place}.is_missing", lambda kind: kind == "cuda")
    asked = ["stage=sr16", f"cascade={small_cascade}", "out=o", "features=tiny", "num_images=8", "device=cuda"]
    assert main(["tune", *asked]) == 2
    assert "'cuda' is not available here" in capsys.readouterr().err
    assert main(["tune", *asked, "hydra/launcher=basic"]) == 2, "one whose jobs may run where there is a GPU"
    assert "the cascade knows other classes than the data" in capsys.readouterr().err


def test_the_weights_of_a_guide_are_among_what_a_point_depends_on(unlabelled, tmp_path):
    guide = shutil.copytree(unlabelled / "sr16", tmp_path / "weak")
    asked = {"cascade": str(unlabelled), "stage": "sr16", "out": str(tmp_path), "patches": {"side": 128, "each": 1}}
    asked |= dict.fromkeys(("first_seed", "num_images", "features", "device", "precision", "threads"))
    asked["per_stage"] = {"sr16": {"guidance": {"name": "autoguidance", "scale": 2.0, "weak": str(guide)}}}
    before = folder_of(asked, {})
    (guide / "manifest.json").write_text("{}")
    assert folder_of(asked, {}) != before


def test_what_is_found_is_recorded_with_its_evidence(unlabelled, tmp_path):
    cascade = shutil.copytree(unlabelled, tmp_path / "cascade")
    before = load_cascade_config(cascade)
    assert "tuned" not in yaml.safe_load((cascade / "cascade.yaml").read_text())
    evidence = {"aug_log_snr": {"before": 3.0, "now": 5.0}}
    record(str(cascade), "sr16", {"aug_level": 5.0, "steps": 2}, evidence)
    after = load_cascade_config(cascade)
    assert after.tuned == {"sr16": evidence}
    assert after.stages[0] == before.stages[0]
    sampling = after.stages[1][1]
    assert (sampling.aug_log_snr, sampling.grid["n"]) == (5.0, 2)
    load_chain(cascade)
    steps = {"steps": {"before": 2, "now": 3}}
    record(str(cascade), "sr16", {"steps": 3}, steps)
    assert load_cascade_config(cascade).tuned == {"sr16": evidence | steps}, "what was found before is still known"
    (cascade / "cascade.yaml").write_text((cascade / "cascade.yaml").read_text().replace("tuned:", "tuend:"))
    with pytest.raises(CascadeError, match="expected the keys"):
        load_cascade_config(cascade)
    damaged = yaml.safe_load((cascade / "cascade.yaml").read_text())
    del damaged["tuend"]
    (cascade / "cascade.yaml").write_text(yaml.safe_dump({**damaged, "tuned": {"sr16": 3}}))
    with pytest.raises(CascadeError, match="must be a mapping of stages to their settings"):
        load_cascade_config(cascade)
