"""`cascade steps`: every sampler at every number of steps, timed in the stage itself; made once and then only read."""

import json

import pytest
import torch
from PIL import Image

from cascade import CascadePipeline
from cascade.commands.command_line import main
from cascade.commands.steps import FIGURE, REPORT
from cascade.commands.steps_figure import draw_steps
from cascade.commands.swept_points import Result, StageClock, beats, cheapest_as_good
from cascade.evaluation.jackknife import Estimate
from cascade.registry import complete
from cascade.stage_settings import StageSettings
from tests.conftest import small_stage

ASKED = ["stage=sr16", "samplers=[ddim,heun]", "steps=[2,3]", "num_images=5", "data.val_size=6", "features=tiny"]


def result(steps, distance, error, seconds, pictures=None):
    """A result of that error, whose pictures are its own unless they are named."""
    moved = error * torch.tensor([1.0, -1.0], dtype=torch.float64)
    known = Estimate(distance, {pictures or f"of {steps} steps": moved})
    return Result({"sampler": "ddim", "steps": steps}, known, 1.0, seconds, 9)


@pytest.fixture(scope="module")
def unlabelled(make_cascade, tmp_path_factory):
    """A cascade without classes, so that any pictures are those of its kind."""
    stages = [small_stage("tiny8", 8, chunk=4, class_names=()), small_stage("sr16", 16, 8, class_names=())]
    return make_cascade(tmp_path_factory.mktemp("unlabelled") / "cascade", stages)


@pytest.fixture(scope="module")
def measured(unlabelled, tmp_path_factory):
    out = tmp_path_factory.mktemp("steps") / "out"
    assert main(["steps", f"cascade={unlabelled}", f"out={out}", *ASKED]) == 0
    return out


def test_every_pair_has_a_distance_with_its_error_and_seconds(measured):
    report = json.loads((measured / REPORT).read_text())
    assert [(p["varied"]["sampler"], p["varied"]["steps"]) for p in report["points"]] == [
        ("ddim", 2), ("ddim", 3), ("heun", 2), ("heun", 3),
    ]  # fmt: skip
    assert all(p["standard_error"] > 0 and p["seconds"] > 0 and p["num_images"] == 5 for p in report["points"])
    assert len({p["distance"] for p in report["points"]}) == 4
    with Image.open(measured / FIGURE) as image:
        assert image.width == 1200
        assert image.text["Software"] == "cascade"


def test_the_stage_before_is_sampled_once_and_a_rerun_samples_nothing(measured, unlabelled, monkeypatch):
    folders = sorted(path.name.split("-")[0] for path in (measured / "samples").iterdir())
    assert folders == ["sr16"] * 4 + ["tiny8"]
    before = json.loads((measured / REPORT).read_text())
    monkeypatch.setattr("cascade.stage_sampler.StageSampler.run", None)  # nothing may be sampled
    assert main(["steps", f"cascade={unlabelled}", f"out={measured}", *ASKED]) == 0
    assert json.loads((measured / REPORT).read_text()) == before


def test_of_photographs_made_small_it_says_what_evaluate_says(unlabelled, tmp_path):
    """The same photographs, seeds and patches: the same kernel distance."""
    asked = [f"cascade={unlabelled}", "data.val_size=6", "features=tiny", "patches.side=8"]
    words = [*asked, *ASKED[:4], "photographs=true", f"out={tmp_path / 'steps'}"]
    assert main(["steps", *words]) == 0
    report = json.loads((tmp_path / "steps" / REPORT).read_text())
    assert report["distance"] == "patch-KID-tiny"
    assert len(report["photographs"]) == 5
    asked += ["stages=2", "metrics=[upscaling]", "upscaling.num_images=5", f"out={tmp_path / 'evaluation'}"]
    assert main(["evaluate", *asked, "sr16.sampler=heun", "sr16.steps=3"]) == 0
    figures = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["figures"]
    (figure,) = (figure for figure in figures if figure["name"] == "sr16: patch-KID-tiny")
    point = report["points"][-1]
    assert (point["distance"], point["standard_error"]) == (figure["value"], figure["standard_error"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["stage=sr61"], "did you mean 'sr16'?"),
        (["stage=sr16", "sr16.steps=3"], "is what varies here"),
        (["stage=sr16", "samplers=[ddin]"], "did you mean 'ddim'?"),
        (["stage=sr16", "steps=[2,2]"], "each once"),
        (["stage=sr16", "steps=[0]"], "at least 1"),
        (["stage=tiny8", "sr16.aug_log_snr=2"], "does not run here"),
        (["stage=sr16", "num_images=2"], "at least 3"),
        (["stage=tiny8", "photographs=true"], "'tiny8' is a base stage and upscales no photographs"),
        (["stage=sr16", "photographs=true", "guidance_scale=2"], "guidance_scale says nothing of 'sr16'"),
        (["stage=sr16", "photographs=true", "tiny8.steps=2"], "tiny8 says nothing of 'sr16'"),
        (["stage=sr16", "photographs=true"], "patches.side=128 is more than the 16 px of the pictures"),
        ([], "needs stage.name=..."),
    ],
)
def test_what_is_wrong_is_said_in_one_line(small_cascade, here, capsys, settings, message):
    assert main(["steps", f"cascade={small_cascade}", "out=o", "features=tiny", *settings]) == 2
    assert message in capsys.readouterr().err
    assert not (here / "o").exists()


def test_what_is_within_two_errors_of_the_best_is_as_good():
    best, near, far = result(32, 1.0, 0.3, 8.0), result(8, 1.8, 0.3, 2.0), result(4, 1.9, 0.3, 1.0)
    assert not beats(best, near), "0.8 < 2·√2·0.3"
    assert beats(best, far)
    assert cheapest_as_good([best, near, far]) is near
    assert cheapest_as_good([best, far]) is best
    shared = [result(steps, distance, 0.3, 1.0, "seeds") for steps, distance in ((32, 1.0), (8, 1.1))]
    assert beats(*shared), "what both owe to their pictures is no error of the difference"


def test_the_clock_counts_its_own_stage_alone():
    now = iter([0, 10, 20, 30, 35, 50, 60.0])
    clock = StageClock("sr", 2, lambda: next(now))
    for stage, step in (("base", 0), ("base", 1), ("sr", 0), ("sr", 1), ("sr", 2), ("sr", 2), ("sr", 3)):
        clock.at(stage, step)
    assert clock.seconds == 10 + 5 + 10
    assert clock.steps == 3


@pytest.mark.parametrize(
    ("sampler", "calls"),
    [
        ({"name": "ddim"}, 3),
        ({"name": "heun"}, 5),
        ({"name": "dpm_solver_pp_single"}, None),
        ({"name": "predictor_corrector"}, None),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_every_call_of_a_step_has_its_time(small_cascade, sampler, calls):
    """A second passes in each call of the network, and nowhere else."""
    moment, pipeline = [0.0], CascadePipeline.load(small_cascade)
    settings = {"tiny8": StageSettings(sampler=complete("sampler", sampler), guidance={"name": "none"})}
    (stage,) = pipeline.plan(stages=1, settings=settings)
    clock = StageClock("tiny8", stage.steps, lambda: moment[0])

    def tick(*_):
        moment[0] += 1.0

    hook = stage.stage.denoiser.network.register_forward_hook(tick)
    for _ in pipeline.iterate(
        None, range(7), stages=1, settings=settings, on_progress=lambda name, step, _: clock.at(name, step)
    ):
        pass
    hook.remove()
    assert clock.seconds == moment[0]
    assert clock.steps == 2 * stage.steps, "7 pictures in chunks of 4"
    assert calls is None or moment[0] == 2 * calls


def test_what_is_done_with_the_pictures_is_no_time_of_the_stage(small_cascade):
    """Time passes here only while pictures are looked at."""
    moment = [0.0]
    clock = StageClock("tiny8", 3, lambda: moment[0])
    pipeline = CascadePipeline.load(small_cascade)
    for _ in pipeline.iterate(None, range(5), stages=1, on_progress=lambda name, step, _: clock.at(name, step)):
        moment[0] += 100.0
    assert clock.seconds == 0
    assert clock.steps > 0


def test_a_point_without_seconds_is_left_out_of_the_seconds():
    found = [result(2, 0.5, 0.1, None), result(4, 0.3, 0.1, 0.4)]
    assert draw_steps(found, found[1], "KID", "a title").startswith(b"\x89PNG")
    assert draw_steps(found[:1], found[0], "KID", "a title").startswith(b"\x89PNG")


def test_the_same_results_are_the_same_figure():
    found = [result(n, 1 / n, 0.1, n / 10) for n in (2, 4)]
    assert draw_steps(found, found[1], "KID", "a title") == draw_steps(found, found[1], "KID", "a title")
    assert draw_steps(found, found[1], "KID", "a title") != draw_steps(found, found[0], "KID", "a title")
