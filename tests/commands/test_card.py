"""`cascade card`: every figure of the card is that of the command beside it."""

import json
import shlex

import pytest

from cascade.commands.card import _recipe
from cascade.commands.card_text import _stage, card_text
from cascade.commands.command_line import main
from cascade.data.procedural import ProceduralDataset
from tests.conftest import small_stage

pytestmark = pytest.mark.usefixtures("one_thread")
DATA = ["data.size=18", "data.val_size=18", "features=tiny"]
ASKED = [*DATA, "num_images=12", "cas.folds=2"]


@pytest.fixture(scope="module")
def cascade(make_cascade, tmp_path_factory):
    """8 and 16 px, of the classes of the drawn pictures."""
    classes = tuple(ProceduralDataset.class_names)
    stages = [small_stage("tiny8", 8, chunk=4, class_names=classes), small_stage("sr16", 16, 8, class_names=())]
    return make_cascade(tmp_path_factory.mktemp("card") / "cascade", stages)


@pytest.fixture(scope="module")
def steps(cascade, tmp_path_factory):
    out = tmp_path_factory.mktemp("steps")
    words = ["stage=tiny8", "samplers=[ddim]", "steps=[2,3]", "num_images=6", *DATA]
    assert main(["steps", f"cascade={cascade}", f"out={out}", *words]) == 0
    return out / "steps.json"


METRICS = """step,train/cpu_hours,train/images_seen,train/loss,val/loss
50,0.25,400,0.9,
75,,,,0.7
100,0.5,800,0.5,0.6
"""


def test_a_guide_stands_in_the_recipe():
    rows = _recipe("clothes")
    (guide,) = rows[0]["guides"]
    assert (guide["name"], guide["images_seen"]) == ("base64_classifier", 80_000)
    assert guide["bytes"] == pytest.approx(2 * guide["parameters"], rel=0.01), "bf16"
    assert _stage(rows[0])[-2] == "sde_dpm_solver_pp, 32 steps, guidance classifier_around 8 (classifier_free 4)"
    assert _stage(rows[1])[-2] == "sde_dpm_solver_pp, 8 steps, noise of 1.4 levels of 255 (λ = 9)"


@pytest.fixture(scope="module")
def made(cascade, steps, tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    (out / "tiny8.csv").write_text(METRICS)
    (out / "tiny8.2.csv").write_text(METRICS.replace("0.6", "0.4"))
    (out / "data.md").write_text("Drawn pictures, free of rights.")
    (out / "limits.md").write_text("It has learnt nothing.")
    texts = [f"about={out / 'data.md'}", f"limits={out / 'limits.md'}", f"reports=[{steps}]", "sr16.steps=2"]
    curves = f"curves=[{out / 'tiny8.csv'},{out / 'tiny8.2.csv'}]"
    assert main(["card", f"cascade={cascade}", f"out={out / 'card'}", *ASKED, *texts, curves]) == 0
    return out / "card"


def report(folder, name="card.json"):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_it_tells_recipe_data_figures_steps_and_limits(made):
    text, said = (made / "card.md").read_text(encoding="utf-8"), report(made)
    for words in ("Drawn pictures, free of rights.", "It has learnt nothing.", "noise → 8 px", "8 → 16 px", "## Recipe",
                  "neighbours-8.png", "neighbours-16.png", "floor: KID-tiny", "ddim", "colour shift red"):  # fmt: skip
        assert words in text
    assert [row["name"] for row in said["recipe"]] == ["tiny8", "sr16"]
    assert (made / "neighbours-16.png").exists()
    after_base = {figure["name"] for figure in said["evaluations"]["tiny8"]["figures"]}
    after_both = {figure["name"] for figure in said["evaluations"]["sr16"]["figures"]}
    assert {"low-res RMS", "colour shift red"} <= after_both - after_base


def test_the_reports_of_other_commands_stand_there_with_their_commands(made, cascade, tmp_path):
    words = [f"cascade={cascade}", *DATA]
    of_sr = [*words, "stage=sr16", "num_images=18"]
    assert main(["probe", *of_sr, "levels=[4,2]", "folds=3", f"out={tmp_path / 'probe'}"]) == 0
    assert main(["tune", *of_sr, "over=steps", "values.steps=[2]", "neighbours=1", f"out={tmp_path / 'tune'}"]) == 0
    gap = ["report=gap", "gap.num_images=6", "stages=2", "batch=3"]
    assert main(["evaluate", *words, *gap, f"out={tmp_path / 'gap'}"]) == 0
    candidates = {
        "made_by": "cascade candidates", "stage": "sr16", "minutes": 10.0, "judge": {"pictures": 2},
        "command": "cascade candidates stage=sr16", "candidates": [
            row("wide", [3.0, 4.0], network="a"), row("deep", [1.0, 2.0], network="b"),
            {"label": "odd", "settings": {}, "reason": "too odd"},
        ],
    }  # fmt: skip
    (tmp_path / "candidates.json").write_text(json.dumps(candidates))
    files = [
        tmp_path / name for name in ("probe/probe.json", "tune/tune.json", "gap/evaluation.json", "candidates.json")
    ]
    out, short = tmp_path / "card", ["stages=[1]", "metrics=[distances]", "num_images=6"]
    assert main(["card", *words, *short, f"out={out}", f"reports=[{','.join(map(str, files))}]"]) == 0
    text, said = (out / "card.md").read_text(encoding="utf-8"), report(out)["reports"]
    probe, tune, gap = said[:3]
    assert f"| {probe['levels'][1]['auc']:.4f} |" in text
    assert f"steps: {tune['rounds'][0]['why']}." in text
    assert gap["gap"]["sentence"] in text
    for one in said:
        assert one["command"].split(" out=")[0].split()[1] in text
    assert "batch=" not in gap["command"]
    assert "out=" not in gap["command"]
    deep, wide = (line for line in text.splitlines() if line.startswith(("| wide", "| deep")))
    assert deep == "| deep | `network=b` | 1.5000 |  | 8 | 2.00 M | 1.00 | 0.5 |"
    assert wide == "| wide | `network=a` | 3.5000 | 2.0000 ± 0.0000 | 8 | 2.00 M | 1.00 | 0.5 |"
    assert "All of them: `trainer.batch=8`." in text
    assert "odd failed: too odd" in text


def row(label, losses, **settings):
    return {
        "label": label, "settings": {"trainer.batch": "8", **settings}, "losses": losses, "loss": sum(losses) / 2,
        "thirds": [1, 1, 1], "images_seen": 8, "cpu_seconds": 600.0, "parameters": 2_000_000, "flop": 1_000_000_000,
        "seconds": 0.5, "load": 0.1,
    }  # fmt: skip


def test_of_a_student_its_steps_are_said(made):
    said = report(made)
    assert "distilled to" not in card_text(said)
    said["recipe"][0]["distilled"] = {"steps": 4, "teacher": "ab12", "guidance": {"name": "none"}}
    assert "| ddim, distilled to 4 steps" in card_text(said)


def test_what_was_tuned_stands_there_with_its_evidence_and_the_gap_with_its_sentence(made):
    said = report(made)
    assert said["tuned"] == {}
    evidence = {
        "before": 3.0, "now": "inf", "gain": {"confirming": {"value": 0.25, "standard_error": 0.1}},
        "judged_by": {"distance": "KID", "pictures": 400, "photographs": 50}, "command": "cascade tune stage=sr16",
    }  # fmt: skip
    said["tuned"] = {"sr16": {"aug_log_snr": evidence, "steps": {"by": "hand"}}}
    said["evaluations"]["sr16"]["gap"] = {"sentence": "sr16 loses most."}
    text = card_text(said)
    cells = ("sr16", "aug_log_snr", "3.0", "inf", "0.2500", "0.1000", "KID, 400 pictures, 50 photographs")
    assert f"| {' | '.join(cells)} | `cascade tune stage=sr16` |" in text
    assert "hand" not in text
    assert "\nsr16 loses most.\n" in text


def test_the_curves_are_those_of_the_training(made):
    first, second = report(made)["curves"]
    assert first == {
        "stage": "tiny8", "images_seen": 800, "cpu_hours": 0.5, "best_validation_loss": 0.6,
        "loss": [[400, 0.9], [800, 0.5]], "validation": [[600, 0.7], [800, 0.6]],
    }  # fmt: skip
    assert second == first | {"best_validation_loss": 0.4, "validation": [[600, 0.7], [800, 0.4]]}
    assert "| tiny8 | 800 | 0.5 | 0.6000 |\n| tiny8 | 800 | 0.5 | 0.4000 |" in (made / "card.md").read_text(
        encoding="utf-8"
    )
    assert (made / "curves.png").exists()


@pytest.mark.parametrize("stage", ["tiny8", "sr16"])
def test_the_command_beside_the_figures_makes_them_again(made, stage, tmp_path):
    evaluation = report(made)["evaluations"][stage]
    program, command, *words = shlex.split(evaluation["command"])
    assert (program, command) == ("cascade", "evaluate")
    assert main([command, *(word for word in words if not word.startswith("out=")), f"out={tmp_path}"]) == 0
    assert report(tmp_path, "evaluation.json")["figures"] == evaluation["figures"]


def test_the_command_of_the_steps_makes_them_again(made, tmp_path):
    (steps,) = report(made)["reports"]
    program, command, *words = shlex.split(steps["command"])
    assert (program, command) == ("cascade", "steps")
    words = [word for word in words if not word.startswith("out=")]
    assert main([command, *words, f"out={tmp_path}"]) == 0
    again = report(tmp_path, "steps.json")["points"]
    assert [point["distance"] for point in again] == [point["distance"] for point in steps["points"]]


def test_a_rerun_samples_nothing_and_says_the_same(made, cascade, steps, monkeypatch):
    before = report(made)
    monkeypatch.setattr("cascade.stage_sampler.StageSampler.run", None)
    texts = [f"about={made.parent / 'data.md'}", f"limits={made.parent / 'limits.md'}", f"reports=[{steps}]"]
    curves = f"curves=[{made.parent / 'tiny8.csv'},{made.parent / 'tiny8.2.csv'}]"
    assert main(["card", f"cascade={cascade}", f"out={made}", *ASKED, *texts, "sr16.steps=2", curves]) == 0
    assert report(made) == before
    assert card_text(before) == (made / "card.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stages=[2,1]"], "rising"),
        (["stages=[3]"], "stages"),
        (["about=nowhere.md"], "is no file"),
        (["reports=[nowhere.json]"], "nowhere.json is no report"),
        (["curves=[nowhere]"], "there is no run and no file at 'nowhere'"),
        (["metrics=[cass]"], "did you mean 'cas'?"),
        (["images=x"], "either cascade=FOLDER or images=FOLDER"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(cascade, here, capsys, words, message):
    assert main(["card", f"cascade={cascade}", "out=o", *ASKED, *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (here / "o").exists()


def test_a_card_of_somebody_else_is_not_replaced(cascade, here, capsys):
    (here / "card.md").write_text("mine")
    assert main(["card", f"cascade={cascade}", "out=.", *ASKED]) == 2
    assert "was not made by cascade card" in capsys.readouterr().err
    assert (here / "card.md").read_text() == "mine"
