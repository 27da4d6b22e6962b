"""Where the processes of a run wait for one another before it begins: all begin, or all leave."""

import os
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cascade.errors import CascadeError
from cascade.processes import Processes

if TYPE_CHECKING:
    from torch.distributed import Store

_WAIT, _WAIT_REFUSED = timedelta(minutes=30), timedelta(minutes=2)
"""How long one waits for the others: to begin, and to tell them that it does not."""
_stores: "dict[Processes, Store]" = {}
"""What process 0 serves must live as long as it does; torch's own rendezvous shares it."""


class Meeting:
    """Until a run begins, what refuses one of its processes refuses all, within seconds, in the same words.

    Every process passes the same `agree` calls in the same order; one that leaves the block by an error instead tells
    the others, who raise CascadeError in its words at their next `agree`. A process alone meets nobody.

    >>> with Meeting(Processes(), "alone") as meeting:
    ...     meeting.agree()
    """

    def __init__(self, processes: Processes, name: str) -> None:
        self.processes = processes
        self._name = name
        self._passed = 0
        self._over = processes.count == 1

    def agree(self, *, last: bool = False) -> None:
        """Wait for all; raise CascadeError if one was refused. After the `last` time nobody is told any more."""
        if not self._over:
            self._over = last
            refusal = self._exchanged("")
            self._passed += 1
            if refusal:
                self._over = True
                raise CascadeError(refusal)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, Exception) and not self._over:
            self._over = True
            self._exchanged(str(error) or type(error).__name__)

    def _exchanged(self, refusal: str) -> str:
        """Tell the others of a refusal ("": there is none) and return the first of all, with who it is from."""
        own, wait = self.processes, _WAIT_REFUSED if refusal else _WAIT
        keys = [f"cascade/{self._name}/{self._passed}/{rank}" for rank in range(own.count)]
        try:
            store = _store(own, wait)
            store.set_timeout(wait)
            store.set(keys[own.rank], f"-{refusal}" if refusal else "+")
            said = [store.get(key).decode() for key in keys]
            store.set(f"{keys[own.rank]}/read", "+")
            if own.is_first:  # with it goes what the others read from
                store.wait([f"{key}/read" for key in keys])
        except RuntimeError as error:
            if refusal:  # there is nobody to tell, and it is told by itself
                return refusal
            line = f"the {own.count} processes of the run did not all come to {own.address}:{own.port}"
            raise CascadeError(f"{line} ({str(error).splitlines()[0]})") from error
        return next((f"process {rank}: {word[1:]}" for rank, word in enumerate(said) if word[0] == "-"), "")


def _store(processes: Processes, wait: timedelta) -> "Store":
    if processes not in _stores:
        from torch.distributed.rendezvous import rendezvous

        os.environ.update(MASTER_ADDR=processes.address, MASTER_PORT=str(processes.port))  # as Lightning does
        found = rendezvous("env://", rank=processes.rank, world_size=processes.count, timeout=wait)
        _stores[processes] = next(iter(found))[0]
    return _stores[processes]
