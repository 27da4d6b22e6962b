"""Killed at any step and started again, a training ends with the weights, EMA and optimizer of an unbroken one."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from cascade.data.cache import write_cache
from cascade.data.procedural import ProceduralDataset
from tests.stages.equal_runs import check_equal, checkpoint

SCRIPT = Path(__file__).with_name("training_process.py")
Death = tuple[int, str]
"""The optimizer step, and where in it (PLACES of the script)."""


def run(*lives: list[str]) -> subprocess.CompletedProcess[str]:
    """One life after another; those of one call share the interpreter that they are forked from."""
    words = [word for life in lives for word in ("--next", *life)][1:]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=900)


def life(folder: Path, overrides: list[str], death: Death | None = None) -> list[str]:
    dies = [] if death is None else [f"--kill-at={death[0]}", f"--kill-in={death[1]}"]
    return [*dies, f"runs={folder}", "name=r", *overrides]


def saved(death: Death) -> int:
    """The step that is gone on from: the last even one whose checkpoint was whole."""
    step, place = death
    return (step - 1 if place == "checkpoint" else step) // 2 * 2


def check(tmp_path: Path, overrides: list[str], workers: int, deaths: Sequence[Death], forked: bool = False) -> None:
    """Compare a run with one that dies these deaths; each life has an interpreter of its own unless it is `forked`."""
    overrides = [*overrides, f"trainer.workers={workers}"]
    lives = [life(tmp_path / "b", overrides, death) for death in (*deaths, None)]
    lives.insert(0, life(tmp_path / "a", overrides))
    if forked:
        ended = run(*lives)
        said, codes = ended.stdout, [line for line in ended.stdout.splitlines() if line.startswith("ended with")]
        assert codes == ["ended with 0", *["ended with -9" for _ in deaths], "ended with 0"], ended.stderr
    else:
        ended = [run(words) for words in lives]
        said, codes = "".join(one.stdout for one in ended), [one.returncode for one in ended]
        assert codes == [0, *[-9 for _ in deaths], 0], [one.stderr for one in ended]
    last = max(saved(death) for death in deaths)
    assert f"step 6 resumed from {last} " in said
    assert said.count(f"\n{workers} workers\n") == (2 if last < 6 else 1), said  # where nothing is left there are none
    (a,), (b,) = (list((tmp_path / name).glob("r/*")) for name in "ab")
    assert checkpoint(a)["global_step"] == 6
    check_equal(a, b)


@pytest.fixture
def cache(tmp_path: Path) -> list[str]:
    """Of 64 px, with more pictures of some classes than of others."""
    splits = {"train": ProceduralDataset(64, size=20), "val": ProceduralDataset(64, "val", val_size=6)}
    write_cache(splits, tmp_path / "cache", workers=1)
    return ["data=cache", f"data.root={tmp_path / 'cache'}"]


@pytest.fixture
def folder(tmp_path: Path) -> list[str]:
    drawn = ProceduralDataset(64, size=20)
    for i in range(len(drawn)):
        path = tmp_path / "photos" / drawn.class_names[drawn.label(i)] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.image(i).permute(1, 2, 0).numpy()).save(path)
    return ["data=folder", f"data.root={tmp_path / 'photos'}", "data.val_fraction=0.3"]


# All that the shipped stages can do to a picture is on; their crops and everything but the widths are as shipped.
BASE64 = ["stage=base64", "geometric=edm", "geometric.p=0.5"]
SR256 = ["stage=sr256", "augmentation.blur_probability=0.5"]
SR1024 = ["stage=sr1024", "augmentation.blur_probability=0.5"]
QUICK = [
    pytest.param(BASE64, 0, 1, [3], id="base64"),
    pytest.param([*SR256, "stage.crop=64"], 2, 3, [1, 4], id="sr256"),
]
SLOW = [
    pytest.param(stage, workers, accumulate, [kill], id=f"{stage[0]}-{workers}-{accumulate}")
    for stage, kill in ((BASE64, 3), (SR256, 1), (SR1024, 3))
    for workers in (0, 2)
    for accumulate in (1, 3)
] + [pytest.param(BASE64, 2, 1, [0, 2, 5], id="killed again and again")]
EVERYWHERE = [(2, "micro-batch"), (3, "export"), (4, "checkpoint"), (6, "swap")]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("overrides", "workers", "accumulate", "kill_at"),
    [*QUICK, *(pytest.param(*p.values, id=p.id, marks=pytest.mark.slow) for p in SLOW)],
)
def test_a_killed_run_ends_where_an_unbroken_one_does(
    tmp_path: Path, overrides: list[str], workers: int, accumulate: int, kill_at: list[int]
) -> None:
    deaths = [(step, "step") for step in kill_at]
    check(tmp_path, [*overrides, f"trainer.accumulate={accumulate}"], workers, deaths)


@pytest.mark.timeout(1200)
def test_killed_in_the_midst_of_a_step_or_of_what_it_writes(tmp_path: Path, cache: list[str]) -> None:
    balanced = [*BASE64, *cache, "stage.balanced=true", "trainer.accumulate=2"]
    check(tmp_path, balanced, 2, EVERYWHERE, forked=True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("death", EVERYWHERE, ids=lambda death: death[1])
@pytest.mark.parametrize("stage", [SR256, SR1024], ids=lambda stage: stage[0])
def test_killed_anywhere_in_a_step_of_a_super_resolution(tmp_path: Path, stage: list[str], death: Death) -> None:
    check(tmp_path, [*stage, "trainer.accumulate=2"], 2, [death], forked=True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("balanced", ["true", "false"])
@pytest.mark.parametrize("source", ["cache", "folder"])
def test_killed_while_workers_read_files(
    tmp_path: Path, source: str, balanced: str, request: pytest.FixtureRequest
) -> None:
    overrides = [*BASE64, *request.getfixturevalue(source), f"stage.balanced={balanced}", "trainer.accumulate=3"]
    check(tmp_path, overrides, 2, [(1, "step"), (4, "micro-batch")])
