"""What is wrong with any job of a sweep is said before the first job trains, and names that job."""

import pytest
from PIL import Image

from cascade.commands.command_line import main

STAGES = ["train", "-m", "stage=base64,sr256,sr1024", "debug=fast", "name=mine"]


@pytest.fixture
def untrained(here, monkeypatch):
    """No job may come to train."""

    def train(*_):
        raise AssertionError("a stage was trained")

    monkeypatch.setattr("stages.run.train", train)
    return here


@pytest.fixture
def photos(tmp_path):
    """400 pictures that are large enough for 1024 px by their headers; the last one is not."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(400):
        Image.new("1", (64, 2000) if number == 399 else (1024, 1024)).save(folder / f"{number:03}.png")
    return folder


def test_pictures_that_are_too_small_for_a_later_stage(untrained, photos, capsys):
    words = ["data=folder", f"data.root={photos}", "data.val_fraction=0", "trainer.validation_images=0"]
    assert main([*STAGES, *words, "trainer.sample_every=0"]) == 2
    said = capsys.readouterr()
    assert "1 of 400 pictures" in said.err
    assert "smaller than 1024 px (the first: 399.png, 64×2000)" in said.err
    assert "data.small=skip leaves them out, data.small=upscale enlarges them (with stage=sr1024)" in said.err
    assert (said.out, list(untrained.iterdir())) == ("", [])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["stage.label_dropout=1.5"], "stage.label_dropout=1.5 must lie in [0, 1] (with stage=base64)"),
        (["stage.aug_log_snr=3"], "a base has none (with stage=base64)"),
        (["trainer.optimizer._target_=torch.optim.Adamm"], "did you mean 'Adam'? (with stage=base64 debug=fast)"),
        (["network.channels=[]"], "(with stage=base64)"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_settings_that_no_job_can_have(untrained, words, line, capsys):
    assert main([*STAGES, *words]) == 2
    assert line in capsys.readouterr().err
    assert list(untrained.iterdir()) == []


def test_an_old_run_of_a_later_stage_with_other_settings(untrained, capsys):
    run = untrained / "runs" / "mine" / "sr1024"
    run.mkdir(parents=True)
    (run / "last.ckpt").touch()
    (run / "run.yaml").write_text("seed: 1\n")
    assert main(STAGES) == 2
    assert "was made with seed=1, not 0" in (said := capsys.readouterr().err)
    assert said.endswith("(with stage=sr1024)\n")
