"""On a GPU: the same pictures, figures and runs as on the processor. Skipped where there is none."""

import json
from statistics import median

import pytest
import torch
from PIL import Image

from cascade.arithmetic import EAGER, PLAIN
from cascade.artifact import load_stage
from cascade.calibration import Calls, Measured, calibrated, measure_compiled
from cascade.commands.command_line import main
from cascade.full_float32 import full_float32
from cascade.orchestrator import CascadePipeline
from cascade.rng import randn
from cascade.stage_denoiser import stage_denoiser
from tests.stages.equal_runs import check_equal

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")
CUDA = torch.device("cuda", 0)
SMALL = ["network=tiny", "network.dropout=0.1", "data.size=12", "data.val_size=6", "grid.n=2", "trainer.batch=4"]
OFTEN = ["trainer.workers=0", "trainer.validate_every=2", "trainer.log_every=2", "trainer.sample_every=0"]
BASE = ["stage=base64", "stage.resolution=16"]
UPSCALING = ["stage=sr256", "stage.resolution=64", "stage.low_resolution=16", "stage.crop=32"]


@pytest.fixture(scope="module")
def pipeline(small_cascade):
    return CascadePipeline.load(small_cascade, device="cuda")


def test_pictures_are_those_of_the_processor(pipeline, small_cascade):
    ours, theirs = (p.sample(seeds=range(8)).int() for p in (pipeline, CascadePipeline.load(small_cascade)))
    assert ours.float().std() > 20
    assert (ours - theirs).abs().max() <= 1, "float32 is float32 here too, without TF32"
    assert (ours != theirs).float().mean() < 1e-2


def test_bf16_is_near(pipeline, small_cascade):
    rough = CascadePipeline.load(small_cascade, device="cuda", precision="bf16").sample(seeds=range(8)).float()
    assert 0 < (rough - pipeline.sample(seeds=range(8)).float()).abs().mean() < 4


def test_a_picture_is_the_same_alone_and_among_others(pipeline):
    eight = pipeline.sample(seeds=range(8))
    assert torch.equal(pipeline.sample(seeds=[5])[0], eight[5])
    assert torch.equal(pipeline.sample(seeds=[7, 5, 1]), eight[[7, 5, 1]])


@pytest.mark.parametrize("arithmetic", EAGER, ids=lambda a: a.name)
def test_every_layout_and_precision_gives_nearly_the_same(small_cascade, arithmetic):
    x = randn("gpu", shape=(3, 3, 32, 32))
    stage = load_stage(small_cascade / "sr32")
    calls = Calls(stage, 3, 32, torch.device("cpu"))
    _, level, condition = calls.example()
    want = stage_denoiser(stage, calls.device, PLAIN)(x, level, condition).mean
    there = load_stage(small_cascade / "sr32", CUDA)
    with full_float32(), torch.no_grad():
        got = stage_denoiser(there, CUDA, arithmetic)(x.to(CUDA), level.to(CUDA), condition.to(CUDA)).mean.cpu()
    assert (got - want).abs().max() < (5e-2 if arithmetic.bf16 else 1e-5) * want.abs().max()


def test_the_choice_of_precision_is_kept_for_the_card_and_never_slower(small_cascade, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("cascade.calibration.SMALL", 0)
    chosen = calibrated(Calls(load_stage(small_cascade / "sr32", CUDA), 3, 32, CUDA))
    (file,) = (tmp_path / "cascade/precision").iterdir()
    kept = json.loads(file.read_text())
    assert kept["fingerprint"]["device"] == torch.cuda.get_device_name(CUDA)
    measured = Measured.from_json(kept)
    assert chosen == measured.choice(1)
    seconds = {arithmetic: median(times) for arithmetic, times in measured.seconds.items()}
    assert seconds[chosen] <= seconds[PLAIN]
    fastest = min(seconds[arithmetic] for arithmetic in seconds if not arithmetic.bf16)
    assert not chosen.bf16 or 1.2 * seconds[chosen] <= fastest


def test_a_compiled_network_gives_the_same(small_cascade):
    calls = Calls(load_stage(small_cascade / "sr32", CUDA), 3, 32, CUDA)
    measured = measure_compiled(calls, Measured({a: [1.0] for a in EAGER}), lambda *_: None)
    assert set(measured.compiling) == {a for a in measured.seconds if a.compiled}, "what differs or fails is left out"
    assert len(measured.compiling) == 2


@pytest.mark.parametrize("stage", [BASE, UPSCALING], ids=["base", "upscaling"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_goes_on_equals_an_unbroken_one(tmp_path, stage, precision):
    words = ["train", *stage, *SMALL, *OFTEN, f"trainer.precision={precision}", "trainer.accelerator=gpu"]
    for name, ends in (("a", [6]), ("b", [2, 6])):
        for end in ends:
            assert main([*words, f"runs={tmp_path}", f"name={name}", f"trainer.max_steps={end}"]) == 0
    (a,), (b,) = (list((tmp_path / name).iterdir()) for name in "ab")
    check_equal(a, b)


def test_plan_measures_the_card(tmp_path, capsys):
    file = tmp_path / "plan.json"
    words = ["network=tiny", "stage.resolution=32", "trainer.batch=4"]
    assert main(["plan", *words, f"json={file}"]) == 0
    report = json.loads(file.read_text())
    assert torch.cuda.get_device_name() in report["on"]
    assert 1e6 < report["training"]["memory"] < report["memory"] <= torch.cuda.get_device_properties(0).total_memory
    assert main(["plan", *words, "trainer.accelerator=cpu", f"json={file}"]) == 0
    assert torch.cuda.get_device_name() not in json.loads(file.read_text())["on"]
    capsys.readouterr()


def test_figures_are_those_of_the_processor(tmp_path, capsys):
    for number in range(8):
        picture = 255 * (randn("gpu", number, shape=(24, 24, 3)) / 4 + 0.5).clamp(0, 1)
        (tmp_path / "made").mkdir(exist_ok=True)
        Image.fromarray(picture.byte().numpy()).save(tmp_path / "made" / f"{number}.png")
    figures = []
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        words = [f"images={tmp_path / 'made'}", "data=procedural", "data.val_size=12", "allow_few_images=true"]
        assert main(["evaluate", *words, "features=tiny", f"device={device}", f"out={out}"]) == 0
        figures.append({f["name"]: f["value"] for f in json.loads((out / "evaluation.json").read_text())["figures"]})
    assert figures[1] == pytest.approx(figures[0], rel=1e-4, abs=1e-6)
    capsys.readouterr()
