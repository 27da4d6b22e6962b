"""Where the commands run in the tests."""

from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def places(small_cascade, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("places")
    (root / "empty").mkdir()
    (root / "file").write_text("not a folder")
    (root / "foreign").mkdir()
    (root / "foreign" / "letter.txt").write_text("mine")
    (root / "photos").mkdir()
    for number in range(4):
        Image.new("RGB", (32, 48), (60 * number, 0, 0)).save(root / "photos" / f"{number}.png")
    run = root / "runs" / "mine" / "base64"
    run.mkdir(parents=True)
    (run / "last.ckpt").touch()
    (run / "run.yaml").write_text("seed: 3\nstage: {name: base64, flip: true}\n")
    return {"cascade": small_cascade, **{name: root / name for name in ("empty", "file", "foreign", "photos", "runs")}}
