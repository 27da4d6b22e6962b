"""Two runs that should be one, compared to the last bit."""

import csv
from pathlib import Path
from typing import Any

import torch

SPEED = ("train/images_per_second", "train/cpu_hours")


def checkpoint(run: Path) -> dict[str, Any]:
    return torch.load(run / "last.ckpt", weights_only=True)


def curve(run: Path) -> list[dict[str, str]]:
    """The rows of its metrics, but for how fast it was."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in SPEED} for row in csv.DictReader(file)]


def check_equal(run: Path, other: Path) -> None:
    """Weights, averages, optimizer, curve and exported stage."""
    a, b = checkpoint(run), checkpoint(other)
    for part in ("global_step", "state_dict", "optimizer_states"):
        same(a[part], b[part], part)
    assert curve(run) == curve(other)
    stages = [(folder / "stage/weights.safetensors").read_bytes() for folder in (run, other)]
    assert stages[0] == stages[1]


def same(a: object, b: object, where: str = "") -> None:
    """Equal to the last bit, and name the place that is not."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}/{i}")
    else:
        assert a == b or (a != a and b != b), where
