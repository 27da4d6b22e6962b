"""Wrong command lines: one line with the nearest name, exit code 2, no traceback, nothing written, and fast."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from cascade.commands import command_line, train
from cascade.commands.command_line import COMMANDS, Command, main
from cascade.commands.configuration import CONF, composed, flattened, groups_of, groups_on_disk, mandatory_picks
from cascade.commands.overrides import KINDS, check
from cascade.errors import CascadeError

WRONG = [
    # commands and flags
    ([], "no command"),
    (["tain"], "did you mean 'train'?"),
    (["Train"], "did you mean 'train'?"),
    (["zzz"], "choose from assemble, evaluate, explain, import, prepare, sample, train"),
    (["train", "--multrun"], "did you mean '--multirun'?"),
    (["train", "seed=1", "--seed=3"], "seed=..."),
    (["train", "--cfg", "job"], "unknown option '--cfg'"),
    (["sample", "-m", "seeds=1"], "works with train only"),
    (["sample", "cascade={cascade}", "out=o", "--multirun"], "works with train only"),
    # the form of a setting
    (["train", "base64"], "did you mean 'stage=base64'?"),
    (["train", "sed"], "did you mean 'seed=...'?"),
    (["train", "name="], "'name=' has no value"),
    (["train", "seed=1", "seed=2"], "'seed' is given twice"),
    (["train", "stage=base64", "stage=sr256"], "'stage' is given twice"),
    (["train", "+seed=1"], "adds a key"),
    (["train", "++new.key=1"], "adds a key"),
    (["train", "~seed"], "removes a key"),
    # keys
    (["train", "sede=1"], "did you mean 'seed'?"),
    (["train", "trainer.max_step=1"], "did you mean 'trainer.max_steps'?"),
    (["train", "lr=1"], "did you mean 'trainer.optimizer.lr'?"),
    (["train", "trainer.optimiser.lr=1"], "did you mean 'trainer.optimizer.lr'?"),
    (["train", "data.root=/photos"], "belongs to data=cache and data=folder"),
    (["train", "data.rot=/photos"], "did you mean 'data.root'"),
    (["train", "trainer.optimizer=adam"], "'trainer.optimizer' holds several keys"),
    (["train", "xyzzy=1"], "'cascade train --help' lists the keys"),
    (["train", "hydra.nonsense=1"], "hydra.nonsense"),
    (["train", "hydra/launcher=nowhere"], "hydra/launcher"),
    # groups and choices
    (["train", "stage=base46"], "did you mean 'base64'?"),
    (["train", "stge=base64"], "did you mean 'stage'?"),
    (["train", "stage=null"], "a stage is needed; choose from base64"),
    (["train", "debug=fats"], "did you mean 'fast'?"),
    (["train", "network=resnet"], "choose from"),
    (["sample", "network=tiny", "cascade={cascade}", "out=o"], "'sample' has no group 'network'"),
    # types
    (["train", "trainer.max_steps=abc"], "must be a whole number"),
    (["train", "trainer.max_steps=1.5"], "must be a whole number"),
    (["train", "trainer.optimizer.lr=fast"], "must be a number"),
    (["train", "trainer.optimizer.betas=[0.9,x]"], "must be a list of numbers"),
    (["train", "trainer.optimizer.betas=0.9"], "must be a list of numbers"),
    (["train", "fresh=yes"], "must be true or false"),
    (["train", "seed=null"], "must be a whole number"),
    (["train", "stage.crop=big"], "must be a whole number or null"),
    (["train", "name=${nowhere}"], "'nowhere' not found"),
    # numbers out of range
    (["train", "trainer.batch=0"], "trainer.batch must be at least 1, not 0"),
    (["train", "trainer.max_steps=-1"], "trainer.max_steps must be at least 1, not -1"),
    (["train", "trainer.accumulate=0"], "trainer.accumulate must be at least 1, not 0"),
    (["train", "trainer.batch=7", "trainer.accumulate=2"], "choose a multiple of 2"),
    (["train", "trainer.optimizer.lr=-1"], "trainer.optimizer.lr must be above 0, not -1.0"),
    (["train", "trainer.optimizer.betas=[0.9,1.0]"], "must be two numbers, at least 0 and below 1"),
    (["train", "trainer.gradient_clip=-1"], "trainer.gradient_clip cannot be negative"),
    (["train", "trainer.precision=fp16"], "unknown trainer.precision 'fp16'; did you mean 'bf16'?"),
    (["train", "trainer.accelerator=gpuu"], "did you mean 'gpu'?"),
    (["train", "trainer.devices=2"], "1 process(es) run"),
    (["train", "logger.mode=ofline"], "unknown logger.mode 'ofline'; did you mean 'offline'?"),
    (["train", "ema.decay=1.5"], "ema.decay=1.5 must be"),
    (["train", "stage.label_dropout=2"], "must lie in [0, 1]"),
    (["train", "stage.aug_log_snr=3"], "is of the low-res picture, and a base has none"),
    (["train", "augmentation=gaussian"], "is of the low-res picture; a base has none"),
    (["train", "stage=sr256", "stage.aug_log_snr=99"], "augmentation level 99 was not trained"),
    (["train", "stage=sr256", "stage.crop=130"], "must be a multiple of the factor 4"),
    (["train", "stage.crop=65"], "is larger than the pictures of 64 px"),
    (["train", "seed=-1"], "seed -1 is not a whole number from 0"),
    (["train", "name=../x"], "must be a plain folder name"),
    (["train", "runs={file}"], "file is a file"),
    (["train", "data.size=-3"], "data.size=-3 must be at least 1"),
    (["train", "data=folder", "data.root=/nowhere"], "the folder /nowhere does not exist"),
    (["train", "data=folder", "data.root={file}"], "is a file"),
    (["train", "data=folder", "data.root={empty}"], "holds no picture"),
    (["train", "data=folder", "data.root={empty}", "data.val_fraction=2"], "val_fraction=2.0 must be"),
    (["train", "data=cache", "data.root={empty}"], "is not a cache"),
    (["prepare", "data.root={empty}", "resolution=-64", "out=o"], "resolution=-64 must be at least 1"),
    (["prepare", "data.root=nowhere", "resolution=64", "out=o"], "the folder nowhere does not exist"),
    (["prepare", "data.root={empty}", "resolution=64", "out=o", "splits=[train,tset]"], "unknown split 'tset'"),
    (["prepare", "data.root={empty}", "resolution=64", "out={cascade}"], "exists already"),
    (["assemble", "stages=[{cascade}/tiny8,{cascade}/sr32]", "out=o"], "does not fit behind 'tiny8'"),
    (["assemble", "stages=[{cascade}/tiny8]", "out={foreign}"], "holds no cascade"),
    (["evaluate"], "either cascade=FOLDER or images=FOLDER"),
    (["evaluate", "images=nowhere"], "images=nowhere does not exist"),
    (["evaluate", "images={empty}"], "holds no picture"),
    (["evaluate", "cascade={cascade}", "stages=9"], "from 1 to 3"),
    (["evaluate", "cascade={cascade}", "sr16.stps=3"], "did you mean 'sr16.steps'?"),
    (["evaluate", "cascade={cascade}", "data.split=tets"], "unknown split 'tets'"),
    (["evaluate", "cascade={cascade}", "device=gpu"], "device 'gpu' is not available: write cuda:0"),
    # sweeps
    (["train", "stage=base64,sr256"], '-m "stage=base64,sr256"'),
    (["train", "seed=1,2"], "needs -m"),
    (["train", "-m", "stage=base64,sr26"], "did you mean 'sr256'?"),
    (["train", "-m", "stage=glob(x*)"], "matches nothing; choose from base64"),
    (["train", "-m", "stage=base64,sr256", "weighting.sigma_data=1"], "with stage=sr256"),
    (["train", "-m", "stage=base64", "trainer.devices=2"], "torchrun --no-python --nproc-per-node=2 cascade train"),
    # what must be given
    (["train", "data=folder"], "'train' needs data.root=..."),
    (["sample"], "'sample' needs cascade=... and out=..."),
    (["assemble", "stages=[a]"], "'assemble' needs out=..."),
    # what is not there
    (["sample", "cascade=nowhere", "out=o"], "there is no cascade at 'nowhere'"),
    (["sample", "cascade=nowhere", "out=o", "sr16.steps=3"], "there is no cascade at 'nowhere'"),
    (["sample", "cascade={cascade}", "out=o", "low_res=nowhere"], "low_res=nowhere is no folder"),
    (["sample", "cascade={cascade}", "out=o", "low_res={empty}"], "holds no pictures"),
    (["sample", "cascade={cascade}", "out={file}"], "is a file"),
    (["sample", "cascade={cascade}", "out=o", "device=tpu"], "device 'tpu'"),
    (["sample", "cascade={cascade}", "out=o", "precision=fp23"], "did you mean 'fp32'?"),
    (["assemble", "stages=[nowhere]", "out=o"], "there is no stage at 'nowhere'"),
    (["assemble", "stages={cascade}/tiny8,b", "out=o"], "stages=[a,b,c]"),
    # classes, seeds, stages
    (["sample", "cascade={cascade}", "out=o", "classes=[dres]"], "did you mean 'dress'?"),
    (["sample", "cascade={cascade}", "out=o", "classes=dress,hat"], "[a,b]"),
    (["sample", "cascade={cascade}", "out=o", "classes=[]"], "names no class"),
    (["sample", "cascade={cascade}", "out=o", "classes=7"], "classes 0 to 2"),
    (["sample", "cascade={cascade}", "out=o", "seeds=-1"], "'-1' is neither"),
    (["sample", "cascade={cascade}", "out=o", "seeds=5-3"], "runs backwards"),
    (["sample", "cascade={cascade}", "out=o", "seeds=[1,x]"], "'x' is neither"),
    (["sample", "cascade={cascade}", "out=o", "seeds=1.5"], "'1.5' is neither"),
    (["sample", "cascade={cascade}", "out=o", "seeds=0-99999999999"], "are more than"),
    (["sample", "cascade={cascade}", "out=o", "seeds=9223372036854775808"], "2^63"),
    (["sample", "cascade={cascade}", "out=o", "stages=4"], "from 1 to 3"),
    (["sample", "cascade={cascade}", "out=o", "guidance_scale=high"], "must be a number or null"),
    (["sample", "cascade={cascade}", "out=o", "sr16.stepps=3"], "did you mean 'sr16.steps'?"),
    (["sample", "cascade={cascade}", "out=o", "sr61.steps=3"], "did you mean 'sr16.steps'?"),
    (["sample", "cascade={cascade}", "out=o", "sr16.steps=many"], "must be a whole number"),
    (["sample", "cascade={cascade}", "out=o", "sr16.steps=0"], "at least 1"),
    (["sample", "cascade={cascade}", "out=o", "sr16.aug_log_snr=9"], "'sr16': augmentation level 9"),
    (["sample", "cascade={cascade}", "out=o", "sr16.sampler=huen"], "did you mean 'heun'?"),
    (["sample", "cascade={cascade}", "out=o", "threads=0"], "at least 1"),
    (["sample", "cascade={cascade}", "out=o", "tiny8.aug_log_snr=3"], "is a base stage and has no aug_log_snr"),
    (["sample", "cascade={cascade}", "out=o", "stages=1", "sr16.steps=3"], "stage 'sr16' does not run here"),
    (["sample", "cascade={cascade}", "out=o", "guidance_scale=2", "tiny8.guidance_scale=3"], "give one of them"),
    (["sample", "cascade={cascade}", "out={foreign}"], "so it is not of cascade sample"),
]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def places(small_cascade, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("places")
    (root / "empty").mkdir()
    (root / "file").write_text("not a folder")
    (root / "foreign").mkdir()
    (root / "foreign" / "letter.txt").write_text("mine")
    return {"cascade": small_cascade, **{name: root / name for name in ("empty", "file", "foreign")}}


def content(*folders: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for folder in folders for path in [folder, *folder.rglob("*")]}


@pytest.mark.parametrize(
    ("argv", "message"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_one_line_names_the_mistake(argv, message, here, places, capsys):
    argv = [word.format(**places) if "${" not in word else word for word in argv]
    roots = (here, places["cascade"], places["empty"].parent)
    before = content(*roots)
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert re.fullmatch(r"cascade: [^\n]{10,400}\n", err), err
    assert out == ""
    assert content(*roots) == before


def run(*argv: str, cwd: Path) -> tuple[subprocess.CompletedProcess, float]:
    """Run a real process; also its processor time, which a busy machine does not stretch."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "cascade", *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=cwd)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    "argv", [["tain"], ["train", "trainer.max_steps=abc"], ["sample", "cascade=nowhere", "out=o", "x.steps=1"]]
)
def test_a_real_process_says_one_line_and_exits_with_2(argv, here):
    # From a folder whose own conf, stages and hydra must not be picked up.
    for name in ("conf", "stages"):
        (here / name).mkdir()
        (here / name / "__init__.py").write_text("raise SystemExit('a stranger was imported')")
    before = content(here)
    done, seconds = run(*argv, cwd=here)
    assert seconds < 2
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"cascade: [^\n]+\n", done.stderr)
    assert content(here) == before


def test_help_and_mistakes_do_not_import_torch(here):
    """Two seconds are enough for them because of this."""
    code = (
        "import sys; from cascade.__main__ import main; sys.argv[1:] = {argv!r}; code = main();"
        "heavy = {{'torch', 'lightning', 'numpy', 'PIL', 'rich', 'wandb', 'torchmetrics'}} & set(sys.modules);"
        "sys.exit(f'imported {{sorted(heavy)}}' if heavy else 10 + code)"
    )
    expected = {("train", "--help"): 10, ("train", "trainer.max_steps=abc"): 12, ("--version",): 10}
    for argv, status in expected.items():
        command = [sys.executable, "-c", code.format(argv=list(argv))]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=here)
        assert done.returncode == status, (argv, done.stderr)


def test_no_mistake_above_is_told_by_torch(here, places):
    """Every one in the table comes before torch is imported, and so in the time that Python and Hydra take."""
    argvs = [[word.format(**places) if "${" not in word else word for word in argv] for argv, _ in WRONG]
    code = (
        "import json, sys; from cascade.commands.command_line import main\n"
        "for argv in json.load(sys.stdin):\n"
        "    main(argv)\n"
        "    if 'torch' in sys.modules:\n"
        "        sys.exit(f'torch was imported by {argv}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(argvs), capture_output=True, text=True, check=False, cwd=here
    )
    assert done.returncode == 0, done.stderr[-400:]


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
        assert f"  cascade {name} " in text or name == "prepare"  # an example
    assert main(["train", "stage=sr256", "--help"]) == 0
    text = capsys.readouterr().out
    for expected in ("seed=0", "* base64", "sr256", "trainer.batch=32", "-m, --multirun", "fast"):
        assert expected in text
    assert main(["sample", "--help"]) == 0
    text = capsys.readouterr().out
    assert "cascade=???" in text
    assert "STAGE.aug_log_snr" in text
    assert "per_stage" not in text


def test_version(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"cascade \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.fixture
def spy(monkeypatch):
    """`cascade prepare` and `cascade train` with a run() that notes its configuration."""
    seen = []

    class Module:
        @staticmethod
        def run(config):
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
                keys = yaml.safe_load((CONF / group / f"{choice}.yaml").read_text("utf-8"))
                known |= {f"{group}.{key}" for key in [*keys, *flattened(OmegaConf.create(keys))]}
    assert set(KINDS) <= known


def test_the_arguments_and_the_environment_are_left_as_they_were(spy, here):
    argv, environment = list(sys.argv), dict(os.environ)
    main(["train", "seed=1"])
    assert (sys.argv, dict(os.environ)) == (argv, environment)


def test_a_command_is_one_row(monkeypatch, capsys, here):
    monkeypatch.setitem(COMMANDS, "bench", Command("cascade.commands.bench", "measure"))
    assert main(["bench", "x=1"]) == 2
    assert "configuration of 'bench' is missing" in capsys.readouterr().err


@pytest.mark.parametrize(("rank", "printed"), [(None, True), ("0", True), ("1", False)])
def test_one_process_of_torchrun_says_how_the_run_ended(monkeypatch, capsys, rank, printed):
    from stages.run import Outcome

    monkeypatch.setattr("stages.run.train", lambda config, tell: Outcome(Path("runs/x"), 5, 5))
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
    devices = "1" if rank is None else "2"
    config = OmegaConf.create({**check("train", [f"trainer.devices={devices}"]).config, "hydra": None})
    train.run(config)
    assert capsys.readouterr().out == (
        "the run was already finished at step 5; its stage is runs/x/stage\n" if printed else ""
    )


def test_no_group_is_named_like_a_key_of_a_command_without_it():
    """Hydra would take `low_res=FOLDER` of one command for a choice of the group that another one has."""
    for command in COMMANDS:
        keys = {key.split(".")[0] for key in flattened(composed(command, mandatory_picks(command)))}
        own = {group.split("/")[0] for group in groups_of(command)}
        assert not (keys - own) & {group.split("/")[0] for group in groups_on_disk()}, command
