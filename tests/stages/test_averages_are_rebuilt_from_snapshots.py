"""A run keeps snapshots of two averages, whatever stops it, and any other average is rebuilt from them."""

import copy
import shutil
import signal

import pytest
import torch
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from safetensors.torch import load_file

from cascade.artifact import load_stage
from cascade.commands.command_line import main
from cascade.diffusion.power_ema import PowerEMA
from cascade.snapshots import Snapshots
from stages.diffusion_stage import DiffusionStage
from stages.run import train
from tests.stages.equal_runs import checkpoint, same

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]

SMALL = ["stage=base64", "stage.resolution=8", "network=tiny", "network.channels=[8]", "network.blocks=[1]"]
SMALL += ["network.attention=[false]", "network.embedding_dim=8", "data=procedural", "data.size=12", "name=r"]
SMALL += ["trainer.batch=2", "trainer.workers=0", "trainer.accelerator=cpu", "trainer.precision=fp32"]
SMALL += ["trainer.warmup_steps=0", "trainer.validation_images=0", "trainer.sample_every=0", "trainer.log_every=50"]
SMALL += ["trainer.checkpoint_every=7", "ema=power_pair", "trainer.optimizer.lr=2e-3"]


def composed(folder, *words):
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("train", overrides=[*SMALL, f"runs={folder}", *words])
    return OmegaConf.to_container(config, resolve=True)


def test_an_average_that_was_tracked_is_rebuilt_from_32_snapshots_of_two_others(tmp_path, monkeypatch, capsys):
    """The law of the issue on a real training: 2e-3 of the average's way from the weights it began with."""
    widths, tracked = (0.06, 0.07, 0.085), {}
    update = DiffusionStage.optimizer_step

    def update_ours_too(self, *arguments):
        step = self.global_step
        update(self, *arguments)
        for width in widths:
            PowerEMA(width).update(tracked.setdefault(width, copy.deepcopy(self.average)), self.denoiser, step)

    monkeypatch.setattr(DiffusionStage, "optimizer_step", update_ours_too)
    words = ["ema.every=4", "ema.count=32", "trainer.max_steps=128"]
    run = train(composed(tmp_path, *words), print).folder
    kept = list(Snapshots(run).found())
    assert kept == [(step, width) for step in range(4, 129, 4) for width in (0.05, 0.1)]
    first = load_file(Snapshots(run).found()[4, 0.05])
    for width in widths:
        out = tmp_path / f"out{width}"
        assert main(["reconstruct-ema", f"run={run}", f"sigma_rel={width}", f"out={out}"]) == 0
        rebuilt, truth = load_stage(out), tracked[width].state_dict()
        assert rebuilt.config.images_seen == 256
        assert rebuilt.config.name == "base64"
        state = rebuilt.denoiser.state_dict()
        moved = torch.stack([(truth[key] - first[key]).square().sum() for key in truth if key in first]).sum().sqrt()
        away = torch.stack([(truth[key] - state[key]).square().sum() for key in truth]).sum().sqrt()
        exported = load_stage(run).denoiser.state_dict()
        other = torch.stack([(truth[key] - exported[key]).square().sum() for key in truth]).sum().sqrt()
        assert away < 2e-3 * moved
        assert away < 0.1 * other
    assert capsys.readouterr().out.count("of 32 snapshots of each width; its profile is 0.0") == 3


def files(folder):
    found = Snapshots(folder / "r/base64").found()
    return {key: file.read_bytes() for key, file in found.items()}


def test_snapshots_of_a_run_that_was_stopped_are_those_of_an_unbroken_one(tmp_path, monkeypatch):
    words = ["ema.every=2", "ema.count=4"]
    train(composed(tmp_path / "a", *words, "trainer.max_steps=24"), print)
    train(composed(tmp_path / "b", *words, "trainer.max_steps=11"), print)
    assert sorted({step for step, _ in files(tmp_path / "b")}) == [4, 8, 11]
    # Killed behind its last checkpoint: what it kept since is made again.
    step = DiffusionStage.optimizer_step

    def stop_at_18(self, *arguments):
        step(self, *arguments)
        if self.global_step == 18:
            raise KeyboardInterrupt

    monkeypatch.setattr(DiffusionStage, "optimizer_step", stop_at_18)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(composed(tmp_path / "b", *words, "trainer.max_steps=24"), print)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.undo()
    assert max(step for step, _ in files(tmp_path / "b")) == 16
    assert train(composed(tmp_path / "b", *words, "trainer.max_steps=15"), print).resumed_from == 14
    assert sorted({step for step, _ in files(tmp_path / "b")}) == [4, 8, 12, 15]
    assert train(composed(tmp_path / "b", *words, "trainer.max_steps=24"), print).resumed_from == 15
    assert sorted({at for at, _ in files(tmp_path / "a")}) == [8, 16, 24]
    assert files(tmp_path / "a") == files(tmp_path / "b")
    last = [checkpoint(tmp_path / name / "r/base64")["state_dict"] for name in "ab"]
    assert any(key.startswith("others.0.") for key in last[0])
    same(*last)


def test_another_average_has_no_snapshots_and_its_checkpoint_no_second(tmp_path):
    run = train(composed(tmp_path, "ema=power", "trainer.max_steps=1"), print).folder
    assert not (run / "snapshots").exists()
    assert not any("others" in key for key in checkpoint(run)["state_dict"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return train(composed(folder, "ema.every=4", "ema.count=8", "trainer.max_steps=32"), print).folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sigma_rel=0.3"], "sigma_rel=0.3 is out of range"),
        (["sigma_rel=0"], "sigma_rel=0 is out of range"),
        (["sigma_rel=1e-200"], "sigma_rel=1e-200 is out of range"),
        (["sigma_rel=-0.1"], "sigma_rel=-0.1 is out of range"),
        (["sigma_rel=0.01"], "out of reach: of 8 snapshots of 0.05 and 0.1 its profile would be"),
        (["sigma_rel=0.07", "step=4"], "these are too few: train on, or with a smaller ema.every"),
        (["sigma_rel=wide"], "sigma_rel=wide must be a number"),
        (["sigma_rel=0.1", "step=30"], "the nearest is step=28"),
        (["sigma_rel=0.1", "run=nowhere"], "there is no run at 'nowhere'"),
        (["sigma_rel=0.1", "run=."], "has no snapshots; ema=power_pair keeps them"),
        (["sigma_rel=0.1", "sigma=1"], "unknown key 'sigma'"),
        ([], "needs sigma_rel=..."),
    ],
)
def test_what_cannot_be_rebuilt_is_refused_in_one_line(tmp_path, monkeypatch, capsys, run, words, message):
    monkeypatch.chdir(tmp_path)
    where = [] if any(word.startswith("run=") for word in words) else [f"run={run}"]
    assert main(["reconstruct-ema", *where, *words, "out=made"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_damaged_snapshot_and_a_foreign_place_are_refused(tmp_path, run, capsys):
    damaged = shutil.copytree(run, tmp_path / "copy")
    file = Snapshots(damaged).found()[8, 0.1]
    shutil.copy(file, file.with_stem(f"{file.stem} (copy)"))
    assert list(Snapshots(damaged).found()) == list(Snapshots(run).found())
    file.write_bytes(file.read_bytes()[:100])
    assert main(["reconstruct-ema", f"run={damaged}", "sigma_rel=0.1", f"out={tmp_path / 'made'}"]) == 2
    assert "is damaged" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/photo.png").touch()
    assert main(["reconstruct-ema", f"run={run}", "sigma_rel=0.1", f"out={tmp_path / 'mine'}"]) == 2
    assert "holds something else than a stage" in capsys.readouterr().err
    out = tmp_path / "stage"
    assert main(["reconstruct-ema", f"run={run}", "sigma_rel=0.1", f"out={out}"]) == 0
    assert main(["reconstruct-ema", f"run={run}", "sigma_rel=0.1", "step=16", f"out={out}"]) == 2
    assert "overwrite=true" in capsys.readouterr().err
    # The width that was exported, at the end, is the exported stage itself.
    made, exported = load_stage(out).denoiser.state_dict(), load_stage(run).denoiser.state_dict()
    assert all(torch.allclose(value, exported[key], atol=1e-7) for key, value in made.items())
    assert yaml.safe_load((out / "config.yaml").read_text()) == yaml.safe_load((run / "stage/config.yaml").read_text())
    assert main(["reconstruct-ema", f"run={run}", "sigma_rel=0.1", "step=16", f"out={out}", "overwrite=true"]) == 0
    assert load_stage(out).config.images_seen == 32
