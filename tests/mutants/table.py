"""All mutants: those of each room of the repository, from `rooms/ROOM.py`."""

import importlib
from pathlib import Path

from mutant import Mutant

MUTANTS: list[Mutant] = [
    mutant
    for path in sorted((Path(__file__).parent / "rooms").glob("*.py"))
    for mutant in importlib.import_module(f"rooms.{path.stem}").MUTANTS
]
