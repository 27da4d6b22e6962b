"""The processes that share one job: started by torchrun or by SLURM's srun, else this one alone."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from cascade.errors import CascadeError

_SHELLS = 0xFFFFFFF0
"""SLURM numbers the steps of batch scripts and interactive shells from here on; they are no tasks of srun."""


@dataclass(frozen=True)
class Processes:
    """This process among the `count` that share one job.

    rank, local_rank   its number among all of them, and among those of its node
    nodes, node        how many nodes there are, each with as many processes, and which of them this is
    address, port      where process 0 waits for the others
    """

    count: int = 1
    rank: int = 0
    local_rank: int = 0
    nodes: int = 1
    node: int = 0
    address: str = "127.0.0.1"
    port: int = 29500

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read what torchrun or srun tells its processes; torchrun comes first, for it also runs inside of srun.

        >>> Processes.here({"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "2"}).rank
        2
        >>> tasks = {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "rack1n[08-09]"}
        >>> own = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_JOB_ID": "77"}
        >>> Processes.here(tasks | own)
        Processes(count=4, rank=3, local_rank=1, nodes=2, node=1, address='rack1n08', port=12387)
        """
        if "WORLD_SIZE" in environment:
            return cls(
                count=int(environment["WORLD_SIZE"]),
                rank=int(environment.get("RANK", "0")),
                local_rank=int(environment.get("LOCAL_RANK", "0")),
                nodes=int(environment.get("GROUP_WORLD_SIZE", "1")),
                node=int(environment.get("GROUP_RANK", "0")),
                address=environment.get("MASTER_ADDR", cls.address),
                port=int(environment.get("MASTER_PORT", cls.port)),
            )
        return cls._of_srun(environment) if _started_by_srun(environment) else cls()

    @classmethod
    def _of_srun(cls, environment: Mapping[str, str]) -> Self:
        count = int(environment["SLURM_NTASKS"])
        nodes = int(_first(environment, "SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES") or 1)
        if count % nodes:
            raise CascadeError(f"{count} SLURM tasks on {nodes} nodes: every node needs as many; say --ntasks-per-node")
        names = _first(environment, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
        # Every step of every job has a port of its own, as far as that can be had without asking anybody.
        job, step = (int(environment.get(key, "0")) for key in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        return cls(
            count=count,
            rank=int(environment["SLURM_PROCID"]),
            local_rank=int(environment.get("SLURM_LOCALID", "0")),
            nodes=nodes,
            node=int(environment.get("SLURM_NODEID", "0")),
            address=environment.get("MASTER_ADDR") or (first_node(names) if names and nodes > 1 else cls.address),
            port=int(environment.get("MASTER_PORT") or 10000 + (31 * job + step) % 20000),
        )

    @property
    def per_node(self) -> int:
        """How many of them run on one node."""
        return self.count // self.nodes

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and speaks for all."""
        return self.rank == 0


def first_node(names: str) -> str:
    """Return the first host of a SLURM node list.

    >>> [first_node(names) for names in ("gpu[08-11,15],big1", "rack[0-1]n[2-3]", "one,two", "alone")]
    ['gpu08', 'rack0n2', 'one', 'alone']
    """
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", names).split(",")[0].strip()


def _started_by_srun(environment: Mapping[str, str]) -> bool:
    """Whether this is a task of srun, and not a batch script that has tasks to give but starts one process itself."""
    if not {"SLURM_PROCID", "SLURM_NTASKS"} <= environment.keys():
        return False
    step = _first(environment, "SLURM_STEP_ID", "SLURM_STEPID")
    if step is None:  # SLURM's daemon tells a batch script its process, as it does tasks, but no step
        return "SLURM_TASK_PID" not in environment
    return int(step) < _SHELLS


def _first(environment: Mapping[str, str], *keys: str) -> str | None:
    return next((environment[key] for key in keys if environment.get(key)), None)
