"""`cascade bench`: what is timed is what is said, the ceiling is the network's own work, and others are optional."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from cascade.commands import bench_networks
from cascade.commands.bench import MISSING, WHAT, measured, row
from cascade.commands.bench_networks import Case, Recorded
from cascade.commands.command_line import main
from cascade.machine import device_name
from cascade.networks.flops import cost
from cascade.networks.low_res import BaseNetwork

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SMALL = {"channels": 32, "side": 8, "batch": 2, "device": CPU}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A U-Net of two levels, with all that the large one has."""
    for name, value in (("MULT", (1, 2)), ("BLOCKS", 1), ("ATTENTION", (2,))):
        monkeypatch.setattr(bench_networks, name, value)


@pytest.fixture
def case() -> Case:
    return Case.of_cascade(**SMALL)


def test_the_calls_of_the_ceiling_do_all_the_work(case):
    """Their FLOP, shape by shape, are those of the whole network, forwards and three times as many in training."""
    from torch.utils.flop_counter import FlopCounterMode

    one = cost(BaseNetwork(case.network), 8).flop * 2
    for what, times in zip(WHAT, (3, 1), strict=True):
        with Recorded() as calls:
            getattr(case, what)()
        assert calls.number > 20
        replayed = 0

        def counted(call):
            nonlocal replayed
            with FlopCounterMode(display=False) as counter:
                call()
            replayed += counter.get_total_flops()
            return counter.get_total_flops()

        whole = calls.replay(CPU, counted)
        # Attention makes its scores again for the gradient, and no gradient is asked of the picture.
        assert whole == pytest.approx(times * one, rel=0.03)
        assert replayed < whole, "each shape once"


def test_all_take_turns_and_a_round_is_a_number(case):
    told = []
    seconds = measured({"cascade": case}, 2, CPU, told.append)
    assert told == [0, 1]
    assert {what: {name: len(times) for name, times in rows.items()} for what, rows in seconds.items()} == {
        what: {"cascade": 2, "ceiling": 2} for what in WHAT
    }
    assert all(second > 0 for rows in seconds.values() for times in rows.values() for second in times)
    assert min(seconds["training"]["cascade"]) > min(seconds["forward"]["cascade"])


def test_the_ratio_is_the_median_over_rounds_and_not_of_sums():
    made = row({"cascade": [1.0, 4.0, 1.0], "diffusers": [2.0, 4.0, 3.0], "ceiling": [0.5, 1.0, 0.75]})
    assert (made["times_as_fast"], made["share_of_ceiling"]) == (2.0, 0.5)
    assert made["seconds"] == {"cascade": 1.0, "diffusers": 3.0, "ceiling": 0.75}


def test_without_diffusers_a_line_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    file = tmp_path / "bench.json"
    words = ["bench", "channels=32", "side=8", "batch=1", "rounds=1", f"json={file}"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert MISSING in out
    assert "times as fast" not in out
    report = json.loads(file.read_text())
    assert report["made_by"] == "cascade bench"
    assert report["forward"]["times_as_fast"] is None
    assert 0 < report["training"]["share_of_ceiling"] < 1.5
    assert list(report["parameters"]) == ["cascade"]
    assert report["on"] == device_name(CPU)
    file.write_text("{}")
    assert main(words) == 2
    assert "was not made by" in capsys.readouterr().err


def test_diffusers_is_asked_for_the_same_size(monkeypatch):
    monkeypatch.undo()
    asked = {}

    def network(**options):
        asked.update(options)
        return torch.nn.Conv2d(3, 3, 1)

    monkeypatch.setitem(sys.modules, "diffusers", SimpleNamespace(UNet2DModel=network))
    Case.of_diffusers(**{**SMALL, "channels": 64, "side": 64})
    assert asked["block_out_channels"] == (64, 128, 192, 256)
    assert (asked["layers_per_block"], asked["attention_head_dim"], asked["sample_size"]) == (2, 64, 64)
    assert [name.startswith("Attn") for name in asked["down_block_types"]] == [False, True, True, True]
    assert [name.startswith("Attn") for name in asked["up_block_types"]] == [True, True, True, False]


def test_what_does_not_fit_into_memory_is_one_line(monkeypatch, capsys):
    def cases(sizes):
        raise RuntimeError(why)

    monkeypatch.setattr(bench_networks, "cases", cases)
    why = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes\nmore of it"
    assert main(["bench", "batch=4096"]) == 2
    said = "channels=64 side=64 batch=4096 do not fit into the memory of cpu; make one of them smaller"
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    why = "another"
    with pytest.raises(RuntimeError, match="another"):
        main(["bench"])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("batch=0", "batch=0 must be at least 1"),
        ("rounds=0", "rounds=0 must be at least 1"),
        ("side=12", "multiple of 8"),
        ("side=4104", "side=4104 must be at least 1 and at most 4096"),
        ("channels=40", "multiple of 32"),
        ("channels=4160", "channels=4160 must be at least 1 and at most 4096"),
        ("channels=96", "the width of a head"),
        ("threads=0", "threads=0"),
        ("device=cudda", "did you mean 'cuda'"),
        ("json=.", "is a folder"),
    ],
)
def test_a_mistake_is_one_line(word, message, capsys):
    assert main(["bench", word]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
