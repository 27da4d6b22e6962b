"""STAGE.key on the command line: the sampler, grid, guidance and threshold of one stage, and what it is guided by."""

import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

from cascade import CascadePipeline
from cascade.artifact import load_cascade_config, load_stage
from cascade.commands.command_line import main
from cascade.commands.per_stage import PER_STAGE, read_per_stage, stage_keys
from cascade.errors import CascadeError
from cascade.stage_settings import StageSettings

pytestmark = pytest.mark.usefixtures("one_thread")


def run(*argv: str) -> tuple[int, str]:
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        code = main(list(argv))
    return code, printed.getvalue()


def sample(cascade: Path, out: Path, *settings: str) -> tuple[int, str]:
    return run(
        "sample", f"cascade={cascade}", f"out={out}", "classes=dress", "seeds=3", "contact_sheet=false", *settings
    )


def rows(out: Path) -> dict[str, dict]:
    line = json.loads((out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return {row["stage"]: row for row in line["stages"]}


@pytest.fixture
def weak(small_configs, make_cascade, tmp_path) -> Path:
    """A base stage of other weights, in a run folder."""
    from dataclasses import replace

    folder = make_cascade(tmp_path / "saved", [replace(small_configs[0], name="smaller")]) / "smaller"
    run_folder = tmp_path / "runs (é)" / "smaller"
    shutil.copytree(folder, run_folder / "stage")
    return run_folder


def test_every_choice_and_parameter_reaches_its_stage(small_cascade, tmp_path):
    code, printed = sample(
        small_cascade,
        tmp_path / "out",
        "tiny8.guidance=interval",
        "tiny8.guidance.hi=4",
        "tiny8.guidance.guided.scale=3",
        "tiny8.threshold.percentile=0.5",
        "sr16.sampler=heun",
        "sr16.sampler.s_churn=2",
        "sr16.grid=karras",
        "sr16.grid.n=4",
        "sr32.threshold=dynamic",
        "sr32.grid.log_snr_min=-6",
    )
    assert code == 0, printed
    base, middle, last = rows(tmp_path / "out").values()
    guided = {"name": "classifier_free", "scale": 3.0}
    assert base["guidance"] == {"name": "interval", "lo": -2.13, "hi": 4.0, "guided": guided}
    assert base["threshold"] == {"name": "dynamic", "percentile": 0.5}
    assert (middle["sampler"]["name"], middle["sampler"]["s_churn"], middle["sampler"]["s_noise"]) == ("heun", 2.0, 1.0)
    assert middle["grid"] == {"name": "karras", "n": 4, "rho": 7.0, "sigma_min": 0.002, "sigma_max": 80.0}
    assert last["threshold"] == {"name": "dynamic", "percentile": 0.995}
    assert (last["grid"]["log_snr_min"], last["grid"]["log_snr_max"], last["sampler"]["name"]) == (-6.0, 8.0, "ddim")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["tiny8.guidance=intervall"], "unknown guidance 'intervall'; did you mean 'interval'?"),
        (["tiny8.guidance=autoguidance"], "tiny8.guidance=autoguidance needs tiny8.guidance.weak=..."),
        (["tiny8.guidance=interval_autoguidance"], "needs tiny8.guidance.guided.weak=..."),
        (["tiny8.guidance=autoguidance", "tiny8.guidance.weak=nowhere"], "'tiny8': there is no stage at 'nowhere'"),
        (["sr16.grid=shifted_to"], "sr16.grid=shifted_to needs sr16.grid.schedule.resolution=..."),
        (["tiny8.guidance.lo=high"], "tiny8.guidance.lo=high must be a number"),
        (["tiny8.guidance.hi=1"], "guidance 'classifier_free' has no parameter 'hi'"),
        (["tiny8.guidance=interval", "tiny8.guidance.hi=-5"], "must be below"),
        (["tiny8.guidance.widht=1"], "unknown key 'tiny8.guidance.widht'"),
        (["sr16.sampler.s_chrun=1"], "did you mean 'sr16.sampler.s_churn'"),
        (["sr16.truncated=yes"], "sr16.truncated=yes must be true or false"),
        (["tiny8.truncated=true"], "'tiny8' is a base stage and has no truncated"),
        (["sr16.truncated=true", "sr16.aug_log_snr=7"], "augmentation level 7 was not trained"),
    ],
)
def test_one_line_says_what_is_wrong(small_cascade, tmp_path, settings, message):
    code, printed = sample(small_cascade, tmp_path / "out", *settings)
    assert (code, printed.count("\n")) == (2, 1), printed
    assert message in printed
    assert not (tmp_path / "out").exists()


def test_every_setting_of_a_stage_has_a_key():
    assert set(PER_STAGE) == set(StageSettings.__dataclass_fields__)
    keys = stage_keys(["base64"])
    kinds = {key: keys[f"base64.{key}"].name for key in ("guidance.weak", "guidance.scale", "grid.n", "truncated")}
    assert kinds == {"guidance.weak": "text", "guidance.scale": "float", "grid.n": "int", "truncated": "bool"}
    assert not [key for key in keys if key.endswith(".name")]
    with pytest.raises(CascadeError, match="did you mean 'base64'"):
        read_per_stage({"base46": {"steps": 3}}, ["base64"])


def test_a_truncated_cascade_is_assembled_and_sampled_and_says_so(small_cascade, tmp_path):
    stages = ",".join(str(small_cascade / name) for name in ("tiny8", "sr16", "sr32"))
    out, cascade = tmp_path / "out", tmp_path / "cascade"
    code, printed = run("assemble", f"stages=[{stages}]", f"out={cascade}", "sr16.truncated=true")
    assert code == 0, printed
    assert [s.truncated for _, s in load_cascade_config(cascade).stages] == [False, True, False]
    assert sample(cascade, out, "save_stages=true")[0] == 0
    base, middle, _ = rows(out).values()
    assert (base["until"], middle["truncated"], middle["aug_log_snr"]) == (3.0, True, 3.0)
    # The kept picture of the stage that was stopped is x̂, from which the truncated stage cannot start.
    low = out / "stages" / "tiny8"
    code, printed = sample(cascade, tmp_path / "again", f"low_res={low}")
    assert (code, "sr16.truncated=false adds noise" in printed) == (2, True)
    assert sample(cascade, tmp_path / "again", f"low_res={low}", "sr16.truncated=false")[0] == 0
    code, printed = sample(small_cascade, out, "save_stages=true")
    assert (code, "until is 3.0 there and null here" in printed) == (2, True)
    late = "tiny8.grid.log_snr_min=5"
    code, printed = run("assemble", f"stages=[{stages}]", f"out={tmp_path / 'no'}", "sr16.truncated=true", late)
    assert (code, "'tiny8': a grid from log-SNR 5 cannot stop at 3" in printed) == (2, True)


def test_a_weak_stage_is_named_when_sampling(small_cascade, weak, tmp_path, monkeypatch):
    monkeypatch.chdir(weak.parent)
    out = tmp_path / "out"
    settings = ["tiny8.guidance=autoguidance", "tiny8.guidance.weak=smaller", "stages=1"]
    code, printed = sample(small_cascade, out, *settings, "guidance_scale=3")
    assert code == 0, printed
    sha256 = load_stage(weak).sha256
    assert rows(out)["tiny8"]["guidance"] == {"name": "autoguidance", "scale": 3.0, "weak": sha256}
    code, printed = sample(
        small_cascade, out, *settings[:1], f"tiny8.guidance.weak={small_cascade / 'tiny8'}", "stages=1"
    )
    assert (code, "tiny8.guidance.scale is 3.0 there and 2.0 here" in printed) == (2, True)
    # Another folder of the same weights is the same.
    elsewhere = Path(shutil.copytree(weak, tmp_path / "elsewhere"))
    code, printed = sample(
        small_cascade, out, settings[0], f"tiny8.guidance.weak={elsewhere}", *settings[2:], "guidance_scale=3"
    )
    assert (code, "0 pictures made, 1 were there already" in printed) == (0, True), printed


def test_an_assembled_cascade_keeps_its_weak_stage_and_moves_with_it(small_cascade, weak, tmp_path):
    stages = f"stages=[{small_cascade / 'tiny8'},{small_cascade / 'sr16'}]"
    guided = ["tiny8.guidance=interval_autoguidance", f"tiny8.guidance.guided.weak={weak}"]
    out, sha256 = tmp_path / "cascade", load_stage(weak).sha256
    code, printed = run("assemble", stages, f"out={out}", *guided)
    assert code == 0, printed
    stored = load_cascade_config(out).stages[0][1].guidance
    assert stored["guided"] == {"name": "autoguidance", "scale": 2.0, "weak": "tiny8_weak"}
    assert {path.name for path in out.iterdir()} == {"cascade.yaml", "tiny8", "sr16", "tiny8_weak"}
    assert "is there already" in run("assemble", stages, f"out={out}", *guided)[1]
    pictures = CascadePipeline.load(out).sample(1, 7)

    weak_moved = weak.rename(tmp_path / "gone")
    moved = out.rename(tmp_path / "moved")
    assert torch.equal(CascadePipeline.load(moved).sample(1, 7), pictures)
    assert not torch.equal(CascadePipeline.load(small_cascade).sample(1, 7, stages=2), pictures)
    record = CascadePipeline.load(moved).plan()[0].record()
    assert record["guidance"]["guided"]["weak"] == sha256
    # Another weak stage is another cascade; without one its folder goes.
    other = [guided[0], f"tiny8.guidance.guided.weak={small_cascade / 'tiny8'}"]
    code, printed = run("assemble", stages, f"out={moved}", *other)
    assert (code, "holds another cascade" in printed) == (2, True)
    assert run("assemble", stages, f"out={moved}", "overwrite=true")[0] == 0
    assert {path.name for path in moved.iterdir()} == {"cascade.yaml", "tiny8", "sr16"}
    # A damaged weak stage is refused, and one that does not fit.
    (weak_moved / "stage" / "weights.safetensors").write_bytes(b"")
    for folder, message in ((weak_moved, "is damaged"), (small_cascade / "sr16", "is 8 -> 16 px, not 8 px")):
        code, printed = run(
            "assemble", stages, f"out={tmp_path / 'no'}", guided[0], f"tiny8.guidance.guided.weak={folder}"
        )
        assert (code, message in printed, (tmp_path / "no").exists()) == (2, True, False)


def test_a_weak_stage_takes_no_stages_folder(small_configs, make_cascade, weak, tmp_path):
    from dataclasses import replace

    base, sr16, _ = small_configs
    folder = make_cascade(tmp_path / "named", [base, replace(sr16, name="tiny8_weak")])
    code, printed = run(
        "assemble",
        f"stages=[{folder / 'tiny8'},{folder / 'tiny8_weak'}]",
        f"out={tmp_path / 'no'}",
        "tiny8.guidance=autoguidance",
        f"tiny8.guidance.weak={weak}",
    )
    assert (code, "would be copied to 'tiny8_weak', which is a stage's" in printed) == (2, True)
