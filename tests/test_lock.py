"""One writer at a time in a folder; a writer that was killed is in nobody's way."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cascade.errors import CascadeError
from cascade.lock import LOCK, beside, exclusive

HOLD = """
import os, sys, time
from cascade.lock import beside, exclusive
with {name}(sys.argv[1]):
    {then}
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path, name: str, then: str = "pass") -> subprocess.Popen[str]:
    code = HOLD.format(name=name, then=then)
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as lines:
        assert lines.readline() == "held\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("lock", [exclusive, beside])
def test_another_process_is_held_off_until_the_kernel_takes_the_lock_from_the_killed_one(tmp_path, lock) -> None:
    folder = tmp_path / "runs é (1)" / "out"
    process = holder(folder, lock.__name__)
    try:
        with pytest.raises(CascadeError, match=f"process {process.pid} is writing to .*out; wait"), lock(folder):
            pass
    finally:
        kill(process)
    with lock(folder):  # the file of the killed one is still there, its lock is not
        pass


def test_a_fork_that_outlives_its_parent_does_not_hold_the_lock(tmp_path) -> None:
    child = "(os.write(ends[1], b'x'), time.sleep(10), os._exit(0))"
    kill(holder(tmp_path / "out", "exclusive", f"ends = os.pipe(); os.read(ends[0], 1) if os.fork() else {child}"))
    with exclusive(tmp_path / "out"):
        pass


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12
def test_a_fork_that_ends_does_not_give_the_lock_of_its_parent_back(tmp_path) -> None:
    with exclusive(tmp_path / "out"):
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
        assert (tmp_path / "out" / LOCK).exists()
        with pytest.raises(CascadeError, match="is writing to"), exclusive(tmp_path / "out"):
            pass


@pytest.mark.parametrize("lock", [exclusive, beside])
def test_nothing_is_left_behind_but_what_was_written(tmp_path, lock) -> None:
    with lock(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a").exists()
    with lock(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b").mkdir(exist_ok=True)
        (tmp_path / "a" / "b" / "1.png").touch()
    assert [path.name for path in (tmp_path / "a").rglob("*")] == ["b", "1.png"]


def test_folders_do_not_hold_off_one_another(tmp_path) -> None:
    with exclusive(tmp_path / "a"), exclusive(tmp_path / "b"), beside(tmp_path / "a"), beside(tmp_path / "b"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_where_nothing_can_be_made_is_one_line():
    if not Path("/proc/self").exists():
        pytest.skip("there is no /proc, whose files nobody can make")
    with pytest.raises(CascadeError, match="nothing can be written in /proc"), beside("/proc/cascade"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="who may write everywhere is refused nowhere")
def test_a_folder_that_may_not_be_written_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with (
        pytest.raises(CascadeError, match=r"nothing can be written in .*; choose another folder"),
        beside(tmp_path / "x"),
    ):
        pass
