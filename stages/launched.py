"""What Lightning is told of processes that somebody else has started."""

from lightning.fabric.plugins.environments import ClusterEnvironment

from cascade.processes import Processes


class Launched(ClusterEnvironment):
    """What Lightning asks of processes that somebody else has started.

    Its own SLURM class would take over the signals and put the job back into the queue; ours saves and ends instead.
    """

    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self.processes = processes

    @property
    def creates_processes_externally(self) -> bool:
        """Lightning starts none."""
        return True

    @property
    def main_address(self) -> str:
        """The host of process 0."""
        return self.processes.address

    @property
    def main_port(self) -> int:
        """Its port."""
        return self.processes.port

    @staticmethod
    def detect() -> bool:
        """It is never found by itself, but given."""
        return False

    def world_size(self) -> int:
        """The number of processes."""
        return self.processes.count

    def set_world_size(self, size: int) -> None:
        """It is given."""

    def global_rank(self) -> int:
        """The number of this process."""
        return self.processes.rank

    def set_global_rank(self, rank: int) -> None:
        """It is given."""

    def local_rank(self) -> int:
        """Its number on its node."""
        return self.processes.local_rank

    def node_rank(self) -> int:
        """The number of its node."""
        return self.processes.node
