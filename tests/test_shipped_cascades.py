"""A cascade installed with the package goes by its name, and a folder of that name comes first."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from cascade import CascadePipeline, artifact, stage_files
from cascade.artifact import find_cascade, find_stage, load_cascade_config, load_chain, load_stage
from cascade.commands.command_line import main
from cascade.commands.configuration import composed
from cascade.commands.overrides import check
from cascade.stage_settings import StageSettings

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def shipped(small_cascade, tmp_path, monkeypatch):
    """`tiny`, installed with the package, seen from an empty working folder."""
    shutil.copytree(small_cascade, tmp_path / "package/tiny")
    (tmp_path / "here").mkdir()
    for module in (artifact, stage_files):
        monkeypatch.setattr(module, "PRETRAINED", tmp_path / "package")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "package/tiny"


def test_the_name_is_the_folder_in_the_package(shipped, small_cascade):
    assert find_cascade("tiny") == shipped
    assert load_chain("tiny") == load_chain(small_cascade)


def test_a_folder_of_that_name_comes_first(shipped, tmp_path):
    shutil.copytree(shipped, tmp_path / "here/tiny")
    assert find_cascade("tiny").resolve() == tmp_path / "here/tiny"
    assert find_cascade(tmp_path / "tiny") == tmp_path / "tiny"


def test_a_stage_of_it_is_found_by_both_names(shipped, tmp_path):
    assert find_stage("tiny/tiny8") == shipped / "tiny8"
    shutil.copytree(shipped, tmp_path / "here/tiny")
    assert find_stage("tiny/tiny8").resolve() == tmp_path / "here/tiny/tiny8"


def test_photographs_in_a_folder_of_that_name_do_not_hide_it(shipped, tmp_path):
    (tmp_path / "here/tiny/train").mkdir(parents=True)
    assert find_cascade("tiny") == shipped


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    "words", [["sample", "base64.steps=4"], ["evaluate", "data=procedural"], ["tune", "stage=base64"], ["card"]]
)
@pytest.mark.parametrize(("taken", "why"), [(False, "no such folder"), (True, "it holds no cascade.yaml")])
def test_an_unknown_name_is_told_the_known_ones(tmp_path, capsys, words, taken, why):
    """Also where a folder of photographs has that name."""
    if taken:
        (tmp_path / "here/tiny-fast/train").mkdir(parents=True)
    command, *others = words
    assert main([command, "cascade=tiny-fast", "out=out", *others]) == 2
    error = capsys.readouterr().err
    assert f"there is no cascade at 'tiny-fast': {why}; installed with the package: tiny" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "here/out").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize(("name", "out"), [("", "demo"), ("clothes-fast", "demo-fast"), ("birds", "demo-birds")])
def test_the_demo_samples_the_named_one_into_its_own_folder(name, out):
    words = [f"CASCADE={name}"] if name else []
    said = subprocess.run(["make", "-n", "demo", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"cascade sample cascade={name or 'clothes'} " in said
    assert f"out=runs/{out}\n" in said
    assert f"look at runs/{out}/contact_sheet.png" in said


def test_clothes_comes_with_the_package_small_enough_for_it_and_with_its_card():
    folder = find_cascade("clothes")
    chain = load_chain("clothes")
    assert [config.resolution for config in chain] == [64, 256, 1024]
    assert chain[0].class_names[:2] == ("dress", "hat")
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 40e6
    card = (folder.parent / "clothes_card" / "card.md").read_text(encoding="utf-8")
    card = " ".join(card.split())
    assert "CC0" in card
    assert "DreamBooth dataset (Google), CC-BY-4.0" in card


def test_clothes_fast_is_clothes_in_four_steps():
    slow, fast = load_chain("clothes"), load_chain("clothes-fast")
    assert [config.distilled.steps for config in fast] == [4, 4, 4]
    assert fast[0].distilled.teacher == load_stage(find_stage("clothes/base64")).sha256
    for one, other in zip(slow, fast, strict=True):
        assert (one.name, one.resolution, one.class_names) == (other.name, other.resolution, other.class_names)


@pytest.mark.parametrize("experiment", ["clothes_base64", "clothes_sr256", "objects_sr1024"])
def test_a_recipe_of_clothes_samples_as_clothes_does(experiment):
    recipe = composed("train", [f"experiment={experiment}"])
    shipped = dict(load_cascade_config("clothes").stages)[recipe.stage.name]
    for group in ("sampler", "grid", "threshold"):
        assert recipe[group] == getattr(shipped, group)
    assert recipe.guidance == shipped.guidance.get("guided", shipped.guidance)  # the classifier comes when assembled
    assert recipe.stage.aug_log_snr == shipped.aug_log_snr


@pytest.mark.usefixtures("one_thread")
def test_clothes_makes_its_pictures_from_stored_weights():
    pipeline = CascadePipeline.load("clothes", precision="fp32", only=["base64"])
    one, other = pipeline.sample(
        classes=["pants", "hat"], seeds=[0, 0], stages=1, settings={"base64": StageSettings(steps=4)}
    )
    assert not torch.equal(one, other)
    assert one.float().std() > 10, "a picture, and not a plain surface"


def test_the_parts_of_the_training_are_commands():
    about = (stage_files.PRETRAINED / "clothes_card/about.md").read_text(encoding="utf-8")
    lines = [line for line in about.splitlines() if line.startswith(("cascade train ", "cascade prepare "))]
    assert len(lines) == 15
    for _, command, *words in map(shlex.split, lines):
        check(command, words)
