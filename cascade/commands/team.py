"""Several processes that share an evaluation by files in its folder: no network, and no call in which all must meet.

Process 0 holds the folder, says what was agreed, and writes the report. All take pieces of the work that nobody else
has: a piece is claimed by a lock, which the kernel takes back from a process that dies, and is there when its file is.
So one that is slow, has nothing to do or dies costs time alone; only without process 0 there is no report, and then the
others end too: within seconds where it has died, after a minute where it is stopped.
"""

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cascade.errors import CascadeError
from cascade.files import write_whole
from cascade.lock import claim, exclusive, give_back, is_held
from cascade.processes import Processes

PULSE, STATE = ".processes.lock", ".processes.json"
"""Process 0 holds the first as long as it lives, and says in the second how far it is."""
_PATIENCE = 60.0  # seconds: until process 0 must have come, and without a sign of life of it or of a claim
_TOGETHER = 3.0  # seconds between the starts of processes of one launch, on one machine
_JUST_NOW = 30.0  # seconds: what was done so shortly before this process began may have been done beside it
_LOOK, _BEAT = 0.2, 1.0  # seconds between two looks of one that waits, and between two signs of life
_HEART = 1.0  # seconds between two of process 0, which gives them whatever it is at
_OPENING, _BEGUN, _DONE = "opening", "begun", "done"


def _start() -> float:
    """When this process was started, by the clock of the system; when this was imported, where that is not told."""
    with suppress(OSError, ValueError, IndexError, StopIteration):
        ticks = float(
            Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19]
        )
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
        boot = next(float(line.split()[1]) for line in lines if line.startswith("btime "))
        return boot + ticks / os.sysconf("SC_CLK_TCK")
    return time.time()


_BEGAN = _start()


@dataclass(eq=False)
class Team:
    """The processes that work in `folder`; a process alone works without files, and `folder` may be None.

    >>> with Team(None).together() as needed, Team(None).claimed(Path("piece")) as mine:
    ...     needed, mine
    (True, True)
    """

    folder: Path | None
    processes: Processes = field(default_factory=Processes)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _token: str = ""
    _said: Mapping[str, Any] = field(default_factory=dict)
    _claim: Path | None = None
    _beaten: float = 0.0
    _seen: dict[Path, tuple[int, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.processes.count > 1 and self.folder is None:
            raise CascadeError("several processes share their work in a folder: give out=FOLDER")

    @property
    def alone(self) -> bool:
        """Whether there is nobody to share with."""
        return self.processes.count == 1

    @contextmanager
    def together(self) -> Iterator[bool]:
        """Hold the folder, and leave it together; whether this process is needed at all.

        Of several processes the first is the one that holds it; the others wait for it, here and at the end, and raise
        CascadeError where it has failed. One that comes when all is done is not needed.
        """
        if self.folder is None:
            yield True
        elif not self.processes.is_first:
            yield self._wait_for(_OPENING)["phase"] != _DONE
            self._wait_for(_DONE)
        else:
            with exclusive(self.folder), self._pulse(self.folder):
                yield True

    def say(self, said: Mapping[str, Any]) -> None:
        """Tell the others what was agreed; process 0 alone does."""
        self._said = said
        self._tell(_BEGUN)

    def hear(self) -> Mapping[str, Any]:
        """Wait for what process 0 has to say."""
        return self._wait_for(_BEGUN)["said"]

    @contextmanager
    def claimed(self, piece: Path) -> Iterator[bool]:
        """Whether this process is to make the file `piece` now; until the block ends nobody else does.

        A claim of another one that gives no sign of life for a minute is passed over: the file is then made twice.
        """
        if self.folder is None:
            yield True
            return
        file = piece.with_name(f".{piece.name}.claim")
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = claim(file)
        if handle is None:
            yield self._is_stuck(file)
            return
        self._claim = file
        try:
            yield True
        finally:
            self._claim = None
            file.unlink(missing_ok=True)  # before the lock is given back, so never a file that another one holds
            give_back(handle)

    def beat(self) -> None:
        """Give a sign of life, and raise CascadeError if process 0 is no more; to be called again and again."""
        now = self.clock()
        if self.alone or now - self._beaten < _BEAT:
            return
        self._beaten = now
        if self._claim is not None:
            with suppress(FileNotFoundError):
                os.utime(self._claim)
        if not self.processes.is_first:
            if not is_held(self._file(PULSE)):
                self._expect(_DONE)
            self._refuse_silence()

    def wait(self) -> None:
        """Wait a little for what others make."""
        self.sleep(_LOOK)
        self.beat()

    def _file(self, name: str) -> Path:
        assert self.folder is not None, "only a team with a folder has files"
        return self.folder / name

    @contextmanager
    def _pulse(self, folder: Path) -> Iterator[None]:
        if self.alone:
            yield
            return
        self._token = secrets.token_hex(8)
        handle = self._claimed_pulse()
        try:
            if not is_held(folder / PULSE):
                raise CascadeError(f"several processes need locks, and {folder} is on a file system without them")
            self._tell(_OPENING)
            with self._heart():
                yield
            self._tell(_DONE)
        except BaseException:
            (folder / STATE).unlink(missing_ok=True)
            raise
        finally:
            (folder / PULSE).unlink(missing_ok=True)
            give_back(handle)

    @contextmanager
    def _heart(self) -> Iterator[None]:
        """Give signs of life from a thread: process 0 loads, and computes figures, for longer than others wait."""
        ended, pulse = threading.Event(), self._file(PULSE)

        def beat() -> None:
            while not ended.wait(_HEART):
                with suppress(OSError):
                    os.utime(pulse)

        threading.Thread(target=beat, daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def _claimed_pulse(self) -> int:
        # Nobody else keeps it, for the folder is held; but the others look whether it is, and hold it for that instant.
        until = self.clock() + _PATIENCE
        while (handle := claim(self._file(PULSE))) is None:
            if self.clock() > until:
                raise CascadeError(f"another process holds {self._file(PULSE)}; wait until it has ended")
            self.sleep(_LOOK / 10)
        return handle

    def _tell(self, phase: str) -> None:
        if not self.alone:
            who = {"launch": _launch(self.processes), "token": self._token, "began": _BEGAN}
            write_whole(self._file(STATE), json.dumps({**who, "phase": phase, "said": dict(self._said)}))

    def _state(self) -> dict[str, Any] | None:
        """What process 0 of this launch has told; None where it has not, or is no more."""
        try:
            state = json.loads(self._file(STATE).read_text(encoding="utf-8"))
            written = self._file(STATE).stat().st_mtime
        except (OSError, ValueError):
            return None
        if self._token:
            return state if state["token"] == self._token else None
        if state["launch"] != _launch(self.processes):
            return None
        fresh = written > _BEGAN - _JUST_NOW if state["phase"] == _DONE else is_held(self._file(PULSE))
        return state if fresh else None

    def _wait_for(self, phase: str) -> dict[str, Any]:
        """Wait until process 0 is as far, and return what it tells."""
        phases = (_OPENING, _BEGUN, _DONE)
        until = self.clock() + _PATIENCE
        while True:
            # In this order: it tells that it is done before it is no more.
            living = not self._token or is_held(self._file(PULSE))
            late = not self._token and self.clock() > until
            state = self._state()
            if state is not None and not self._token and state["phase"] == _DONE and not late:
                # Else it is perhaps of an earlier launch, or of another machine whose clock differs.
                state = state if abs(state["began"] - _BEGAN) < _TOGETHER else None
            if state is not None:
                self._token = state["token"]
                if phases.index(state["phase"]) >= phases.index(phase):
                    return state
            if not living:
                self._expect(phase)
            if self._token:
                self._refuse_silence()
            if late:
                raise CascadeError(f"process 0 did not come to {self.folder} within {_PATIENCE:.0f} seconds")
            self.sleep(_LOOK)

    def _expect(self, phase: str) -> None:
        state = self._state()
        if state is None or state["phase"] != _DONE:
            raise CascadeError(
                f"process 0 has ended before it was {phase}, and said why; what is made is kept: run it again"
            )

    def _refuse_silence(self) -> None:
        """Raise CascadeError if process 0 is there and gives no sign of life: it is stopped, or its machine is."""
        pulse = self._file(PULSE)
        if not self._is_stuck(pulse):
            return
        self.sleep(3 * _HEART)  # where the whole job was stopped and has just gone on, process 0 needs a moment too
        if self._is_stuck(pulse):
            raise CascadeError(
                f"process 0 has given no sign of life for {_PATIENCE:.0f} seconds; end it, and run it again: what is "
                "made is kept"
            )

    def _is_stuck(self, file: Path) -> bool:
        """Whether a file shows no sign of life since this process first looked at it, a minute ago."""
        try:
            beaten = file.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        before, since = self._seen.get(file, (None, 0.0))
        if before != beaten:
            self._seen[file] = beaten, self.clock()
            return False
        return self.clock() - since > _PATIENCE


def _launch(processes: Processes, environment: Mapping[str, str] = os.environ) -> list[str]:
    """What tells the processes of one launch from those of another, as far as they are told themselves."""
    keys = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "SLURM_JOB_ID", "SLURM_STEP_ID")
    own = [processes.count, processes.address, processes.port, *(environment.get(key, "") for key in keys)]
    return [str(part) for part in own]
