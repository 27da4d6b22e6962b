"""`cascade report` of pictures that anything has made: the grid, nearest training pictures and their spectrum."""

import shutil
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from cascade.commands.command_line import main
from cascade.data.procedural import ProceduralDataset
from tests.commands.report_reader import DATA, Read, report
from tests.conftest import small_stage

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def samples(make_cascade, tmp_path) -> Path:
    """Two classes with two seeds of a base stage."""
    stage = small_stage("tiny8", 8, chunk=4, class_names=tuple(ProceduralDataset.class_names))
    cascade = make_cascade(tmp_path / "cascade", [stage])
    words = ["classes=[leaf,gem]", "seeds=[0,7]", "threads=1", "precision=fp32"]
    assert main(["sample", f"cascade={cascade}", f"out={tmp_path / 'samples'}", *words]) == 0
    return tmp_path / "samples"


def test_a_plain_folder_is_shown_without_what_a_manifest_tells(samples, tmp_path, capsys):
    """Grid, nearest training pictures and spectrum; of several sizes and kinds, and one that is none."""
    plain = tmp_path / "plain"
    for name in ("gem", "leaf"):
        shutil.copytree(samples / name, plain / name)
    Image.new("RGB", (10, 9), "red").save(plain / "gem" / "wide.jpg")
    (plain / "gem" / "torn.png").write_bytes(b"no picture")
    assert report(plain, *DATA, "full=true", f"out={tmp_path / 'out'}") == 0
    read = Read(tmp_path / "out" / "report.html")
    details = {detail["file"]: detail for detail in read.details()}
    assert list(details) == ["gem/0.png", "gem/7.png", "gem/wide.jpg", "leaf/0.png", "leaf/7.png"]
    for detail in details.values():
        assert ([view["name"] for view in detail["views"]], detail["command"]) == (["pictures"], "")
        assert len(detail["near"]) == 2
        assert (tmp_path / "out" / unquote(detail["href"])).resolve() == (plain / detail["file"]).resolve()
    assert details["gem/wide.jpg"]["views"][0]["full"].startswith("data:image/jpeg")
    assert read.classes == ["gem", "gem", "gem", "leaf", "leaf"]
    for words in ("5 pictures of 2 classes, at 8 px.", "1 picture to show could not be read", "torn.png",
                  "centre square", "radial power spectrum", "manifest.jsonl"):  # fmt: skip
        assert words in read.source
    assert '<table class="config">' not in read.source
    # The pictures are what they are with the manifest, and so are the nearest to them.
    assert report(samples, *DATA, f"out={tmp_path / 'known'}") == 0
    known_of = {detail["file"]: detail for detail in Read(tmp_path / "known" / "report.html").details()}
    assert all(details[file]["near"] == known_of[file]["near"] for file in known_of)
    capsys.readouterr()
    assert report(plain, "cascade=anything") == 2
    assert "cascade= is for a folder of cascade sample" in capsys.readouterr().err
