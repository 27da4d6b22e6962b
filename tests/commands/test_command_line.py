"""The command line: help, settings as they were written, sweeps, and how whatever goes wrong is told."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from cascade.commands import command_line
from cascade.commands.command_line import COMMANDS, Command, main
from cascade.commands.configuration import CONF, composed, flattened, groups_of, groups_on_disk, mandatory_picks
from cascade.commands.overrides import KINDS, check
from cascade.errors import CascadeError


def test_help_explains_every_command(capsys):
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed and command.summary in listed for name, command in COMMANDS.items())
    for name in COMMANDS:
        if not (CONF / f"{name}.yaml").is_file():
            continue
        assert main([name, "-h"]) == 0
        text = capsys.readouterr().out
        assert f"usage: cascade {name}" in text
        assert f"  cascade {name} " in text  # an example
    assert main(["train", "stage=sr256", "--help"]) == 0
    text = capsys.readouterr().out
    for expected in ("seed=0", "* base64", "sr256", "trainer.batch=32", "-m, --multirun", "fast"):
        assert expected in text
    assert main(["sample", "--help"]) == 0
    text = capsys.readouterr().out
    assert "cascade=???" in text
    assert "STAGE.aug_log_snr" in text
    assert "per_stage" not in text


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["python", "a GPU", "torch"],
)
def test_too_little_memory_is_one_line(monkeypatch, capsys, error):
    def full(argv):
        raise error

    monkeypatch.setattr(command_line, "_run", full)
    assert main(["sample"]) == 2
    assert capsys.readouterr().err.startswith("cascade: there is not enough memory for this; a smaller")
    monkeypatch.setattr(command_line, "_run", lambda argv: (_ for _ in ()).throw(RuntimeError("of another kind")))
    with pytest.raises(RuntimeError, match="of another kind"):
        main(["sample"])


def test_version(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"cascade \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.fixture
def spy(monkeypatch):
    """`cascade prepare` and `cascade train` with a run() that notes its configuration."""
    seen, asked = [], []

    class Module:
        @staticmethod
        def check_sweep(jobs):
            asked.extend(config for _, config in jobs)

        @staticmethod
        def run(config):
            assert not asked or OmegaConf.masked_copy(asked.pop(0), list(config)) == config
            seen.append(config)

    monkeypatch.setattr(command_line, "import_module", lambda name: Module)
    return seen


AWKWARD = [
    "plain",
    "with space",
    "~/home",
    "~tilde",
    "é/ü/日本",
    "a,b",
    "photos (2)",
    "a=b",
    "[list]",
    "{braces}",
    "it's",
    'quo"te',
    "back\\slash\\",
    "#hash",
    "a: b",
    "100%",
    "null-ish",
    "0123",
    "1e3",
    "true.jpg",
    "-dash",
    "$HOME",
    "a\tb",
    "*?!@&;|",
]


@pytest.mark.parametrize("text", AWKWARD)
def test_a_path_arrives_as_it_was_written(text, here, spy):
    assert main(["prepare", f"data.root={text}", f"out=/x/{text}", "resolution=64"]) == 0
    (config,) = spy
    expected = str(Path(text).expanduser()) if text.startswith("~/") else text
    assert config.data.root == expected
    assert config.out == f"/x/{text}"
    assert list(here.iterdir()) == []


def test_a_list_of_paths_arrives_as_it_was_written(here):
    config = check("assemble", ["stages=[~/a b, é (1)/c=d, 'x,y', \"it's\"]", "out=0123"]).config
    assert list(config.stages) == [str(Path("~/a b").expanduser()), "é (1)/c=d", "x,y", "it's"]
    assert config.out == "0123"


def test_numbers_lists_and_nulls_arrive_typed(spy, here):
    settings = {
        "seed": ("7", 7),
        "trainer.gradient_clip": ("2", 2.0),
        "trainer.optimizer.lr": ("1e-4", 1e-4),
        "trainer.optimizer.betas": ("[0.5, 1]", [0.5, 1.0]),
        "network.attention": ("[true,false,true]", [True, False, True]),
        "stage.crop": ("32", 32),
        "trainer.max_minutes": ("null", None),
        "fresh": ("True", True),
        "name": ("123", "123"),
        "runs": ("x/${name}", "x/123"),
    }
    assert main(["train", *(f"{key}={text}" for key, (text, _) in settings.items())]) == 0
    (config,) = spy
    for key, (_, value) in settings.items():
        found = config
        for part in key.split("."):
            found = found[part]
        assert found == value, key
        assert type(found) is type(value) or isinstance(value, list), key
    assert "hydra" not in config
    assert list(here.iterdir()) == []


def test_groups_change_the_defaults_and_null_takes_one_away(spy, here):
    assert main(["train", "stage=sr256", "debug=fast", "experiment=null", "data=folder", "data.root=x"]) == 0
    (config,) = spy
    assert (config.stage.resolution, config.name, config.data.name) == (256, "debug", "folder")


def test_null_is_right_where_nothing_is_chosen(spy, here):
    assert main(["train", "stage=classifier64", "network=null", "guidance=null"]) == 0
    assert main(["train", "stage=base64", "classifier=null"]) == 0
    assert ["network" in config for config in spy] == [False, True]


def test_a_sweep_runs_every_combination_and_leaves_nothing(spy, here):
    assert main(["train", "-m", "stage=base64,sr256", "seed=1,2", "name='a,b'"]) == 0
    assert [(c.stage.name, c.seed, c.name) for c in spy] == [
        ("base64", 1, "a,b"),
        ("base64", 2, "a,b"),
        ("sr256", 1, "a,b"),
        ("sr256", 2, "a,b"),
    ]
    assert list(here.iterdir()) == []


def test_flags_may_follow_settings_and_sweeps_may_be_written_as_functions(spy, here):
    assert main(["train", "stage=glob(sr*)", "seed=range(0,2)", "--multirun"]) == 0
    assert [(c.stage.name, c.seed) for c in spy] == [("sr1024", 0), ("sr1024", 1), ("sr256", 0), ("sr256", 1)]


def test_a_sweep_under_torchrun_is_refused(here, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "-m", "stage=base64,sr256"]) == 2
    assert "torchrun --no-python" in capsys.readouterr().err


class Failing:
    error: BaseException = CascadeError("the pictures\nare too small")

    @staticmethod
    def check_sweep(jobs):
        """Nothing is wrong yet."""

    @classmethod
    def run(cls, config):
        raise cls.error


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (CascadeError("the pictures\nare too small"), 2, "cascade: the pictures are too small\n"),
        (KeyboardInterrupt(), 130, "cascade: interrupted\n"),
        (PermissionError(13, "Permission denied", "/root/x"), 2, "cascade: /root/x: Permission denied\n"),
        (SystemExit(143), 143, ""),
    ],
)
@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["single", "sweep"])
def test_what_a_command_raises_becomes_a_line_and_an_exit_code(error, status, line, flags, here, monkeypatch, capsys):
    monkeypatch.setattr(Failing, "error", error)
    monkeypatch.setattr(command_line, "import_module", lambda name: Failing)
    assert main(["train", *flags, "seed=1"]) == status
    assert capsys.readouterr().err == line
    assert list(here.iterdir()) == []


def test_an_error_of_the_program_keeps_its_traceback(here, monkeypatch):
    monkeypatch.setattr(Failing, "error", ZeroDivisionError("a bug"))
    monkeypatch.setattr(command_line, "import_module", lambda name: Failing)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main(["train", "seed=1"])


def test_the_table_of_kinds_names_keys_that_exist():
    """A key that is renamed in conf/ takes its row along."""
    known = set()
    for command in COMMANDS:
        for key in flattened(composed(command, mandatory_picks(command))):
            known |= {key, f"{command} {key}"}
        for group in groups_of(command):
            for choice in groups_on_disk()[group]:
                text = (CONF / group / f"{choice}.yaml").read_text("utf-8")
                keys = yaml.safe_load(text)
                known |= {f"{command} {key}" for key in keys if "@package _global_" in text}
                known |= {f"{group}.{key}" for key in [*keys, *flattened(OmegaConf.create(keys))]}
    assert set(KINDS) <= known


def test_the_arguments_and_the_environment_are_left_as_they_were(spy, here):
    argv, environment = list(sys.argv), dict(os.environ)
    main(["train", "seed=1"])
    assert (sys.argv, dict(os.environ)) == (argv, environment)


def test_a_command_is_one_row(monkeypatch, capsys, here):
    monkeypatch.setitem(COMMANDS, "weigh", Command("cascade.commands.weigh", "measure"))
    assert main(["weigh", "x=1"]) == 2
    assert "configuration of 'weigh' is missing" in capsys.readouterr().err


@pytest.mark.parametrize(("rank", "printed"), [(None, True), ("0", True), ("1", False)])
def test_one_process_of_torchrun_says_how_the_run_ended(here, monkeypatch, capsys, rank, printed):
    from stages.run import Outcome

    monkeypatch.setattr("stages.run.train", lambda config, tell, defaults: Outcome(Path("runs/x"), 5, 5))
    monkeypatch.setattr("stages.meeting.Meeting.agree", lambda meeting: None)
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
    devices = "1" if rank is None else "2"
    assert main(["train", f"trainer.devices={devices}"]) == 0
    assert capsys.readouterr().out == (
        "the run was already finished at step 5; its stage is runs/x/stage\n" if printed else ""
    )


def test_no_group_is_named_like_a_key_of_a_command_without_it():
    """Hydra would take `low_res=FOLDER` of one command for a choice of the group that another one has."""
    for command in COMMANDS:
        leaves = flattened(composed(command, mandatory_picks(command)))
        # A key with a name (stage.name, which stage=... gives) is told apart from the group by that name.
        keys = {key.split(".")[0] for key in leaves if f"{key.split('.')[0]}.name" not in leaves}
        own = {group.split("/")[0] for group in groups_of(command)}
        assert not (keys - own) & {group.split("/")[0] for group in groups_on_disk()}, command


def test_somebody_who_reads_a_few_lines_only_is_no_error():
    command = f"{sys.executable} -m cascade train --help | head -1"
    shell = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert shell.stdout.startswith("usage: cascade train")
    assert shell.stderr == ""


def test_a_key_near_none_is_told_its_neighbours(capsys):
    assert main(["train", "grid.m=3"]) == 2
    assert "grid holds grid.name, grid.n, grid.rho" in capsys.readouterr().err
