"""A new network is one new file, one new yaml and one row in the registry's table: any stage trains and samples it.

Done for real in a copy of the repository: a toy is written beside the others, named, and asked for.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]

FILE = '''
"""A toy: one convolution, told the noise level by a bias."""

import math

from torch import Tensor, nn

from cascade.networks.embedding import ConditionEmbedding


class Toy(nn.Module):
    """conv(x) + W·embedding."""

    receptive_radius = math.inf

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 3,
        num_classes: int = 0,
        augment_dim: int = 0,
        embedding_dim: int = 8,
    ) -> None:
        super().__init__()
        self.embedding_dim, self.multiple = embedding_dim, 1
        self.embedding = ConditionEmbedding(embedding_dim, num_classes, augment_dim)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.bias = nn.Linear(embedding_dim, out_channels)

    def forward(
        self,
        x: Tensor,
        log_snr: Tensor,
        label: Tensor | None = None,
        *,
        augment: Tensor | None = None,
        extra: Tensor | None = None,
    ) -> Tensor:
        """(B, in_channels, H, W) → (B, out_channels, H, W)."""
        return self.conv(x) + self.bias(self.embedding(log_snr, label, augment, extra))[:, :, None, None]
'''
YAML = """
# cascade train stage=base64 network=toy: no use but in a test.
name: toy
embedding_dim: 8
"""
ROW = """        "toy": "cascade.networks.toy:Toy",
"""
COMMANDS = """
import sys
from cascade.commands.command_line import main
small = ["debug=fast", "network=toy", "data.size=2", "data.val_size=2", "trainer.max_steps=1", "trainer.sample_every=0"]
for command in [
    ["train", "stage=base64", "name=run", *small],
    ["train", "stage=sr256", "name=run", *small],
    ["assemble", "stages=[runs/run/base64,runs/run/sr256]", "out=made"],
    ["sample", "cascade=made", "classes=0", "seeds=5", "base64.steps=2", "sr256.steps=2", "out=samples"],
]:
    if main(command):
        sys.exit(f"failed: {command}")
sys.exit(main(["train", "stage=base64", "name=other", "network.embeding_dim=4", *small]))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The code of the repository with a toy network added."""
    for room in ("cascade", "stages", "conf"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "cascade/networks/toy.py").write_text(FILE.lstrip(), encoding="utf-8")
    (tmp_path / "conf/network/toy.yaml").write_text(YAML.lstrip(), encoding="utf-8")
    table = tmp_path / "cascade/registry.py"
    head = '    "network": {\n'
    text = table.read_text(encoding="utf-8")
    assert text.count(head) == 1
    table.write_text(text.replace(head, head + ROW), encoding="utf-8")
    return tmp_path


def test_a_network_is_added_with_one_file_one_yaml_and_one_row(copy: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(copy)}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    # The last command misspells the toy's parameter.
    assert done.returncode == 2, done.stderr
    assert "did you mean 'network.embedding_dim'?" in done.stderr.splitlines()[-1]
    for stage, channels in (("base64", 3), ("sr256", 6)):
        folder = copy / "made" / stage
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        assert config["network"] == {"name": "toy", "embedding_dim": 8}
        weights = load_file(folder / "weights.safetensors")
        assert weights["network.network.conv.weight"].shape == (3, channels, 3, 3)
    assert list((copy / "samples").glob("*.png"))
