"""A mutant: one coefficient, sign or index of one formula, and the tests that must notice."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """In `file`, `old` (which occurs once) becomes `new`; `formula` says what of, `tests` are paths for pytest."""

    file: str
    formula: str
    old: str
    new: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}: {self.formula}"

    def holds(self, words: Sequence[str]) -> bool:
        """Whether it is about one of these words, or there are none."""
        return not words or any(word.lower() in str(self).lower() for word in words)

    def stale(self, root: Path) -> str:
        """Return why it does not fit the repository at `root`; "" if it does."""
        missing = [test for test in self.tests if not (root / test.split("::")[0]).exists()]
        if missing or not (root / self.file).is_file():
            return f"{(missing or [self.file])[0]} does not exist"
        count = (root / self.file).read_text(encoding="utf-8").count(self.old)
        if count != 1 or self.old == self.new:
            return f"{self.old!r} occurs {count} times, not once" if count != 1 else "it changes nothing"
        try:
            ast.parse(self._changed(root))
        except SyntaxError as error:
            return f"the mutant is no Python: {error}"
        return ""

    def apply(self, root: Path) -> None:
        """Change the file below `root`."""
        changed = self._changed(root)
        (root / self.file).write_text(changed, encoding="utf-8")
        # A compiled file is taken for valid by the source's time in seconds and its size.
        path = root / self.file
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            compiled.unlink()

    def _changed(self, root: Path) -> str:
        return (root / self.file).read_text(encoding="utf-8").replace(self.old, self.new)


def mutants(file: str, tests: str, *rows: tuple[str, str, str]) -> list[Mutant]:
    """Return the mutants of a file. Each row is (formula, old, new); `tests` are below tests/, between blanks."""
    return [
        Mutant(file, formula, old, new, tuple(f"tests/{test}" for test in tests.split())) for formula, old, new in rows
    ]
