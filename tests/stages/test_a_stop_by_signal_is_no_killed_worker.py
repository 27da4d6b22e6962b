"""A signal that all processes of a run receive stops it after its step, with a checkpoint, and kills no worker."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("training_process.py")
RUN = [
    "name=r",
    "trainer.workers=2",
    "trainer.validation_images=0",
    "trainer.max_steps=5",
    "trainer.checkpoint_every=2",
]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A run in a process group of its own."""
    command = [sys.executable, str(SCRIPT), *arguments, f"runs={folder}", *RUN]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, process_group=0)


def step_of(folder: Path) -> int:
    return torch.load(folder / "r" / "base64" / "last.ckpt", weights_only=True)["global_step"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_to_all_processes_stops_the_run_with_its_checkpoint(tmp_path: Path, number: int) -> None:
    stopped = run(tmp_path, "--stop-at=2", f"--signal={int(number)}")
    assert stopped.returncode == 128 + number, stopped.stderr
    assert "step 3 resumed from 0" in stopped.stdout
    assert step_of(tmp_path) == 3
    again = run(tmp_path)
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, "step 5 resumed from 3 in base64"), again.stderr


def test_a_worker_that_dies_of_a_stop_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    stopped = run(tmp_path, "--stop-at=2", "--kill-workers")
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    step = step_of(tmp_path)
    assert step in {2, 3}  # torch may hear of the worker's death before or after the step is saved
    assert f"step {step} resumed from 0" in stopped.stdout


def test_a_worker_heeds_the_one_that_trains_alone() -> None:
    """Signals of others do not end it, its parent's SIGTERM does, and so the loader can always end its workers."""
    code = (
        "import os, signal, sys, time; from stages.workers import heed_the_parent_alone\n"
        "began = os.pipe()\n"
        "worker = os.fork()\n"
        "if not worker:\n"
        "    heed_the_parent_alone(0); os.write(began[1], b'x'); time.sleep(60); os._exit(1)\n"
        "os.read(began[0], 1)\n"
        "stranger = os.fork()\n"
        "if not stranger:\n"
        "    os.kill(worker, signal.SIGTERM); os.kill(worker, signal.SIGINT); os._exit(0)\n"
        "os.waitpid(stranger, 0)\n"
        "print(os.waitpid(worker, os.WNOHANG)[0])\n"
        "os.kill(worker, signal.SIGTERM)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))\n"
    )
    if not hasattr(signal, "sigwaitinfo"):
        pytest.skip("this system does not say who sent a signal")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == ["0", "0"]
