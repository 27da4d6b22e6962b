"""One writer at a time: a lock on a folder that the kernel takes back from a process that was killed."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path

from cascade.errors import CascadeError

LOCK = ".cascade.lock"
"""The lock file in a folder; it is there while somebody writes, and after a writer that was killed."""

_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF}
_PATIENCE = 1000
"""So many times in turn a file is opened in a folder that is taken away meanwhile."""
_held: set[int] = set()


@contextmanager
def exclusive(folder: str | Path) -> Iterator[None]:
    """Hold `folder` alone: raise CascadeError at once, in one line, if another process holds it.

    The folder is made if need be, and taken away again if it is then left empty. Where the whole folder is to be put in
    its place by a rename, or moved, hold `beside(folder)` instead. Forked processes (the workers of a loader) do not
    hold the lock, so one that outlives its parent is in nobody's way. A file system without locks does without.

    >>> import tempfile; folder = Path(tempfile.mkdtemp()) / "out"
    >>> with exclusive(folder), exclusive(folder):
    ...     pass
    Traceback (most recent call last):
    cascade.errors.CascadeError: ...
    >>> folder.exists()
    False
    """
    folder = Path(folder)
    made = _made(folder)
    try:
        with _locked(folder / LOCK, folder):
            yield
    finally:
        _remove_empty(made)


@contextmanager
def beside(folder: str | Path) -> Iterator[None]:
    """As `exclusive`, by a lock file beside the folder, which may itself be replaced or moved meanwhile.

    >>> import tempfile; folder = Path(tempfile.mkdtemp()) / "out"
    >>> with beside(folder):
    ...     [path.name for path in folder.parent.iterdir()]
    ['.out.cascade.lock']
    """
    folder = Path(folder).absolute()
    made = _made(folder.parent)
    try:
        with _locked(folder.parent / f".{folder.name}{LOCK}", folder):
            yield
    finally:
        _remove_empty(made)


def check_place(folder: str | Path, hold: Callable[[Path], AbstractContextManager[None]] = exclusive) -> None:
    """Raise CascadeError now where `hold(folder)`, which comes when the work has begun, would."""
    with hold(Path(folder)):
        pass


@contextmanager
def _locked(file: Path, folder: Path) -> Iterator[None]:
    try:
        handle = claim(file)
    except (FileNotFoundError, PermissionError) as error:
        raise CascadeError(f"nothing can be written in {file.parent}; choose another folder") from error
    if handle is None:
        raise CascadeError(f"{_writer(file)} is writing to {folder}; wait until it has ended, or choose another")
    os.ftruncate(handle, 0)
    os.pwrite(handle, str(os.getpid()).encode(), 0)
    owner = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == owner:
            file.unlink(missing_ok=True)  # before the lock is given back, so never a file that another one holds
            give_back(handle)


def claim(path: Path, *, folder: bool = False) -> int | None:
    """Lock a file or a folder, made if need be, and return the handle; None if somebody else holds it.

    On a file system without locks everybody gets a handle.
    """
    for attempt in count():
        try:
            if folder:
                path.mkdir(exist_ok=True)
            handle = os.open(path, (os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT) | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            # A folder where nothing can be made (/proc) looks as if somebody kept removing it.
            if not path.parent.exists() or attempt == _PATIENCE:
                raise
            continue  # the last holder has just removed the folder
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                os.close(handle)
                raise
        # Between open and lock the last holder may have removed or renamed it: then this lock holds nobody off.
        if _is_same(handle, path):
            _held.add(handle)
            return handle
        os.close(handle)
    return None


def is_held(path: Path) -> bool:
    """Whether somebody, be it this process, holds what `claim` locks; on a file system without locks nobody does.

    The look itself holds it for an instant, in which a `claim` may fail.

    >>> import tempfile; file = Path(tempfile.mkdtemp()) / "lock"
    >>> handle = claim(file)
    >>> is_held(file), give_back(handle), is_held(file)
    (True, None, False)
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
    finally:
        os.close(handle)
    return False


def give_back(handle: int) -> None:
    """Give back what `claim` has locked."""
    _held.discard(handle)
    os.close(handle)


def _writer(file: Path) -> str:
    try:
        number = file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        number = ""
    return f"process {number}" if number.isdigit() else "another process"


def _is_same(handle: int, file: Path) -> bool:
    try:
        there = file.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(handle)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def _made(folder: Path) -> list[Path]:
    """Make a folder and those above it; return the new ones, innermost first."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CascadeError(f"the folder {folder} cannot be made: {error.strerror}") from error
    return new


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:  # innermost first
        try:
            folder.rmdir()
        except OSError:
            return


def _forget_in_child() -> None:
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)
