"""`precision=auto`: chosen by a rule from measured times, kept for the machine, and never in the way of a picture."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cascade import calibration
from cascade.arithmetic import EAGER, FASTER, PLAIN, Arithmetic, choose, hopeless, named
from cascade.artifact import load_stage
from cascade.calibration import LONG, Calls, Measured, cache_folder, calibrated
from cascade.commands.command_line import main
from cascade.errors import CascadeError
from cascade.orchestrator import CascadePipeline
from cascade.stage_settings import StageSettings

CPU = torch.device("cpu")
LAST, BF16, BF16_CONTIGUOUS = EAGER[1:]


def times(middle, spread=0.0):
    return [middle * (1 - spread), middle, middle * (1 + spread)]


def test_bf16_needs_to_be_so_much_faster_than_the_best_float32():
    assert choose({PLAIN: times(1.2), BF16: times(1.0)}) == BF16
    assert choose({PLAIN: times(1.195), BF16: times(1.0)}) == PLAIN
    just, short = times(1 / FASTER - 1e-9), times(1 / FASTER + 1e-3)
    assert choose({PLAIN: times(1.0), BF16: just}) == BF16
    assert choose({PLAIN: times(1.0), BF16: short}) == PLAIN
    assert choose({PLAIN: times(2.0), LAST: times(1.0), BF16: short}) == LAST, "the best float32, not the plain one"
    assert choose({PLAIN: times(1.0), BF16: times(0.7), BF16_CONTIGUOUS: times(0.6)}) == BF16_CONTIGUOUS


def test_plain_float32_wins_ties_within_the_noise():
    assert choose({PLAIN: times(1.0), LAST: times(0.99)}) == PLAIN
    assert choose({PLAIN: times(1.0), LAST: times(0.97)}) == LAST
    assert choose({PLAIN: times(1.0, 0.2), LAST: times(0.95)}) == PLAIN
    assert choose({PLAIN: times(1.0), LAST: times(0.95, 0.2)}) == PLAIN
    assert choose({PLAIN: times(1.0, 0.2), LAST: times(0.5, 0.2)}) == LAST


def test_medians_decide_and_not_a_single_quick_or_slow_call():
    assert choose({PLAIN: [1.0, 1.0, 1.0, 9.0, 1.0], LAST: [0.1, 1.0, 1.0, 1.0, 1.0]}) == PLAIN


@pytest.mark.parametrize("seed", range(20))
def test_nothing_chosen_is_slower_than_plain(seed):
    numbers = torch.rand(4, 3, generator=torch.Generator().manual_seed(seed)).add(0.3).tolist()
    seconds = dict(zip(EAGER, numbers, strict=True))
    chosen = choose(seconds)
    assert sorted(seconds[chosen])[1] <= sorted(seconds[PLAIN])[1]


def test_a_compiler_is_paid_for_within_the_job():
    compiled = replace(PLAIN, compiled=True)
    seconds, price = {PLAIN: times(1.0), compiled: times(0.5)}, {compiled: 100.0}
    assert choose(seconds, 100, price) == PLAIN, "100 s against 150 s"
    assert choose(seconds, 400, price) == compiled, "400 s against 300 s"
    both = {**seconds, replace(BF16, compiled=True): times(0.4)}
    price |= {replace(BF16, compiled=True): 100.0}
    assert choose(both, 400, price) == compiled, "260 s is not 1.2 times 300 s"


def test_the_hopeless_are_left_out_and_plain_never_is():
    assert hopeless({PLAIN: 9.0, LAST: 1.0, BF16: 1.4, BF16_CONTIGUOUS: 1.6}) == {BF16_CONTIGUOUS}


def test_every_arithmetic_has_a_name_that_is_read_back():
    every = [Arithmetic(*flags) for flags in torch.cartesian_prod(*[torch.tensor([False, True])] * 3).tolist()]
    assert len({a.name for a in every}) == 8
    assert [named(a.name) for a in every] == every
    assert {PLAIN.name, BF16.name} == {"fp32", "bf16"}, "as they were named before there were more"
    with pytest.raises(CascadeError, match="did you mean 'bf16'"):
        named("bf61")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cascade" / "precision"


@pytest.fixture
def clock(monkeypatch):
    """Calls that take what the test says, and a count of the calls that were timed."""
    seconds = {PLAIN: 1.0, LAST: 4.0, BF16: 0.5, BF16_CONTIGUOUS: 0.9}
    timed = []
    monkeypatch.setattr(calibration, "_seconds", lambda _, a: timed.append(a) or seconds[a])
    monkeypatch.setattr(calibration, "SMALL", 0)
    return seconds, timed


@pytest.fixture
def calls(small_cascade):
    return Calls(load_stage(small_cascade / "sr16"), 3, 16, CPU)


def test_it_is_measured_once_and_kept(cache, clock, calls):
    told = []
    assert calibrated(calls, lambda *told_now: told.append(told_now)) == BF16
    assert told[0][1] == 0
    assert told[-1][1] == told[-1][2]
    _, timed = clock
    assert timed.count(LAST) == 1, "four times as slow: tried once"
    assert timed.count(PLAIN) >= 4
    timed.clear()
    assert calibrated(calls) == BF16
    assert not timed
    assert [json.loads(path.read_text())["choice"] for path in cache.iterdir()] == ["bf16"]


def test_what_is_timed_is_each_arithmetic_in_its_turn(cache, calls, monkeypatch):
    """All is called; only the clock is made up, and moves within a call."""
    moment, made, build = [0.0], [], calibration.stage_denoiser
    waits = {PLAIN: 0.05, LAST: 0.04, BF16: 0.03, BF16_CONTIGUOUS: 0.035}

    def slow(stage, device, arithmetic):
        made.append(arithmetic)
        denoiser = build(stage, device, arithmetic)

        def waiting(*given):
            moment[0] += waits[arithmetic]
            return denoiser(*given)

        return waiting

    monkeypatch.setattr(calibration, "stage_denoiser", slow)
    monkeypatch.setattr(calibration, "time", SimpleNamespace(perf_counter=lambda: moment[0]))
    monkeypatch.setattr(calibration, "SMALL", 0)
    assert calibrated(calls) == BF16
    assert set(made) == set(waits)
    waits[BF16], waits[BF16_CONTIGUOUS], waits[LAST] = 0.06, 0.06, 0.06
    (file,) = cache.iterdir()
    file.unlink()
    assert calibrated(calls) == PLAIN


def test_a_compiled_network_where_there_is_no_compiler_is_one_line(calls, monkeypatch):
    monkeypatch.setattr("cascade.stage_denoiser.has_compiler", lambda device: False)
    with pytest.raises(CascadeError, match="precision 'fp32 compiled' needs a compiler"):
        calibration.stage_denoiser(calls.stage, CPU, replace(PLAIN, compiled=True))


def test_bf16_that_fails_is_left_out_and_float32_that_fails_is_told(cache, clock, calls, monkeypatch):
    measured = calibration._seconds

    def failing(kind):
        def seconds(calls, arithmetic):
            if kind(arithmetic):
                raise RuntimeError("out of memory")
            return measured(calls, arithmetic)

        monkeypatch.setattr(calibration, "_seconds", seconds)

    failing(lambda arithmetic: arithmetic.bf16)
    assert calibrated(calls) == PLAIN
    (file,) = cache.iterdir()
    file.unlink()
    for kind in (lambda arithmetic: arithmetic == PLAIN, lambda arithmetic: not arithmetic.bf16):
        failing(kind)
        with pytest.raises(RuntimeError, match="out of memory"):
            calibrated(calls)
    assert not list(cache.iterdir())


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"fingerprint": 1}', b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_made_again(cache, clock, calls, text):
    calibrated(calls)
    (file,) = cache.iterdir()
    sound = file.read_text()
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert calibrated(calls) == BF16
    assert file.read_text() == sound


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p["fingerprint"].update(threads=99),
        lambda p: p["seconds"].pop("fp32"),
        lambda p: p["seconds"].update(fp32=[]),
        lambda p: p["seconds"].update(fp32=[-1.0]),
        lambda p: p["seconds"].update(fp32=["fast"]),
        lambda p: p["seconds"].update(fp99=[1.0]),
        lambda p: p.pop("compiling"),
        lambda p: p.update(compiling={"bf16 compiled": 3.0}),
    ],
)
def test_a_file_that_says_something_impossible_is_made_again(cache, clock, calls, change):
    calibrated(calls)
    (file,) = cache.iterdir()
    plain = json.loads(file.read_text())
    change(plain)
    file.write_text(json.dumps(plain))
    clock[1].clear()
    assert calibrated(calls) == BF16
    assert clock[1]


def test_another_shape_number_of_threads_or_network_is_another_choice(cache, clock, calls, small_cascade):
    for other in (calls, replace(calls, batch=2), replace(calls, side=32)):
        calibrated(other)
    calibrated(Calls(load_stage(small_cascade / "sr32"), 3, 16, CPU))
    assert len(list(cache.iterdir())) == 4
    first = calls.fingerprint()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert calls.fingerprint() != first
    finally:
        torch.set_num_threads(threads)


def test_a_stage_that_is_shown_a_mask_too_does_not_share_the_choice_of_one_that_is_not(calls):
    """The same network but for its first layer, which reads 7 channels and not 6."""
    stage = calls.stage

    def shown(condition):
        config = replace(stage.config, low_resolution=16, condition={"name": condition})
        return replace(calls, stage=replace(stage, config=config)).fingerprint()

    assert shown("mask_half") != shown("grayscale") == shown("low_res")
    assert shown("mask_half")["shape"][1] == 7


def test_where_nothing_can_be_kept_it_is_plain_float32_and_said_once(tmp_path, monkeypatch, clock, calls, capsys):
    """Measured anew each time, it could be another each time, and so could the last bits of a picture."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [calibrated(calls), calibrated(replace(calls, batch=2))] == [PLAIN] * 2
    assert not clock[1]
    assert capsys.readouterr().err.count("file/cascade/precision cannot be written") == 1


def test_a_disk_that_is_full_leaves_what_is_known(monkeypatch, cache, clock, calls):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(calibration, "has_compiler", lambda device: True)
    assert calibrated(calls) == BF16
    monkeypatch.setattr(calibration, "write_whole", full)
    compiled = replace(BF16, compiled=True)
    found = Measured({PLAIN: [1.0], BF16: [0.5], compiled: [0.1]}, {compiled: 1.0})
    monkeypatch.setattr(calibration, "measure_compiled", lambda *_: found)
    assert calibrated(replace(calls, count=10_000)) == BF16
    assert calibrated(replace(calls, batch=2)) == PLAIN


def test_of_two_that_measure_at_once_the_first_to_be_done_decides_for_both(cache, clock, calls, monkeypatch):
    measure = calibration.measure

    def slow(calls, tell):
        monkeypatch.setattr(calibration, "measure", measure)
        assert calibrated(calls) == BF16, "another process, in the meantime"
        return Measured({PLAIN: [1.0], LAST: [0.1]})

    monkeypatch.setattr(calibration, "measure", slow)
    assert calibrated(calls) == BF16


def test_one_picture_and_eight_choose_alike(small_cascade, cache, clock, monkeypatch):
    """Also where a chunk takes less than LONG, and eight pictures take more."""
    monkeypatch.setattr(calibration, "LONG", 4.0)
    monkeypatch.setattr(calibration, "has_compiler", lambda device: True)
    monkeypatch.setattr(calibration, "measure_compiled", None)
    chosen = []
    for seeds in (range(1), range(8)):
        pipeline = CascadePipeline.load(small_cascade)
        pipeline.sample("hat", seeds)
        chosen.append(pipeline._arithmetics)
    assert chosen[0] == chosen[1]
    assert set(chosen[0].values()) == {BF16}


def test_the_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_folder() == tmp_path / ".cache" / "cascade"


def test_a_small_network_is_left_in_plain_float32_without_a_measurement(cache, calls, monkeypatch):
    monkeypatch.setattr(calibration, "measure", None)
    assert calibrated(calls) == PLAIN
    assert not cache.exists()


def test_a_compiler_is_tried_for_long_chunks_alone_and_its_failure_is_silent(cache, clock, calls, monkeypatch):
    tried = []
    monkeypatch.setattr(calibration, "has_compiler", lambda device: True)
    monkeypatch.setattr(calibration, "stage_denoiser", lambda *a: tried.append(a) or 1 / 0)
    long = replace(calls, count=int(LONG / 0.5))
    assert calibrated(calls) == BF16
    assert calibrated(replace(long, compilable=False)) == BF16
    assert not tried
    assert calibrated(long) == BF16
    assert tried
    tried.clear()
    assert calibrated(long) == BF16
    assert not tried, "that it fails is kept, too"


def test_a_compiled_choice_is_for_chunks_that_pay_for_it():
    compiled = replace(BF16, compiled=True)
    found = Measured({PLAIN: [1.0], BF16: [0.5], compiled: [0.25]}, {compiled: 200.0})
    assert found.choice(100) == BF16
    assert found.choice(10_000) == compiled
    assert Measured.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.fixture
def as_if(monkeypatch, cache):
    """A machine on which every stage is fastest in this arithmetic."""

    def make(arithmetic):
        monkeypatch.setattr("cascade.orchestrator.calibrated", lambda calls, tell: arithmetic)

    return make


@pytest.mark.parametrize("arithmetic", EAGER, ids=lambda a: a.name)
def test_a_picture_does_not_depend_on_its_batch_in_any_of_them(small_cascade, as_if, arithmetic):
    as_if(arithmetic)
    pipeline = CascadePipeline.load(small_cascade)
    together = pipeline.sample("hat", range(5))
    assert torch.equal(together[3], pipeline.sample("hat", 3)[0])
    assert {stage.record()["precision"] for stage in pipeline.plan()} == {arithmetic.name}
    plain = CascadePipeline.load(small_cascade, precision="fp32").sample("hat", range(5))
    assert (together.int() - plain.int()).abs().float().mean() < 3


def test_a_folder_keeps_the_precision_of_its_pictures_and_says_so(small_cascade, as_if, tmp_path, capsys):
    as_if(BF16)
    ask = ["sample", f"cascade={small_cascade}", f"out={tmp_path / 'out'}", "classes=hat", "contact_sheet=false"]
    assert main([*ask, "seeds=0"]) == 0
    assert "precision: tiny8 bf16, sr16 bf16, sr32 bf16\n" in capsys.readouterr().out
    as_if(LAST)  # another machine
    assert main([*ask, "seeds=1"]) == 0
    assert "sr32 bf16 (that of the pictures in" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert [[stage["precision"] for stage in row["stages"]] for row in rows] == [["bf16"] * 3] * 2
    assert main([*ask, "seeds=2", "precision=fp32"]) == 2
    assert "precision is" in capsys.readouterr().err


def test_what_is_asked_for_overrides_what_is_fastest(small_cascade, as_if):
    as_if(BF16)
    stages = CascadePipeline.load(small_cascade, precision="fp32").plan()
    assert {stage.arithmetic for stage in stages} == {PLAIN}
    mixed = CascadePipeline.load(small_cascade, precision={"tiny8": "fp32 channels_last", "sr16": "fp32"}).plan()
    assert [stage.arithmetic for stage in mixed] == [LAST, PLAIN, BF16]


def test_nothing_is_measured_before_all_is_checked(small_cascade, monkeypatch):
    monkeypatch.setattr("cascade.orchestrator.calibrated", None)
    pipeline = CascadePipeline.load(small_cascade)
    for asked in ({"classes": "hot"}, {"settings": {"sr32": StageSettings(tile=3)}}):
        with pytest.raises(CascadeError):
            pipeline.sample(**asked)


def test_plain_and_channels_last_do_not_get_into_each_others_way(small_cascade, as_if):
    """A stage's weights have one layout at a time; the last plan has its own."""
    before = CascadePipeline.load(small_cascade, precision="fp32").sample("hat", 0)
    pipeline = CascadePipeline.load(small_cascade, precision="bf16")
    pipeline.sample("hat", 0)
    pipeline.precision, pipeline._arithmetics = "fp32", {}
    assert torch.equal(pipeline.sample("hat", 0), before)
