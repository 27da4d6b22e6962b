"""`make eval-proof`: one hash of the report over batch sizes, numbers of processes and kills, with real processes."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from cascade.rng import uniform

ROOT = Path(__file__).resolve().parents[2]
CASCADE = [sys.executable, "-P", "-m", "cascade", "evaluate"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python", "--nproc-per-node"]
COUNT = 70  # five chunks, the last of six pictures
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STARTED: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def nothing_is_left():
    """A process of a test that fails ends with it."""
    yield
    for process in STARTED:
        if process.poll() is None:
            process.terminate()
            process.communicate()
    STARTED.clear()


@pytest.fixture(scope="module")
def words(small_cascade, tmp_path_factory):
    photos = tmp_path_factory.mktemp("photos")
    for place in range(COUNT):
        pixels = (255 * uniform("photo", place, shape=(16, 16, 3))).to(torch.uint8)
        Image.fromarray(pixels.numpy()).save(photos / f"{place:02}.png")
    return [f"cascade={small_cascade}", "stages=2", f"reference={photos}", "features=tiny", f"num_images={COUNT}"]


@pytest.fixture(scope="module")
def alone(words, tmp_path_factory):
    """The hash of the report that one process makes."""
    return made(words, tmp_path_factory.mktemp("alone"))


def start(command, out, words, **environment):
    own = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "OMP_"))}
    own |= {"PYTHONPATH": str(ROOT), **environment}
    command = [*command, *words, f"out={out}"]
    STARTED.append(subprocess.Popen(command, env=own, stderr=subprocess.PIPE, stdout=subprocess.PIPE))
    return STARTED[-1]


def ended(process, code=0):
    said = process.communicate(timeout=800)
    assert process.returncode == code, said
    return said[1].decode()


def hashed(out, way):
    found = hashlib.sha256((out / "evaluation.json").read_bytes()).hexdigest()
    print(f"\n{found}  {way}", flush=True)
    return found


def made(words, out, way="one process", command=CASCADE):
    ended(start(command, out, words))
    return hashed(out, way)


def chunks(out):
    """How many chunks of samples there are."""
    return len(list(out.glob("measured/samples-*/*.safetensors")))


def wait_for(condition, process):
    until = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


def two(out, words):
    """Two processes as srun starts them, where nobody ends one because the other has failed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [start(CASCADE, out, words, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(2)]


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_by_how_many_are_held(batch, words, alone, tmp_path):
    assert made([*words, f"batch={batch}"], tmp_path, f"batch={batch}") == alone


@pytest.mark.parametrize("count", [2, 3])
def test_by_several_processes(count, words, alone, tmp_path):
    assert made(words, tmp_path, f"{count} processes", [*TORCHRUN, str(count), *CASCADE]) == alone


def test_after_a_kill(words, alone, tmp_path):
    process = start(CASCADE, tmp_path, words)
    wait_for(lambda: chunks(tmp_path), process)
    process.kill()
    ended(process, -signal.SIGKILL)
    assert 0 < chunks(tmp_path) < 5
    assert made(words, tmp_path, "killed, then two processes", [*TORCHRUN, "2", *CASCADE]) == alone


def test_with_one_process_killed(words, alone, tmp_path):
    first, other = two(tmp_path, words)
    wait_for(lambda: list(tmp_path.glob("measured/samples-*/.*.claim")), first)
    other.kill()
    ended(other, -signal.SIGKILL)
    ended(first)
    assert hashed(tmp_path, "two processes, one killed") == alone


def test_without_the_first_the_other_ends_in_a_minute(words, tmp_path):
    first, other = two(tmp_path, words)
    wait_for(lambda: chunks(tmp_path), first)
    first.kill()
    began = time.monotonic()
    said = ended(other, 2)
    assert time.monotonic() - began < 60
    assert "process 0 has ended before it was done" in said
    ended(first, -signal.SIGKILL)


def test_with_the_first_stopped_the_other_ends_and_it_goes_on_alone(words, alone, tmp_path):
    first, other = two(tmp_path, words)
    wait_for(lambda: chunks(tmp_path), first)
    first.send_signal(signal.SIGSTOP)
    try:
        assert "process 0 has given no sign of life for 60 seconds" in ended(other, 2)
    finally:
        first.send_signal(signal.SIGCONT)
    ended(first)
    assert hashed(tmp_path, "two processes, the first stopped for a while") == alone
