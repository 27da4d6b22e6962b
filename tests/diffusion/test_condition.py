"""The condition: dropping and nulling touch the label, and nothing else."""

import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest
import torch

from cascade.diffusion import UNCONDITIONED, Condition


@pytest.fixture
def full():
    return Condition(
        label=torch.tensor([0, 4, 7]),
        low_res=torch.rand(3, 3, 4, 4),
        aug_log_snr=torch.tensor([1.0, torch.inf, -2.0]),
        augment=torch.rand(3, 9),
    )


def test_drop_and_null_touch_the_label_alone(full):
    dropped, null = full.drop(torch.tensor([False, True, False])), full.null()
    assert dropped.label.tolist() == [0, -1, 7]
    assert null.label.tolist() == [-1, -1, -1]
    assert null.label.dtype == torch.int64
    for other in (dropped, null):
        assert other.low_res is full.low_res
        assert other.aug_log_snr is full.aug_log_snr
        assert other.augment is full.augment
    assert full.label.tolist() == [0, 4, 7]


def test_without_labels_there_is_nothing_to_drop():
    assert UNCONDITIONED.null() is UNCONDITIONED
    assert UNCONDITIONED.drop(torch.tensor([True])) is UNCONDITIONED
    assert UNCONDITIONED.take(slice(0, 1)).label is None


@pytest.mark.parametrize("index", [slice(1, 3), torch.tensor([1, 2]), torch.tensor([False, True, True])])
def test_take_selects_the_same_images_of_every_field(full, index):
    part = full.take(index)
    for name in ("label", "low_res", "aug_log_snr", "augment"):
        assert torch.equal(getattr(part, name), getattr(full, name)[1:3]), name


def test_to_moves_every_field(full):
    moved = full.to("meta")
    assert {getattr(moved, n).device.type for n in ("label", "low_res", "aug_log_snr", "augment")} == {"meta"}


def test_a_misspelt_field_fails():
    with pytest.raises(TypeError, match="lable"):
        Condition(lable=torch.tensor([1]))
    with pytest.raises(FrozenInstanceError):
        UNCONDITIONED.label = torch.tensor([1])


def test_the_mathematics_imports_nothing_heavy():
    heavy = ("kornia", "lightning", "hydra", "wandb", "torchmetrics", "torchvision")
    code = f"import sys, cascade.diffusion; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
