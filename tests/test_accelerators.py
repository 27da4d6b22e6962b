"""What is said of a device without torch is what torch says of it."""

import sys

import pytest
import torch

from cascade import accelerators
from cascade.accelerators import is_missing


def test_no_device_that_torch_finds_is_missing():
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    assert [kind for kind, found in there.items() if found and is_missing(kind)] == []


@pytest.mark.parametrize(
    ("version", "library", "missing"),
    [
        ("__version__ = '2.14.1+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n", True, True),
        ("__version__ = '2.14.1+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", False, True),
        ("__version__ = '2.14.1+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", True, False),
        ("__version__ = '2.14.1+rocm7'\ncuda: Optional[str] = None\nhip: Optional[str] = '7.0'\n", False, False),
    ],
    ids=["built for the CPU", "no driver", "a driver", "AMD's"],
)
def test_what_torch_was_built_for_and_the_driver_decide(tmp_path, monkeypatch, version, library, missing):
    (tmp_path / "version.py").write_text(version)
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(accelerators, "find_spec", lambda name: spec)
    monkeypatch.setattr(accelerators, "_has_library", lambda name: library)
    monkeypatch.setattr(sys, "platform", "linux")
    assert accelerators.is_missing.__wrapped__("cuda") is missing
