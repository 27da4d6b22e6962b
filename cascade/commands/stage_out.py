"""The place of a new stage: free, or another stage's that may go."""

from pathlib import Path

from cascade.errors import CascadeError
from cascade.stage_files import CONFIG


def check_stage_out(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds something else than a stage, and a stage's unless `overwrite`."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if not (out / CONFIG).is_file():
            raise CascadeError(f"'{out}' holds something else than a stage; give another out=")
        if not overwrite:
            raise CascadeError(f"there is a stage at '{out}' already; overwrite=true puts this one in its place")
