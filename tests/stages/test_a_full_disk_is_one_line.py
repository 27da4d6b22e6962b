"""Where a file cannot be written whole, the run says so in one line, and what was there before stays."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cascade.artifact import StageConfig, save_stage
from cascade.errors import CascadeError
from cascade.files import write_whole
from stages.checkpoint import WholeCheckpointIO

LARGE = torch.zeros(1 << 20)


@pytest.fixture
def full_disk():
    """No file may grow beyond 64 kB: writing fails as on a full disk, only by another number."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_checkpoint_that_does_not_fit_leaves_the_old_one(tmp_path: Path, full_disk: None) -> None:
    path = tmp_path / "last.ckpt"
    WholeCheckpointIO().save_checkpoint({"step": 1}, path)
    old = path.read_bytes()
    with pytest.raises(CascadeError, match=r"last\.ckpt could not be written; is the disk full\? \(\d+ MB are free\)"):
        WholeCheckpointIO().save_checkpoint({"weights": LARGE}, path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [old]


def test_a_stage_that_does_not_fit_leaves_the_old_one(
    tmp_path: Path, small_configs: list[StageConfig], full_disk: None
) -> None:
    folder = tmp_path / "stage"
    save_stage(folder, small_configs[0], {"weight": torch.zeros(1)})
    old = (folder / "weights.safetensors").read_bytes()
    with pytest.raises(CascadeError, match=r"the weights in .*stage could not be written"):
        save_stage(folder, small_configs[0], {"weight": LARGE})
    assert (folder / "weights.safetensors").read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["stage"]


def test_a_text_that_does_not_fit_is_named(tmp_path: Path, full_disk: None) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011  # whatever the file system says
        write_whole(tmp_path / "metrics.csv", "x" * (1 << 17))
    assert caught.value.filename == str(tmp_path / "metrics.csv")
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_that_cannot_be_written_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the runs should be")
    command = [sys.executable, "-c", "import sys; from cascade.commands.command_line import main; sys.exit(main())"]
    done = subprocess.run(
        [*command, "train", "debug=fast", f"runs={tmp_path / 'runs'}"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path / "runs") in done.stderr
