"""The main job in small, by the commands alone: three stages are trained, chained, sampled and evaluated."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def cascade(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from cascade.commands.command_line import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error::UserWarning", "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.timeout(600)
def test_three_stages_are_trained_chained_sampled_and_evaluated(tmp_path: Path) -> None:
    small = ["debug=fast", "data.size=4", "data.val_size=3", "name=run", "trainer.sample_every=0"]
    trained = cascade("train", "-m", "stage=base64,sr256,sr1024", *small, folder=tmp_path)
    assert trained.returncode == 0, trained.stderr
    again = cascade("train", "stage=sr256", *small, folder=tmp_path)
    assert "already finished at step 2" in again.stdout
    other = cascade("train", "stage=sr256", *small, "trainer.optimizer.lr=1e-4", folder=tmp_path)
    assert other.returncode == 2
    assert "trainer.optimizer.lr" in other.stderr
    assert len(other.stderr.splitlines()) == 1

    stages = "stages=[runs/run/base64,runs/run/sr256,runs/run/sr1024]"
    assert cascade("assemble", stages, "out=runs/run/cascade", folder=tmp_path).returncode == 0
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    sampled = cascade(
        "sample", "cascade=runs/run/cascade", "classes=[flower,gem]", "seeds=3", "out=samples", folder=tmp_path
    )
    assert sampled.returncode == 0, sampled.stderr
    new = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} - {
        path.relative_to(tmp_path).as_posix() for path in before
    }
    assert {"samples/flower/3.png", "samples/gem/3.png", "samples/manifest.jsonl"} <= new
    assert all(name.startswith("samples/") for name in new)

    evaluated = cascade(
        "evaluate",
        "cascade=runs/run/cascade",
        "data.val_size=6",
        "data.split=val",
        "features=tiny",
        "num_images=6",
        "stages=1",
        "out=evaluation",
        folder=tmp_path,
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
