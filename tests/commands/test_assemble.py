"""`cascade assemble`: a whole cascade or nothing, and only of stages that fit."""

import io
import shutil
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from cascade import CascadePipeline
from cascade.artifact import StageConfig, load_cascade_config, load_stage, load_stage_config
from cascade.commands.command_line import main
from cascade.errors import CascadeError
from cascade.files import replace_folder, sha256_of
from cascade.lock import beside

pytestmark = pytest.mark.usefixtures("one_thread")


def assemble(stages: list[Path], out: Path, *settings: str) -> tuple[int, str]:
    printed = io.StringIO()
    listed = ",".join(map(str, stages))
    with redirect_stdout(printed), redirect_stderr(printed):
        code = main(["assemble", f"stages=[{listed}]", f"out={out}", *settings])
    return code, printed.getvalue()


def content(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): sha256_of(p) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def stages(small_cascade) -> list[Path]:
    return [small_cascade / name for name in ("tiny8", "sr16", "sr32")]


def test_the_cascade_is_whole_and_needs_nothing_else(stages, small_cascade, tmp_path):
    runs = [Path(shutil.copytree(stage, tmp_path / "my runs (é)" / stage.name / "stage")).parent for stage in stages]
    out = tmp_path / "new" / "cascade"
    code, printed = assemble(runs, out)
    assert code == 0, printed
    assert "tiny8 (8 px) -> sr16 (16 px, noise of 28 levels of 255 (λ = 3)) -> sr32 (32 px, noise of 28" in printed
    shutil.rmtree(tmp_path / "my runs (é)")
    assert content(out) == content(small_cascade) | {"cascade.yaml": sha256_of(out / "cascade.yaml")}
    assert {path.name for path in out.parent.iterdir()} == {"cascade"}
    images = [CascadePipeline.load(folder).sample(1, 7) for folder in (out, small_cascade)]
    assert torch.equal(*images)


def test_defaults_come_from_the_stages_and_can_be_changed(stages, tmp_path):
    out = tmp_path / "out"
    settings = ("sr16.steps=7", "sr32.aug_log_snr=5", "tiny8.guidance_scale=1.5", "sr32.guidance_scale=4")
    assert assemble(stages, out, *settings)[0] == 0
    base, middle, last = (sampling for _, sampling in load_cascade_config(out).stages)
    own = [load_stage_config(stage).sampling for stage in stages]
    assert base == replace(own[0], guidance={"name": "classifier_free", "scale": 1.5})
    assert middle == replace(own[1], grid={**own[1].grid, "n": 7})
    assert last == replace(own[2], aug_log_snr=5.0)  # unlabelled: no guidance


def test_weights_are_stored_in_half_the_bytes_and_read_as_their_rounding(stages, tmp_path):
    out = tmp_path / "small"
    assert assemble(stages, out, "dtype=bf16")[0] == 0
    for source in stages:
        kept, rounded = load_stage(source).denoiser.state_dict(), load_stage(out / source.name).denoiser.state_dict()
        assert all(torch.equal(value.bfloat16().float(), rounded[key]) for key, value in kept.items())
    before = content(out)
    code, printed = assemble(stages, out, "dtype=bf16")
    assert code == 0
    assert "is there already" in printed
    assert content(out) == before
    assert "unknown dtype 'bf17'; did you mean 'bf16'?" in assemble(stages, tmp_path / "x", "dtype=bf17")[1]


def test_the_same_again_is_left_and_another_needs_overwrite(stages, tmp_path):
    out = tmp_path / "out"
    assert assemble(stages[:2], out)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    code, printed = assemble(stages[:2], out)
    assert (code, "is there already" in printed) == (0, True)
    code, printed = assemble(stages, out)
    assert (code, "overwrite=true replaces it" in printed) == (2, True)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    (out / "notes.txt").write_text("mine")
    code, printed = assemble(stages, out, "overwrite=true")
    assert (code, "holds 'notes.txt'" in printed) == (2, True)
    (out / "notes.txt").rename(out / "sr16" / "notes.txt")
    code, printed = assemble(stages, out, "overwrite=true")
    assert (code, "holds 'sr16/notes.txt'" in printed) == (2, True)
    (out / "sr16" / "notes.txt").unlink()
    assert assemble(stages[:1], out, "overwrite=true")[0] == 0
    assert {path.name for path in out.iterdir()} == {"tiny8", "cascade.yaml"}
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_a_cascade_can_be_assembled_from_itself(stages, tmp_path):
    out = tmp_path / "out"
    assert assemble(stages, out)[0] == 0
    assert assemble([out / "tiny8", out / "sr16"], out, "overwrite=true", "sr16.steps=9")[0] == 0
    assert load_cascade_config(out).stages[1][1].grid["n"] == 9
    assert assemble([out / "tiny8", out / "sr16"], tmp_path / "next")[0] == 0
    assert load_cascade_config(tmp_path / "next") == load_cascade_config(out), "stages are sampled as in their cascade"


def test_two_commands_do_not_write_one_cascade(stages, tmp_path):
    with beside(tmp_path / "out"):
        code, printed = assemble(stages, tmp_path / "out")
        assert (code, "is writing to" in printed, printed.count("\n")) == (2, True, 1)
    assert assemble(stages, tmp_path / "out")[0] == 0


def test_a_folder_of_something_else_is_not_touched(stages, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    for setting in ("overwrite=false", "overwrite=true"):
        code, printed = assemble(stages, tmp_path, setting)
        assert (code, "holds no cascade" in printed) == (2, True)
    assert content(tmp_path) == {"photo.jpg": sha256_of(tmp_path / "photo.jpg")}


@pytest.fixture
def odd(small_configs, make_cascade, tmp_path):
    """Save a changed copy of one of the small stages."""

    def save(index: int, **changes) -> Path:
        config = replace(small_configs[index], **changes)
        return make_cascade(tmp_path / "odd" / str(len(list(tmp_path.rglob("*")))), [config]) / config.name

    return save


def refused(message: str, stages: list[Path], out: Path, *settings: str) -> None:
    code, printed = assemble(stages, out, *settings)
    assert (code, printed.count("\n")) == (2, 1), printed
    assert message in printed
    assert not out.exists()


def test_stages_that_do_not_fit_are_refused_before_anything_is_written(stages, odd, tmp_path):
    base, sr16, sr32 = stages
    out = tmp_path / "new" / "out"
    refused("needs 8 px pictures and cannot come first", [sr16, sr32], out)
    refused("'sr32' takes 16 px and does not fit behind 'tiny8'", [base, sr32], out)
    refused("starts from noise", [base, odd(0, name="other8")], out)
    refused("two stages are named 'tiny8'", [base, odd(1, name="tiny8")], out)
    refused("different class tables", [base, odd(1, class_names=("hat", "dress", "shoe"))], out)
    refused("'sr16': augmentation level 7", [base, sr16], out, "sr16.aug_log_snr=7")
    untrained = replace(load_stage_config(sr16).sampling, aug_log_snr=-3.0)
    refused("'sr16': augmentation level -3", [base, odd(1, sampling=untrained)], out)
    for name in (".hidden", "../outside", ""):
        with pytest.raises(CascadeError, match="the name of a folder"):
            replace(load_stage_config(base), name=name)
    refused("names no stage", [], out)
    refused("'tiny8' is a base stage and has no aug_log_snr", stages, out, "tiny8.aug_log_snr=3")
    refused("did you mean 'sr16.steps'", stages, out, "sr16.stepps=3")
    refused("stage 'sr16': steps=0 must be", stages, out, "sr16.steps=0")
    assert not out.parent.exists()


def test_a_damaged_stage_is_refused(stages, tmp_path):
    broken = Path(shutil.copytree(stages[0], tmp_path / "broken"))
    assert assemble([broken], tmp_path / "there")[0] == 0
    (broken / "manifest.json").rename(tmp_path / "manifest.json")
    refused("manifest.json is missing", [broken], tmp_path / "out")
    code, printed = assemble([broken], tmp_path / "there")
    assert (code, "manifest.json is missing" in printed, printed.count("\n")) == (2, True, 1)
    (tmp_path / "manifest.json").rename(broken / "manifest.json")
    weights = broken / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    refused("is damaged", [broken], tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": {}}, "x.yaml: 'network' needs a 'name'"),
        ({"preconditioning": {"name": 1}}, "x.yaml: 'preconditioning' needs a 'name'"),
        ({"augmentation": {"nam": "none"}}, "x.yaml: 'augmentation' needs a 'name'"),
        ({"sampler": {}}, "x.yaml: sampling: 'sampler' needs a 'name'"),
        ({"grid": {"n": 3}}, "x.yaml: sampling: 'grid' needs a 'name'"),
        ({"guidance": {"scale": 2.0}}, "x.yaml: sampling: 'guidance' needs a 'name'"),
        ({"threshold": {"name": None}}, "x.yaml: sampling: 'threshold' needs a 'name'"),
        ({"class_names": ["hat", True]}, "x.yaml: 'class_names' must hold texts, not True"),
        ({"resolution": 0}, "resolution must be at least 1, not 0"),
        ({"low_resolution": 0}, "low_resolution must be at least 1, not 0"),
        ({"low_resolution": -8}, "low_resolution must be at least 1, not -8"),
    ],
)
def test_a_config_of_wrong_shape_is_refused_naming_file_and_key(small_configs, change, message):
    mapping = small_configs[1].to_mapping()
    for key, value in change.items():
        (mapping if key in mapping else mapping["sampling"])[key] = value
    with pytest.raises(CascadeError) as caught:
        StageConfig.from_mapping(mapping, "x.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("guidance", {"scale": 2.0}, "stage 1: 'guidance' needs a 'name'"),
        ("folder", "..", "stage 1: '..' is not the name of a folder"),
        ("folder", ".", "stage 1: '.' is not the name of a folder"),
        ("folder", "", "stage 1: '' is not the name of a folder"),
    ],
)
def test_a_cascade_of_wrong_shape_is_refused(small_cascade, tmp_path, key, value, message):
    mapping = yaml.safe_load((small_cascade / "cascade.yaml").read_text())
    mapping["stages"][0][key] = value
    (tmp_path / "cascade.yaml").write_text(yaml.safe_dump(mapping))
    with pytest.raises(CascadeError) as caught:
        load_cascade_config(tmp_path)
    assert f"cascade.yaml: {message}" in str(caught.value)


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").touch()
    rename = Path.rename

    def failing(self, to):
        if self.name == "new":
            raise OSError("full")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="full"):
        replace_folder(target, lambda new: (new / "made").touch())
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["target", "target/old"]
    monkeypatch.undo()

    def broken(new: Path) -> None:
        (new / "made").touch()
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        replace_folder(target, broken)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["target", "target/old"]
