"""Which process measures which chunk, when, and how many pictures it holds, changes no bit; whoever dies costs time."""

import io
import json
import os
import threading
import time

import pytest
import torch
from rich.console import Console

from cascade.commands import team as teams
from cascade.commands.evaluated_sides import Pictures
from cascade.commands.measured_chunks import MeasuredChunks
from cascade.commands.team import PULSE, STATE, Team
from cascade.errors import CascadeError
from cascade.evaluation.measured_pieces import from_bytes, merged, to_bytes
from cascade.evaluation.measurement import measure, pixel_figures
from cascade.evaluation.tiny import tiny_features
from cascade.lock import claim, give_back
from cascade.processes import Processes
from cascade.progress import Bars
from cascade.rng import permutation, uniform

COUNT = 21


def pair(place):
    image, low = uniform("picture", place, shape=(3, 8, 8)), uniform("low", place, shape=(3, 4, 4))
    return (255 * image).to(torch.uint8), (255 * low).to(torch.uint8)


PICTURES = Pictures(lambda places: map(pair, places), COUNT, {}, {"of": "test"}, chunk=4)
FEATURES = tiny_features()


def quiet():
    return Bars(Console(quiet=True))


def chunks(folder, team=None, batch=16):
    here = {"folder": folder, "team": team or Team(folder), "bars": quiet(), "name": "pictures"}
    return MeasuredChunks(pictures=PICTURES, features=FEATURES, batch=batch, **here)


def same(one, other):
    assert to_bytes(one) == to_bytes(other)


@pytest.fixture(scope="module")
def wanted():
    return chunks(None).measurement()


def test_pieces_are_the_whole(wanted):
    """Beside the last bits of the mean power, which is summed in another order."""
    whole = measure(PICTURES.pairs(), FEATURES)
    assert torch.equal(whole.features, wanted.features)
    assert torch.equal(whole.rms, wanted.rms)
    assert torch.equal(whole.shift, wanted.shift)
    torch.testing.assert_close(whole.spectrum.power, wanted.spectrum.power, rtol=1e-12, atol=0)
    assert (wanted.spectrum.count, wanted.side, wanted.low_res) == (COUNT, 8, 4)
    assert next(figure.value for figure in pixel_figures(whole, wanted)) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_no_bit_depends_on_how_many_are_held(batch, wanted):
    same(chunks(None, batch=batch).measurement(), wanted)


def test_no_bit_depends_on_the_order_or_on_a_stop(wanted, tmp_path):
    job = chunks(tmp_path)
    for number in permutation("order", size=len(job.chunks)).tolist()[:4]:
        job._make(job.chunks[number])
    before = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert len(before) == 4
    same(chunks(tmp_path).measurement(), wanted)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    same(chunks(tmp_path).measurement(), wanted)


def test_a_chunk_whose_pictures_are_gone_is_made_again(tmp_path):
    from dataclasses import replace

    chunks(tmp_path).make()
    gone = {8}
    job = chunks(tmp_path)
    job.pictures = replace(PICTURES, there=lambda places: not gone & set(places))
    made = []
    job._make = lambda places: (made.append(places), gone.clear())
    job.make()
    assert made == [range(8, 12)]


def test_a_damaged_chunk_is_named(tmp_path):
    chunks(tmp_path).make()
    (tmp_path / "000004-000008.safetensors").write_bytes(b"no measurement")
    with pytest.raises(CascadeError, match=r"000004-000008\.safetensors is damaged; remove it"):
        chunks(tmp_path).measurement()


def test_a_piece_keeps_every_bit(wanted):
    same(from_bytes(to_bytes(wanted)), wanted)
    plain = measure(((image, None) for image, _ in PICTURES.pairs(range(3))), FEATURES)
    assert from_bytes(to_bytes(plain)).rms is None
    for damaged in (b"", to_bytes(plain)[:-1], b"\x00" * 40):
        with pytest.raises(CascadeError):
            from_bytes(damaged)
    with pytest.raises(CascadeError, match="of 8 and of 16 px"):
        merged([plain, measure([(torch.zeros(3, 16, 16, dtype=torch.uint8), None)], FEATURES)])


def processes(folder, *work):
    """Run each of `work`, as a process of its own number, and return what they give or raise."""
    results = [None] * len(work)

    def run(rank):
        team = Team(folder, Processes(len(work), rank))
        try:
            with team.together():
                results[rank] = work[rank](team)
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a hang"
    return results


@pytest.fixture
def brisk(monkeypatch):
    for name, seconds in (("_LOOK", 0.01), ("_BEAT", 0.0), ("_PATIENCE", 5.0)):
        monkeypatch.setattr(teams, name, seconds)


@pytest.mark.usefixtures("brisk")
def test_three_processes_make_what_one_does(wanted, tmp_path):
    def work(team):
        if team.processes.is_first:
            team.say({"seed": 3})
        else:
            assert team.hear() == {"seed": 3}
        return chunks(tmp_path / "measured", team).measurement()

    for found in processes(tmp_path, work, work, work):
        same(found, wanted)
    assert not (tmp_path / PULSE).exists()
    assert not list(tmp_path.rglob("*.claim"))


@pytest.mark.usefixtures("brisk")
def test_one_that_fails_costs_the_others_nothing(wanted, tmp_path):
    def work(team):
        team.say({})
        return chunks(tmp_path / "measured", team).measurement()

    def fails(team):
        team.hear()
        job = chunks(tmp_path / "measured", team)
        with team.claimed(job._file(job.chunks[1])) as mine:
            raise CascadeError(f"no more memory, {mine}")

    found, failed = processes(tmp_path, work, fails)
    same(found, wanted)
    assert isinstance(failed, CascadeError)


@pytest.mark.usefixtures("brisk")
@pytest.mark.parametrize("when", ["before it said anything", "at work", "at the end"])
def test_without_the_first_all_end(when, tmp_path):
    """The others learn of it while they wait, and while they work."""

    come = threading.Barrier(3)

    def first(team):
        come.wait(60)
        if when != "before it said anything":
            team.say({})
        raise CascadeError("no room on the disk")

    def other(team):
        come.wait(60)
        team.hear()
        while when == "at work":
            team.beat()

    *_, one, two = processes(tmp_path, first, other, other)
    for error in (one, two):
        assert isinstance(error, CascadeError)
        assert "process 0 has ended before it was" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_one_that_nobody_comes_to_gives_up(tmp_path, monkeypatch):
    """Also where an earlier launch has left its files: one that was killed, and one that was done long ago."""
    monkeypatch.setattr(teams, "_BEGAN", teams._BEGAN + 3600)
    now = iter(range(0, 1000, 7))
    team = Team(tmp_path, Processes(2, 1), clock=lambda: next(now), sleep=lambda _: None)
    for phase in ("begun", "done"):
        state = {"launch": teams._launch(team.processes), "token": "old", "phase": phase, "said": {}, "began": 0.0}
        (tmp_path / STATE).write_text(json.dumps(state))
        with pytest.raises(CascadeError, match="process 0 did not come"), team.together():
            pass


@pytest.mark.usefixtures("brisk")
def test_one_that_comes_when_all_is_done_is_not_needed(tmp_path):
    with Team(tmp_path, Processes(2, 0)).together():
        pass
    with Team(tmp_path, Processes(2, 1)).together() as needed:
        assert not needed


def test_a_process_knows_when_it_was_started():
    assert 0 < time.time() - teams._start() < 86400


def test_a_claim_without_a_sign_of_life_is_passed_over(tmp_path):
    now = [0.0]
    team = Team(tmp_path, Processes(2, 0), clock=lambda: now[0])
    piece = tmp_path / "piece"
    handle = claim(tmp_path / ".piece.claim")
    try:
        for seconds, passed in ((0.0, False), (59.0, False), (61.0, True)):
            now[0] = seconds
            with team.claimed(piece) as mine:
                assert mine is passed
        (tmp_path / ".piece.claim").touch()
        with team.claimed(piece) as mine:
            assert not mine
    finally:
        give_back(handle)
    with team.claimed(piece) as mine:  # a claim of one that is dead holds nobody off
        assert mine


@pytest.fixture
def second(tmp_path):
    """Process 1 with a clock of its own, while process 0 holds its pulse and says nothing more."""
    handle, now = claim(tmp_path / PULSE), [0.0]

    def sleep(seconds):
        now[0] += seconds

    team = Team(tmp_path, Processes(2, 1), clock=lambda: now[0], sleep=sleep)
    state = {"launch": teams._launch(team.processes), "token": "one", "phase": "opening", "said": {}, "began": 0.0}
    (tmp_path / STATE).write_text(json.dumps(state))
    yield team, now
    give_back(handle)


def test_a_first_that_is_stopped_is_waited_for_a_minute(second):
    team, now = second
    with pytest.raises(CascadeError, match="process 0 has given no sign of life for 60 s"), team.together() as due:
        assert due
    assert 60 < now[0] < 70


def test_one_at_work_learns_that_the_first_is_stopped(second):
    team, now = second
    for seconds in (10, 69, 71, 130):  # signs of life come, and the last at 71
        now[0] = seconds
        if seconds < 100:
            os.utime(team.folder / PULSE, ns=(seconds, seconds))
        team.beat()
    now[0] = 200
    with pytest.raises(CascadeError, match="no sign of life"):
        team.beat()


def test_a_job_that_was_stopped_as_a_whole_goes_on(second):
    team, now = second
    team.beat()
    now[0] = 3600
    team.sleep = lambda _: (team.folder / PULSE).touch()  # process 0 has gone on too, a moment later
    team.beat()


def test_the_first_gives_signs_of_life_whatever_it_is_at(tmp_path, monkeypatch):
    monkeypatch.setattr(teams, "_HEART", 0.01)
    with Team(tmp_path, Processes(2, 0)).together():
        os.utime(tmp_path / PULSE, ns=(0, 0))
        until = time.monotonic() + 60
        while not (tmp_path / PULSE).stat().st_mtime_ns and time.monotonic() < until:
            time.sleep(0.01)
        assert (tmp_path / PULSE).stat().st_mtime_ns
    assert not (tmp_path / PULSE).exists()


def test_what_others_are_at_is_left_to_them_while_there_is_more_to_do(wanted, tmp_path):
    job = chunks(tmp_path, Team(tmp_path, Processes(2, 0), sleep=lambda _: pytest.fail("it waits")))
    handle = claim(tmp_path / f".{job._file(job.chunks[1]).name}.claim")
    try:
        job.make(wait=False)
    finally:
        give_back(handle)
    assert [job._there(places) for places in job.chunks] == [True, False, True, True, True, True]
    same(job.measurement(), wanted)


def test_several_processes_need_a_folder_and_locks(tmp_path, monkeypatch):
    with pytest.raises(CascadeError, match="give out=FOLDER"):
        Team(None, Processes(2, 0))
    monkeypatch.setattr(teams, "is_held", lambda _: False)
    with pytest.raises(CascadeError, match="a file system without"), Team(tmp_path, Processes(2, 0)).together():
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("brisk")
def test_the_bar_is_of_all_processes(tmp_path, monkeypatch):
    """The first says what the others have made, too."""
    monkeypatch.setattr("cascade.commands.shared_chunks._RESCAN", -1.0)
    chunks(tmp_path).make()
    kept = tmp_path / "000000-000004.safetensors"
    data = kept.read_bytes()
    kept.unlink()
    (tmp_path / "000016-000020.safetensors").unlink()
    told = io.StringIO()
    job = chunks(tmp_path, Team(tmp_path, Processes(2, 0)))
    job.bars = Bars(Console(file=told, force_terminal=False))
    seen = []
    job.bars.at = lambda name, done, total: seen.append((done, total))
    job._make = lambda places: (kept.write_bytes(data), (tmp_path / "000016-000020.safetensors").write_bytes(data))
    job.make()
    assert seen == [(13, 21), (21, 21), (21, 21)]
