"""`cascade plan`: its numbers are those of the training that would run; what is estimated says so."""

import json
from types import SimpleNamespace

import pytest
import torch

from cascade.commands.command_line import main
from cascade.commands.configuration import plain_config
from cascade.commands.overrides import check
from cascade.commands.plan_cards import CARDS, Card
from cascade.commands.plan_measure import (
    CONTEXT,
    LAUNCH,
    OF_A_PARAMETER,
    Meter,
    TrainingStep,
    _kept_bytes,
    _largest_that_fits,
    estimated,
)
from cascade.commands.plan_stage import planned_stage
from cascade.machine import CPU, forget_peak, peak_memory, total_memory

SMALL = ["network=tiny", "trainer.batch=4", "trainer.max_steps=7200", "data.size=6"]


def plain(*settings, side=32):
    return plain_config(check("plan", [*SMALL, f"stage.resolution={side}", *settings]).config)


def made(tmp_path, capsys, *settings):
    file = tmp_path / "plan.json"
    assert main(["plan", *SMALL, "stage.resolution=32", f"json={file}", *settings]) == 0
    return json.loads(file.read_text()), capsys.readouterr().out


def test_this_machine_is_measured(tmp_path, capsys):
    report, out = made(tmp_path, capsys)
    assert not report["estimated"]
    assert "measured" in out
    training, sampling = report["training"], report["sampling"]
    assert training["hours"] == pytest.approx(2 * training["seconds_of_a_step"])
    assert training["flop_of_a_picture"] * sampling["network_calls"] == 3 * sampling["flop_of_a_picture"]
    assert 1e8 < sampling["memory"] <= report["memory"]
    assert training["fits"]
    assert sampling["fits"]


def test_a_card_is_estimated_and_says_so(tmp_path, capsys):
    words = ["trainer.devices=4", "guidance=classifier_around", "guidance.classifier=somewhere"]
    report, out = made(tmp_path, capsys, "card=l4", "utilisation=0.5", *words)
    assert "of one of 4 processes" in report["training"]["how"]
    assert "without its classifier" in report["sampling"]["how"]
    assert report["estimated"]
    assert "NVIDIA L4, estimated" in out
    assert "50%" in report["training"]["how"]
    assert report["memory"] == 24e9


def test_the_estimate_is_its_formula():
    config = plain("trainer.accumulate=2")
    planned = planned_stage(config)
    slow, small = Card("slow", 1e6, 1e9), Card("fast", 1e18, 1e9)
    tell = lambda *_: None  # noqa: E731
    costs = estimated(planned, config, slow, 0.25, tell)
    assert costs.step_seconds == pytest.approx(3 * 4 * planned.crop_cost.flop / (0.25 * 1e6))
    chunk = planned.stage.config.sampling.network_batch
    assert costs.chunk_seconds == pytest.approx(planned.evaluations * chunk * planned.full_cost.flop / (0.25 * 1e6))
    kept = _kept_bytes(TrainingStep.build(planned, config, bf16=True))
    expected = CONTEXT + OF_A_PARAMETER * planned.crop_cost.parameters + 2 * kept
    assert costs.training_bytes == pytest.approx(expected)
    shared = estimated(planned, plain("trainer.accumulate=2", "trainer.devices=2"), slow, 0.25, tell)
    assert shared.step_seconds == pytest.approx(costs.step_seconds / 2), "two processes side by side"
    assert shared.training_bytes == pytest.approx(expected - kept)
    launched = estimated(planned, config, small, 1.0, tell)
    assert launched.step_seconds >= 2 * 3 * 50 * LAUNCH, "a card is no faster than it can be told what to do"


def test_what_a_step_keeps_is_counted_once_and_grows_with_the_picture():
    small, large = (planned_stage(plain(side=side)) for side in (32, 64))
    kept = [_kept_bytes(TrainingStep.build(p, plain(), bf16=False)) for p in (small, large)]
    maps = 3.0 <= kept[1] / kept[0] <= 4.0
    assert maps, "four times the pixels, and an embedding that does not grow"


def test_what_is_kept_twice_is_counted_once():
    x = torch.ones(1000, requires_grad=True)
    denoiser = torch.nn.Identity()
    square = SimpleNamespace(
        planned=SimpleNamespace(stage=SimpleNamespace(denoiser=denoiser)), forward=lambda _: (x * x).sum()
    )
    assert _kept_bytes(square) == 4000


def test_a_batch_that_a_gpu_does_not_hold_is_halved():
    asked = []

    class Step:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])

        def __call__(self, batch):
            asked.append(batch)
            if batch > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")

    assert _largest_that_fits(Step(), 16, Meter(CPU))[0] == 2
    assert asked == [16, 8, 4, 2]


def test_where_not_even_one_picture_fits_it_says_so(monkeypatch, capsys):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("cascade.commands.plan_measure.sampling_costs", full)
    assert main(["plan", *SMALL]) == 2
    assert "does not hold it; a smaller stage.network_batch or a smaller network needs less" in capsys.readouterr().err


def test_the_calls_of_the_network_are_counted():
    two = ["sampler=ddim", "grid.n=5", "guidance=none"]
    assert (planned_stage(plain(*two)).steps, planned_stage(plain(*two)).evaluations) == (5, 5)
    guided = planned_stage(plain("sampler=ddim", "grid.n=5", "guidance=classifier_free", "guidance.scale=2"))
    assert guided.evaluations == 10
    heun = planned_stage(plain("sampler=heun", "grid.n=5", "guidance=none"))
    assert heun.evaluations == 9, "the last step, to the picture, has no second evaluation"


def test_super_resolution_stages_and_dropout_are_measured_too(tmp_path, capsys):
    settings = ["stage=sr256", "stage.low_resolution=8", "stage.crop=16", "network.dropout=0.1"]
    report, _ = made(tmp_path, capsys, *settings)
    assert report["training"]["crop"] == 16
    ratio = 3 * report["sampling"]["flop_of_a_call"] / report["training"]["flop_of_a_picture"]
    assert ratio == pytest.approx(4, rel=0.05), "four times the pixels; the embedding is told once"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["card=h10"], "did you mean 'h100'?"),
        (["card=h100", "utilisation=0"], "is a share of the peak"),
        (["trainer.batch=0"], "trainer.batch must be at least 1"),
        (["stage.resolution=1000000000"], "resolution must be at most 65536, not 1000000000"),
        (["trainer.batch=3", "trainer.accumulate=2"], "no multiple"),
        (["trainer.batch=6", "trainer.accumulate=2", "trainer.devices=2"], "no multiple"),
        (["json=."], "is a folder"),
        (["data=folder"], "data.root"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(here, capsys, settings, message):
    assert main(["plan", *settings]) == 2
    assert message in capsys.readouterr().err


def test_a_file_of_somebody_else_is_not_replaced(here, capsys):
    (here / "mine.json").write_text("{}")
    assert main(["plan", *SMALL, "json=mine.json"]) == 2
    assert "was not made by cascade plan" in capsys.readouterr().err
    assert (here / "mine.json").read_text() == "{}"


def test_memory_is_what_the_system_counts():
    forget_peak()
    before = peak_memory()
    block = torch.ones(30_000_000)
    assert peak_memory() - before > 0.9 * block.numel() * 4
    assert peak_memory() < (total_memory() or 1e15)


def test_every_card_has_a_peak_and_a_memory():
    assert all(card.peak > 5e13 and card.memory > 1e10 for card in CARDS.values())
