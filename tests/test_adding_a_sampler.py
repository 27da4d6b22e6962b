"""A new sampler is one new file, one new yaml and one row in the registry's table: the commands train and sample it.

Done for real in a copy of the repository: a toy is written beside the others, named, and asked for.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]

FILE = '''
"""A toy: a convex mixture of the mean at the noisiest level with each later one."""

from dataclasses import dataclass

from torch import Tensor

from cascade.diffusion import Condition, Denoiser
from cascade.sampling.transition import Noise, transitions


@dataclass(frozen=True)
class Toy:
    """x̂ ← (1 − share)·x̂ + share·x̂_next, diffused again to each level."""

    share: float = 0.5

    def __call__(self, denoiser: Denoiser, x: Tensor, log_snrs: Tensor, condition: Condition, randn: Noise) -> Tensor:
        """Sample."""
        mixed = None
        for step in transitions(log_snrs):
            mean = step.t.denoise(denoiser, x, condition).mean
            mixed = mean if mixed is None else (1 - self.share) * mixed + self.share * mean
            if step.ends_clean:
                break
            x = step.s.alpha * mixed + step.s.sigma * randn(step.index)
        return mixed
'''
YAML = """
# cascade train stage=base64 sampler=toy: one network call per step; no use but in a test.
name: toy
share: 0.5
"""
ROW = """        "toy": "cascade.sampling.toy:Toy",
"""
COMMANDS = """
import sys
from cascade.commands.command_line import main
small = ["debug=fast", "data.size=4", "data.val_size=2", "trainer.max_steps=1", "trainer.sample_every=1"]
for command in [
    ["train", "stage=base64", "name=run", "sampler=toy", "sampler.share=0.25", *small],
    ["assemble", "stages=[runs/run/base64]", "out=made"],
    ["sample", "cascade=made", "classes=0", "seeds=5", "base64.steps=3", "out=samples"],
]:
    if main(command):
        sys.exit(f"failed: {command}")
sys.exit(main(["train", "stage=base64", "name=other", "sampler=toy", "sampler.shar=0.25", *small]))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The code of the repository with a toy sampler added."""
    for room in ("cascade", "stages", "conf"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "cascade/sampling/toy.py").write_text(FILE.lstrip(), encoding="utf-8")
    (tmp_path / "conf/sampler/toy.yaml").write_text(YAML.lstrip(), encoding="utf-8")
    table = tmp_path / "cascade/registry.py"
    head = '    "sampler": {\n'
    text = table.read_text(encoding="utf-8")
    assert text.count(head) == 1
    table.write_text(text.replace(head, head + ROW), encoding="utf-8")
    return tmp_path


def test_a_sampler_is_added_with_one_file_one_yaml_and_one_row(copy: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(copy)}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    # The last command misspells the toy's parameter.
    assert done.returncode == 2, done.stderr
    assert "did you mean 'sampler.share'?" in done.stderr.splitlines()[-1]

    stage = yaml.safe_load((copy / "made/base64/config.yaml").read_text(encoding="utf-8"))
    assert stage["sampling"]["sampler"] == {"name": "toy", "share": 0.25}
    assert list((copy / "runs/run/base64").rglob("*.png")), "training draws pictures with it"
    (line,) = (copy / "samples/manifest.jsonl").read_text(encoding="utf-8").splitlines()
    record = json.dumps(json.loads(line))
    assert '"name": "toy", "share": 0.25' in record
    assert (copy / "samples").joinpath(json.loads(line)["file"]).is_file()
