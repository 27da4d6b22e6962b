"""Every mutant still fits: its old text occurs once, its new text is Python, its tests are there."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def load():
    spec = importlib.util.spec_from_file_location("mutants_table", ROOT / "tests/mutants/table.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


TABLE = load()


def test_no_mutant_is_stale():
    assert [f"{mutant}: {why}" for mutant in TABLE.MUTANTS if (why := mutant.stale(ROOT))] == []


def test_mutants_differ_and_are_told_apart():
    assert len({str(mutant) for mutant in TABLE.MUTANTS}) == len(TABLE.MUTANTS)
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in TABLE.MUTANTS}) == len(TABLE.MUTANTS)


@pytest.mark.parametrize("room", ["cascade/diffusion", "cascade/sampling"])
def test_every_module_with_a_formula_has_mutants(room):
    without = {"__init__.py", "denoiser.py"}
    modules = {path.name for path in (ROOT / room).glob("*.py")} - without
    assert {Path(mutant.file).name for mutant in TABLE.MUTANTS if mutant.file.startswith(room)} == modules


def test_a_mutant_that_does_not_fit_says_why(tmp_path):
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
        assert why in TABLE.Mutant(file, "", old, new, (test,)).stale(tmp_path)
    fits = TABLE.Mutant("code.py", "", "b + b", "b - b", ("test.py",))
    assert fits.stale(tmp_path) == ""
    fits.apply(tmp_path)
    assert (tmp_path / "code.py").read_text() == "a = b - b\n"
