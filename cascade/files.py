"""Files that are written whole or not at all, and their fingerprints."""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from cascade.lock import claim, give_back


def write_whole(path: str | Path, data: bytes | str) -> None:
    """Write `data` to `path` through a temporary file beside it: fsync, then rename.

    A reader sees the old file or the new one, never a part of it. Text is UTF-8.

    >>> import tempfile; folder = Path(tempfile.mkdtemp())
    >>> write_whole(folder / "a.txt", "whole")
    >>> (folder / "a.txt").read_text()
    'whole'
    """
    raw = data.encode() if isinstance(data, str) else data
    write_whole_with(path, lambda temporary: temporary.write_bytes(raw))


def write_whole_with(path: str | Path, write: Callable[[Path], object]) -> None:
    """As `write_whole`, for writers that want a path: `write(temporary)` makes the content.

    What a writer that was killed has left behind is written over.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept: some writers choose their format by it.
    temporary, handle = _claimed(path.with_name(f".{path.stem}.partial{path.suffix}"))
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)  # from here on the temporary name is another writer's to use
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)  # a full disk is told without a name
        raise
    finally:
        give_back(handle)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file; a full disk is that of the target, though Python names the source.

    >>> import tempfile; folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a").write_text("whole")
    >>> copy_file(folder / "a", folder / "b"); (folder / "b").read_text()
    'whole'
    """
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            error.filename = str(target)
        raise


def replace_folder(target: str | Path, fill: Callable[[Path], object]) -> None:
    """Put a folder made by `fill(new)` in the place of `target`, whole or not at all.

    It is filled beside the target and renamed; what was at `target` goes when that is done, and stays if it fails.

    >>> import tempfile; target = Path(tempfile.mkdtemp()) / "made"
    >>> for text in ("old", "new"):
    ...     replace_folder(target, lambda folder, text=text: (folder / text).touch())
    >>> [path.name for path in target.iterdir()], [path.name for path in target.parent.iterdir()]
    (['new'], ['made'])
    """
    target = Path(target).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch, handle = _claimed(target.with_name(f".{target.name}.partial"), folder=True)
    new, old = scratch / "new", scratch / "old"
    try:
        _clear(scratch, target)  # of a writer that was killed
        new.mkdir()
        fill(new)
        try:
            if target.exists():
                target.rename(old)
            new.rename(target)
        finally:
            if old.exists() and not target.exists():  # else it would go with the scratch folder
                old.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        give_back(handle)


def _clear(scratch: Path, target: Path) -> None:
    """Empty the scratch folder; a folder that its writer had moved out of the way goes back to its place first."""
    if (scratch / "old").exists() and not target.exists():
        (scratch / "old").rename(target)
    for entry in scratch.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def _claimed(path: Path, *, folder: bool = False) -> tuple[Path, int]:
    """Make and lock a temporary file or folder: `path`, or one of another name while a living writer has that."""
    claimed = path
    while (handle := claim(claimed, folder=folder)) is None:
        extra = secrets.token_hex(4)
        claimed = path.with_name(f"{path.name}-{extra}" if folder else f"{path.stem}-{extra}{path.suffix}")
    return claimed, handle


def _umask() -> int:
    # Some writers make private files; what we leave behind should be as readable as any other file of the user.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def expanded(path: str | Path) -> Path:
    """Return the path with the user's home folder in the place of its `~`; where no such user is, it stays a name.

    >>> expanded("~ no user/a").as_posix()
    '~ no user/a'
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises for a name without a user


def sha256_of(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
