"""Change one coefficient of one formula at a time: every change must make a test fail.

    python tests/mutants [WORD ...] [--jobs N]

Each mutant of `rooms/` is made in a copy of the repository, and its tests run there; the working tree stays as it is.
With words, only the mutants whose file or formula holds one of them. First the tests must pass unchanged. Exit code 1
if a mutant survives, 2 if nothing could be proved.
"""

import argparse
import gc
import importlib
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from mutant import Mutant
from table import MUTANTS

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("cascade", "stages", "conf", "tests", "pyproject.toml")
# Imported once, before the forks: most of a test run's time. Nothing of the repository is among them.
PRELOADED = (
    "torch",
    "torchvision",
    "numpy",
    "scipy.stats",
    "PIL.Image",
    "kornia.filters",
    "lightning.pytorch",
    "pytest",
)
SECONDS = 120  # for one test; a mutant that never ends is noticed
UNREADABLE = 98  # exit code of a child whose tests could not be collected: no law was tried
ELSEWHERE = 99  # exit code of a child that would have tested another repository


@dataclass(frozen=True)
class Run:
    """Some tests in a copy of the repository, with one mutant or none."""

    tests: tuple[str, ...]
    mutant: Mutant | None = None


@dataclass(frozen=True)
class Ended:
    """How a run ended: pytest's exit code (1 = a test failed) and what it printed."""

    run: Run
    code: int
    output: str
    seconds: float


def main() -> int:
    """Run the table, or the part of it that is named."""
    parser = argparse.ArgumentParser(prog="python tests/mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="WORD", help="only mutants whose file or formula holds a word")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (default: %(default)s)")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if mutant.holds(options.words)]
    if not chosen or options.jobs < 1:
        print("no mutant holds that word" if not chosen else "--jobs must be at least 1", file=sys.stderr)
        return 2
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    for name in PRELOADED:
        importlib.import_module(name)
    # pytest collects garbage thrice; what is loaded by now is none, and takes long to look through.
    gc.freeze()
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        # A copy of the beginning, so that whoever edits the working tree meanwhile changes no verdict.
        original = Path(temporary) / "original"
        original.mkdir()
        _copy(ROOT, original)
        stale = [mutant for mutant in chosen if mutant.stale(original)]
        for mutant in stale:
            print(f"STALE     {mutant}: {mutant.stale(original)}")
        return 2 if stale else _prove(chosen, original, options.jobs)


def _prove(chosen: Sequence[Mutant], original: Path, jobs: int) -> int:
    sets = list(dict.fromkeys(mutant.tests for mutant in chosen))
    print(f"{len(chosen)} mutants, {jobs} at a time; first their {len(sets)} sets of tests, unchanged")
    failed = [ended for ended in _all([Run(tests) for tests in sets], original, jobs) if ended.code != 0]
    for ended in failed:
        print(f"{ended.output}\nthe tests fail without any mutant: {' '.join(ended.run.tests)}", file=sys.stderr)
    if failed:
        return 2
    begun, survived = time.monotonic(), []
    for done, ended in enumerate(_all([Run(m.tests, m) for m in chosen], original, jobs), start=1):
        verdict = {0: "SURVIVED", 1: "killed"}.get(ended.code, f"BROKEN {ended.code}")
        rate = done / (time.monotonic() - begun)
        left = round((len(chosen) - done) / rate)
        print(
            f"{done:4d}/{len(chosen)}  {verdict:9s} {ended.run.mutant}  "
            f"({ended.seconds:.1f} s; {rate:.1f}/s, {left // 60}:{left % 60:02d} left)",
            flush=True,
        )
        if ended.code != 1:
            survived.append(ended)
        if ended.code not in {0, 1}:
            print("\n".join(ended.output.splitlines()[-15:]))
    print(f"{len(chosen) - len(survived)} killed, {len(survived)} survived in {time.monotonic() - begun:.0f} s")
    for ended in survived:
        print(f"  {ended.run.mutant}: {ended.run.mutant.old!r} -> {ended.run.mutant.new!r}" if ended.run.mutant else "")
    return 1 if survived else 0


def _all(runs: Sequence[Run], original: Path, jobs: int) -> Iterator[Ended]:
    """Yield the runs as they end, `jobs` at a time, each in a fork of this process and a copy of its own."""
    waiting = list(enumerate(runs))[::-1]
    running: dict[int, tuple[Run, Path, Path, float]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            number, run = waiting.pop()
            # Unchanged tests run in the original, and leave what they compiled to all copies.
            folder = original.parent / str(number) if run.mutant else original
            begun = time.monotonic()
            log = original.parent / f"{number}.log"
            sys.stdout.flush()
            if (pid := os.fork()) == 0:
                _test(run, original, folder, log)
            running[pid] = run, folder, log, begun
        pid, status = os.wait()
        run, folder, log, begun = running.pop(pid)
        output = log.read_text(errors="replace")
        if run.mutant:
            shutil.rmtree(folder, ignore_errors=True)
        yield Ended(run, os.waitstatus_to_exitcode(status), output, time.monotonic() - begun)


def _test(run: Run, original: Path, folder: Path, log: Path) -> None:
    """Never return: become pytest in `folder`, which a mutant's run makes as a copy of the original."""
    code = ELSEWHERE
    try:
        output = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(output, stream)
        if run.mutant:
            folder.mkdir()
            _copy(original, folder)
            run.mutant.apply(folder)
            sys.dont_write_bytecode = True
        os.chdir(folder)
        sys.path[0] = str(folder)
        importlib.invalidate_caches()
        # An editable install knows another folder of these names; the copy comes first, or nothing is proved.
        where = [importlib.import_module(name).__file__ for name in ("cascade", "stages", "conf")]
        if all(path and Path(path).is_relative_to(folder) for path in where):
            code = _pytest(run.tests)
        else:
            print(f"expected the copy in {folder}, found {where}")
    finally:
        if sys.exc_info()[0]:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _pytest(tests: Sequence[str]) -> int:
    # Only the plugin that the configuration needs: to load the others takes longer than most of the tests.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    options = ["-x", "-q", "--rootdir=.", "-p", "no:cacheprovider", "-p", "pytest_timeout", f"--timeout={SECONDS}"]
    collection = Collection()
    code = int(pytest.main([*options, *tests], plugins=[collection]))
    return UNREADABLE if collection.failed else code


class Collection:
    """A plugin of pytest that sees whether all tests could be read."""

    failed = False

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Called after each file."""
        self.failed |= report.failed


def _copy(source: Path, target: Path) -> None:
    # Times are kept, so that the compiled files of what did not change are valid in the copy.
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        else:
            shutil.copy2(source / name, target / name)


if __name__ == "__main__":
    sys.exit(main())
