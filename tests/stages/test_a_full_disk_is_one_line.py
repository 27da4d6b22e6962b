"""Where a file cannot be written whole, the run says so in one line, and what was there before stays."""

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from cascade.artifact import StageConfig, load_stage_config, save_stage
from cascade.errors import CascadeError
from cascade.files import write_whole
from stages.checkpoint import WholeCheckpointIO, read_checkpoint
from stages.run import train
from stages.validation import Validation

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


TINY = ["debug=fast", "stage.resolution=16", "data.size=4", "data.val_size=2", "trainer.sample_every=0", "name=mine"]
TINY += ["trainer.accelerator=cpu", "trainer.precision=fp32", "trainer.validate_every=1"]


def trained(folder: Path, *overrides: str) -> Path:
    with initialize_config_module("conf", version_base="1.3"):
        config = OmegaConf.to_container(compose("train", overrides=[*TINY, f"runs={folder}", *overrides]), resolve=True)
    return train(config, print).folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refuse_stage(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    """Let the disk be full when the stage that has seen so many images is exported."""

    def save(folder: Path, config: StageConfig, state: dict[str, torch.Tensor]) -> None:
        if config.images_seen == images:
            raise OSError(errno.ENOSPC, "No space left on device", "weights")
        save_stage(folder, config, state)

    monkeypatch.setattr("stages.run.save_stage", save)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("validated", [True, False])
def test_a_stage_is_never_ahead_of_its_checkpoint(tmp_path: Path, monkeypatch, validated: bool) -> None:
    """A disk that is full at the checkpoint keeps the old one and the old stage; one full at the export is made up for.

    The weights at each step are the best so far, or nobody looks which are.
    """
    losses = iter(range(0, -10, -1))
    monkeypatch.setattr(Validation, "_measure", lambda *_: {"val/loss": float(next(losses))})
    images = [] if validated else ["trainer.validation_images=0"]
    folder = trained(tmp_path, *images, "trainer.max_steps=1")
    old, unbroken = content(folder), trained(tmp_path / "unbroken", *images, "trainer.max_steps=2")

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("unexpected pos 64 vs 0")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(CascadeError, match=r"last\.ckpt could not be written; is the"):
            trained(tmp_path, *images, "trainer.max_steps=2")
    new = content(folder)
    assert set(new) == set(old)
    assert {name for name in old if new[name] != old[name]} <= {"metrics.csv", "run.yaml"}

    refuse_stage(monkeypatch, images=4)
    with pytest.raises(OSError, match="No space left"):
        trained(tmp_path, *images, "trainer.max_steps=2")
    monkeypatch.setattr("stages.run.save_stage", save_stage)
    assert read_checkpoint(folder / "last.ckpt")["global_step"] == 2
    assert {name for name in old if content(folder)[name] != old[name] and "stage/" in name} == set()
    trained(tmp_path, *images, "trainer.max_steps=2")  # is finished, but for the export
    stage = "stage/weights.safetensors"
    assert content(folder)[stage] == content(unbroken)[stage] != old[stage]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_run_that_ended_before_the_export_of_its_best_begins_with_it(tmp_path: Path, monkeypatch) -> None:
    losses = iter([1.0, 0.0, 5.0])  # the second step is the best; the disk is full when it should be exported
    monkeypatch.setattr(Validation, "_measure", lambda *_: {"val/loss": next(losses)})

    every = ["trainer.max_steps=3", "trainer.checkpoint_every=1"]
    refuse_stage(monkeypatch, images=4)
    with pytest.raises(OSError, match="No space left"):
        trained(tmp_path, *every)
    monkeypatch.setattr("stages.run.save_stage", save_stage)
    assert load_stage_config(trained(tmp_path, *every)).images_seen == 4


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
