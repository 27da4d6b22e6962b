"""Every mutant still fits: its old text occurs once, its new text is Python, its tests are there."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def table():
    """The module of all mutants; `python tests/mutants` finds it on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tests/mutants")
        yield importlib.import_module("table")


def test_no_mutant_is_stale(table):
    assert [f"{mutant}: {why}" for mutant in table.MUTANTS if (why := mutant.stale(ROOT))] == []


def test_mutants_differ_and_are_told_apart(table):
    assert len({str(mutant) for mutant in table.MUTANTS}) == len(table.MUTANTS)
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in table.MUTANTS}) == len(table.MUTANTS)


@pytest.mark.parametrize("room", ["cascade/diffusion", "cascade/sampling"])
def test_every_module_with_a_formula_has_mutants(room, table):
    without = {"__init__.py", "denoiser.py"}
    modules = {path.name for path in (ROOT / room).glob("*.py")} - without
    assert {Path(mutant.file).name for mutant in table.MUTANTS if mutant.file.startswith(room)} == modules


def test_a_mutant_that_does_not_fit_says_why(tmp_path, table):
    (tmp_path / "code.py").write_text("a = b + b\n")
    (tmp_path / "test.py").touch()
    wrong = {
        ("code.py", "b + c", "b - c", "test.py"): "occurs 0 times",
        ("code.py", "b", "c", "test.py"): "occurs 2 times",
        ("code.py", "b + b", "b + b", "test.py"): "changes nothing",
        ("code.py", "b + b", "b +", "test.py"): "no Python",
        ("code.py", "b + b", "b - b", "other.py::test"): "other.py::test does not exist",
        ("other.py", "b + b", "b - b", "test.py"): "other.py does not exist",
    }
    for (file, old, new, test), why in wrong.items():
        assert why in table.Mutant(file, "", old, new, (test,)).stale(tmp_path)
    fits = table.Mutant("code.py", "", "b + b", "b - b", ("test.py",))
    assert fits.stale(tmp_path) == ""
    fits.apply(tmp_path)
    assert (tmp_path / "code.py").read_text() == "a = b - b\n"
