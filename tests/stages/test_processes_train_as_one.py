"""Two processes, of torchrun or of SLURM, train as one does: the same losses, the same skipped steps, also resumed."""

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cascade.errors import CascadeError
from cascade.lock import beside
from cascade.processes import Processes
from stages.launched import Launched

SCRIPT = Path(__file__).with_name("training_process.py")
RUN = ["name=r", "stage=base64", "geometric=edm", "geometric.p=0.5", "trainer.workers=0", "trainer.batch=8"]
# Rows at steps 4 and 6, checkpoints at 2 and 4: a run resumed at 2 is in the midst of a mean.
RUN += ["trainer.validate_every=6", "trainer.log_every=4", "trainer.checkpoint_every=2"]
SPOILT = 1
"""The step that one picture is spoilt in."""


def start(
    folder: Path, *arguments: str, launcher: tuple[str, ...] = (), environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    command = [sys.executable, *launcher, str(SCRIPT), f"--spoil={SPOILT}", *arguments, f"runs={folder}", *RUN]
    own = clean() if environment is None else environment
    return subprocess.Popen(command, text=True, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def end(processes: list[subprocess.Popen[str]], status: int = 0) -> str:
    """Wait for them all; return what they printed."""
    said = [process.communicate(timeout=500) for process in processes]
    assert [process.returncode for process in processes] == [status] * len(processes), said
    return "".join(out for out, _ in said)


def tasks() -> list[dict[str, str]]:
    """The environments that `srun --ntasks=2` gives its tasks on one node."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NNODES": "1"}
    shared |= {"SLURM_JOB_NODELIST": "node[07-08]", "SLURM_JOB_NAME": "train", "SLURM_NODEID": "0"}
    own = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i), "SLURM_TASK_PID": str(100 + i)} for i in range(2)]
    return [{**clean(), "MASTER_PORT": str(port), **shared, **task} for task in own]


def clean() -> dict[str, str]:
    """Our environment without what a scheduler has put there."""
    return {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")} | {"OMP_NUM_THREADS": "1"}


def srun(folder: Path, *arguments: str) -> list[subprocess.Popen[str]]:
    """Start two tasks of srun."""
    return [start(folder, *arguments, "trainer.devices=2", environment=environment) for environment in tasks()]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "r" / "base64" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def same_curve(one: Path, two: Path) -> None:
    assert [row["train/skipped_steps"] for row in rows(two)] == [row["train/skipped_steps"] for row in rows(one)]
    for key in ("train/loss", "val/loss", "train/gradient_norm"):
        a, b = ([float(row[key]) for row in rows(folder) if row[key]] for folder in (one, two))
        assert len(a) == len(b) > 0
        assert a == pytest.approx(b, abs=1e-5 if "norm" not in key else 1e-3), key


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The run of one process, whose second step was skipped."""
    folder = tmp_path_factory.mktemp("one")
    end([start(folder)])
    assert [row["train/skipped_steps"] for row in rows(folder)] == ["1", "1"]
    return folder


@pytest.mark.timeout(600)
def test_two_processes_of_torchrun_have_the_losses_of_one_and_skip_a_step_together(tmp_path: Path, alone: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    end([start(tmp_path, "trainer.devices=2", launcher=torchrun)])
    same_curve(alone, tmp_path)


@pytest.mark.timeout(600)
def test_two_tasks_of_slurm_that_were_killed_go_on_to_the_losses_of_one(tmp_path: Path, alone: Path) -> None:
    end(srun(tmp_path, "--kill-at=3"), status=-9)
    assert "resumed from 2 " in end(srun(tmp_path))
    same_curve(alone, tmp_path)


MAIN = "import sys; from cascade.commands.command_line import main; sys.exit(main(sys.argv[1:]))"


def commands(*arguments: str, of_each: tuple[list[str], list[str]] = ([], [])) -> list[subprocess.Popen[str]]:
    """Start `cascade train` as two tasks of srun, which say some words alike and some each on their own."""
    words = ["train", "debug=fast", "trainer.devices=2", "name=r", "trainer.accelerator=cpu", *arguments]
    return [
        subprocess.Popen(
            [sys.executable, "-c", MAIN, *words, *own],
            text=True,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for own, environment in zip(of_each, tasks(), strict=True)
    ]


def refusals(processes: list[subprocess.Popen[str]]) -> list[str]:
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [2, 2], said
    assert [out for out, _ in said] == ["", ""]
    return [err for _, err in said]


def test_where_process_0_is_held_off_by_another_run_all_leave_in_its_words(tmp_path: Path) -> None:
    folder = tmp_path / "r" / "base64"
    line = f"process {os.getpid()} is writing to {folder}; wait until it has ended, or choose another"
    with beside(folder):
        first, second = refusals(commands(f"runs={tmp_path}"))
    assert first == f"cascade: {line}\n"
    assert second == f"cascade: process 0: {line}\n"


def test_where_one_process_finds_something_wrong_none_begins(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "0" / "1.png")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "0" / "2.png")
    roots = [f"data.root={tmp_path / '0'}"], [f"data.root={tmp_path / '1'}"]
    first, second = refusals(commands(f"runs={tmp_path / 'runs'}", "data=folder", of_each=roots))
    assert first == f"cascade: process 1: the folder {tmp_path / '1'} does not exist\n"
    assert second == f"cascade: the folder {tmp_path / '1'} does not exist\n"
    assert not (tmp_path / "runs").exists()


TASK = {"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "3"}
TASK |= {"SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "n[08-09]", "SLURM_TASK_PID": "5"}


def test_a_task_of_srun_is_one_of_its_tasks() -> None:
    here = Processes.here(TASK)
    assert (here.count, here.rank, here.local_rank, here.nodes, here.node, here.per_node) == (4, 3, 1, 2, 1, 2)
    assert here.address == "n08"
    assert Processes.here({**TASK, "MASTER_ADDR": "login", "MASTER_PORT": "1234"}).port == 1234
    assert Processes.here({**TASK, "MASTER_ADDR": "login"}).address == "login"
    one_node = {**TASK, "SLURM_NNODES": "1", "SLURM_STEP_NUM_NODES": "1"}
    assert Processes.here(one_node).address == "127.0.0.1"


def test_steps_of_a_job_meet_at_ports_of_their_own() -> None:
    ports = {Processes.here({**TASK, "SLURM_STEP_ID": str(step)}).port for step in range(8)}
    assert len(ports) == 8
    assert all(1024 < port < 32768 for port in ports)


@pytest.mark.parametrize(
    "shell",
    [
        {key: value for key, value in TASK.items() if key != "SLURM_STEP_ID"},
        {**TASK, "SLURM_STEP_ID": str(0xFFFFFFFB)},
        {**TASK, "SLURM_STEP_ID": str(0xFFFFFFFA)},
        {key: value for key, value in TASK.items() if key != "SLURM_PROCID"},
        {},
    ],
    ids=["batch script", "batch step", "interactive step", "salloc", "no SLURM"],
)
def test_a_shell_of_slurm_is_one_process(shell: dict[str, str]) -> None:
    assert Processes.here(shell) == Processes()


def test_torchrun_inside_of_srun_counts_its_own_processes() -> None:
    torchrun = {"WORLD_SIZE": "8", "RANK": "6", "LOCAL_RANK": "2", "GROUP_WORLD_SIZE": "2", "GROUP_RANK": "1"}
    here = Processes.here({**TASK, **torchrun})
    assert (here.count, here.rank, here.local_rank, here.per_node, here.node) == (8, 6, 2, 4, 1)


def test_nodes_with_other_numbers_of_tasks_are_refused() -> None:
    with pytest.raises(CascadeError, match="5 SLURM tasks on 2 nodes"):
        Processes.here({**TASK, "SLURM_NTASKS": "5"})


def test_lightning_is_told_what_the_launcher_said_and_keeps_its_hands_off_the_signals() -> None:
    from lightning.fabric.plugins.environments import SLURMEnvironment

    told = Launched(Processes.here(TASK))
    assert (told.world_size(), told.global_rank(), told.local_rank(), told.node_rank()) == (4, 3, 1, 1)
    assert (told.main_address, told.main_port) == ("n08", Processes.here(TASK).port)
    assert told.creates_processes_externally
    # Lightning takes SIGUSR1 and SIGTERM and requeues the job where its own class is in use.
    assert not isinstance(told, SLURMEnvironment)
