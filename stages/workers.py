"""The processes that read pictures for a training: they end when it wants them to, and by no signal meant for it."""

import os
import signal
import threading


def heed_the_parent_alone(worker: int) -> None:  # noqa: ARG001
    """Begin a loader's worker: leave the signals that stop a run to the process that trains.

    A terminal sends SIGINT to all processes of a run, and a scheduler SIGTERM; the one that trains finishes its step
    and saves, and needs its workers for that. It ends them by SIGTERM itself, which must go on working.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS does not say who sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by_parent, args=(os.getppid(),), daemon=True).start()


def is_of_killed_worker(error: RuntimeError) -> bool:
    """Whether torch says by it that a worker was killed; that may come in the midst of anything, as a signal does."""
    return "DataLoader worker" in str(error)


def _end_by_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
