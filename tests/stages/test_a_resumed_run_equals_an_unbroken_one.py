"""Killed at any step and started again, a training ends with the weights, EMA and optimizer of an unbroken one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stages.equal_runs import check_equal, checkpoint

SCRIPT = Path(__file__).with_name("training_process.py")


def run(folder: Path, overrides: list[str], kill_at: int = -1) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), f"--kill-at={kill_at}", f"runs={folder}", "name=r", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=900)


def check(tmp_path: Path, overrides: list[str], kill_at: list[int]) -> None:
    unbroken = run(tmp_path / "a", overrides)
    assert unbroken.returncode == 0, unbroken.stderr
    for step in kill_at:
        killed = run(tmp_path / "b", overrides, kill_at=step)
        assert killed.returncode == -9, killed.stderr
    resumed = run(tmp_path / "b", overrides)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed from {max(kill_at) // 2 * 2} " in resumed.stdout
    (a,), (b,) = (list((tmp_path / name).glob("r/*")) for name in "ab")
    assert checkpoint(a)["global_step"] == 6
    check_equal(a, b)


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


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("overrides", "workers", "accumulate", "kill_at"),
    [*QUICK, *(pytest.param(*p.values, id=p.id, marks=pytest.mark.slow) for p in SLOW)],
)
def test_a_killed_run_ends_where_an_unbroken_one_does(
    tmp_path: Path, overrides: list[str], workers: int, accumulate: int, kill_at: list[int]
) -> None:
    check(tmp_path, [*overrides, f"trainer.workers={workers}", f"trainer.accumulate={accumulate}"], kill_at)
