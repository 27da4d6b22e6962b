"""`cascade train` as the process of another command: it ends when that one does, after a step and with a checkpoint."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cascade.errors import CascadeError

_ROOT = Path(__file__).resolve().parents[2]
_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG


def train_in_process(words: Sequence[str], log: Path, tell: Callable[[float], object]) -> None:
    """Run `cascade train WORDS`, all it says goes to the end of `log`; `tell` hears the processor's seconds so far.

    Raises CascadeError with the training's own line where it fails. An interrupt is passed on, and the training saves.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with log.open("ab") as file:
        first = file.tell()
        process = subprocess.Popen(
            # -P: whatever lies in the working folder is no module.
            [sys.executable, "-P", "-m", "cascade.commands.train_process", *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # a terminal's Ctrl-C comes to this process alone, which passes it on, once
        )
        try:
            code = _wait(process, tell)
        except BaseException:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
    if code:
        raise CascadeError(_reason(log, first, code))


def _wait(process: "subprocess.Popen[bytes]", tell: Callable[[float], object]) -> int:
    while True:
        try:
            return process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            tell(_processor_seconds(process.pid))


def _processor_seconds(pid: int) -> float:
    """What the system counts of a process; 0 where it does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return 0.0


def _reason(log: Path, first: int, code: int) -> str:
    """The line in which a training says what is wrong, else the last one that it says."""
    with log.open("rb") as file:
        file.seek(first)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    told = [line.removeprefix("cascade: ") for line in lines if line.startswith("cascade: ")]
    if told:
        return told[-1]
    if code < 0 or code > 128:
        number = -code if code < 0 else code - 128
        return f"its training was stopped by signal {number}; the same command continues it"
    return lines[-1] if lines else f"its training ended with exit code {code}"


def main() -> int:
    """The process itself."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGTERM)
    from cascade.commands.command_line import main as command_line

    return command_line(["train", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
