"""Files that are written whole or not at all, and their fingerprints."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


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
    """As `write_whole`, for writers that want a path: `write(temporary)` makes the content."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept: some writers choose their format by it.
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk is told without a name
        raise
    finally:
        temporary.unlink(missing_ok=True)


def replace_folder(target: str | Path, fill: Callable[[Path], object]) -> None:
    """Put a folder made by `fill(new)` in the place of `target`, whole or not at all.

    It is filled beside the target and renamed; what was at `target` goes when that is done, and stays if it fails.

    >>> import tempfile; target = Path(tempfile.mkdtemp()) / "made"
    >>> for text in ("old", "new"):
    ...     replace_folder(target, lambda folder, text=text: (folder / text).touch())
    >>> [path.name for path in target.iterdir()], [path.name for path in target.parent.iterdir()]
    (['new'], ['made'])
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()
        fill(new)
        try:
            if target.exists():
                target.rename(old)
            new.rename(target)
        finally:
            if old.exists() and not target.exists():  # else it would go with the scratch folder
                old.rename(target)


def _umask() -> int:
    # mkstemp makes private files; what we leave behind should be as readable as any other file of the user.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sha256_of(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
