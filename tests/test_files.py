"""Files and folders appear whole or not at all, and what killed writers leave behind goes with the next writing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cascade.files import replace_folder, write_whole, write_whole_with

KILLED = """
import os, signal, sys
from pathlib import Path
from cascade.files import replace_folder, write_whole_with
def stop(temporary):
    (temporary if {file} else temporary / "part").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
{name}(sys.argv[1], stop)
"""


def kill_within(name: str, target: Path) -> None:
    code = KILLED.format(name=name, file=name == "write_whole_with")
    done = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert done.returncode == -signal.SIGKILL


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_what_a_killed_writer_of_a_file_left_goes_with_the_next_writing(tmp_path) -> None:
    target = tmp_path / "é (1)" / "weights.bin"
    write_whole(target, "old")
    kill_within("write_whole_with", target)
    kill_within("write_whole_with", target)
    assert names(target.parent) == [".weights.partial.bin", "weights.bin"]
    assert target.read_text() == "old"
    write_whole(target, "new")
    assert names(target.parent) == ["weights.bin"]
    assert target.read_text() == "new"


def test_what_a_killed_writer_of_a_folder_left_goes_with_the_next_writing(tmp_path) -> None:
    target = tmp_path / "stage"
    replace_folder(target, lambda new: (new / "old").touch())
    kill_within("replace_folder", target)
    assert names(tmp_path) == [".stage.partial", ".stage.partial/new", ".stage.partial/new/part", "stage", "stage/old"]
    replace_folder(target, lambda new: (new / "new").touch())
    assert names(tmp_path) == ["stage", "stage/new"]


def test_a_folder_that_a_killed_writer_had_moved_aside_comes_back(tmp_path) -> None:
    """Killed between the two renames, and the next writer fails: the old folder is there again."""
    (tmp_path / ".stage.partial" / "old").mkdir(parents=True)
    (tmp_path / ".stage.partial" / "old" / "weights").touch()

    def fail(new: Path) -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        replace_folder(tmp_path / "stage", fail)
    assert names(tmp_path) == ["stage", "stage/weights"]


def test_two_writers_of_one_file_do_not_touch_each_others_part(tmp_path) -> None:
    target = tmp_path / "a.txt"

    def outer(temporary: Path) -> None:
        temporary.write_text("outer")
        write_whole(target, "inner")
        assert target.read_text() == "inner"
        assert temporary.read_text() == "outer"

    write_whole_with(target, outer)
    assert target.read_text() == "outer"
    assert names(tmp_path) == ["a.txt"]


def test_two_writers_of_one_folder_do_not_touch_each_others_part(tmp_path) -> None:
    def outer(new: Path) -> None:
        (new / "outer").touch()
        replace_folder(tmp_path / "made", lambda inner: (inner / "inner").touch())
        assert names(tmp_path / "made") == ["inner"]

    replace_folder(tmp_path / "made", outer)
    assert names(tmp_path) == ["made", "made/outer"]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path) -> None:
    write_whole(tmp_path / "a.txt", "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write_whole_with(tmp_path / "a.txt", fail)
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_file_is_as_readable_as_any_other(tmp_path) -> None:
    mask = os.umask(0o027)
    try:
        write_whole(tmp_path / "a.txt", "x")
    finally:
        os.umask(mask)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_no_handle_is_left_open(tmp_path) -> None:
    handles = Path("/proc/self/fd")
    if not handles.exists():
        pytest.skip("this system does not list them")
    before = len(list(handles.iterdir()))
    for i in range(20):
        write_whole(tmp_path / "a.txt", str(i))
        replace_folder(tmp_path / "b", lambda new: (new / "c").touch())
    assert len(list(handles.iterdir())) == before


def test_a_crowd_of_writers_leaves_one_whole_file_and_one_whole_folder(tmp_path) -> None:
    code = """
import sys
from pathlib import Path
from cascade.files import replace_folder, write_whole
for i in range(40):
    write_whole(Path(sys.argv[1]) / "a.txt", sys.argv[2] * 10000)
    replace_folder(Path(sys.argv[1]) / f"b{sys.argv[2]}", lambda new: (new / "c").touch())
"""
    crowd = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "xyz"]
    assert [process.wait() for process in crowd] == [0, 0, 0]
    text = (tmp_path / "a.txt").read_text()
    assert text in {name * 10000 for name in "xyz"}
    assert names(tmp_path) == ["a.txt", "bx", "bx/c", "by", "by/c", "bz", "bz/c"]
