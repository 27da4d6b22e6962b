"""The command line: one table of commands, one check before Hydra, one line on stderr for whatever is wrong.

`cascade COMMAND [key=value ...]` composes `conf/COMMAND.yaml` and calls `run(config)` of the command's module. A sweep
(`-m`) goes through the same `hydra.main`, so that Hydra's launchers work. Hydra itself writes nothing.
"""

import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module

from cascade import __version__
from cascade.errors import CascadeError, suggest


@dataclass(frozen=True)
class Command:
    """A row of the table: the module with `run(config)`, what it does in a few words, and whether `-m` sweeps it.

    `per_stage`: STAGE.key=value is accepted, with the stages and keys that the module's `extra_keys(config)` names.
    One that sweeps also has `check_sweep([(what tells the job from the others, config), ...])` for all jobs together.
    `drives`: it sweeps by itself, by `drive(checked, launch)`; `run(config)` makes one of its jobs, a `point`.
    `first_word`: the key that a word without "=" right behind the command sets.
    """

    module: str
    summary: str
    sweeps: bool = False
    per_stage: bool = False
    drives: bool = False
    first_word: str | None = None


COMMANDS = {
    "train": Command("cascade.commands.train", "train one stage, or several in turn with -m", sweeps=True),
    "sample": Command("cascade.commands.sample", "make pictures of chosen classes and seeds", per_stage=True),
    "evaluate": Command(
        "cascade.commands.evaluate", "measure a cascade or a folder of pictures: FID and KID", per_stage=True
    ),
    "steps": Command(
        "cascade.commands.steps", "draw a stage's quality against steps and seconds, by sampler", per_stage=True
    ),
    "tune": Command(
        "cascade.commands.tune", "find a stage's best settings by sweeps, and record them", per_stage=True, drives=True
    ),
    "probe": Command(
        "cascade.commands.probe", "find how much noise hides what is wrong with a stage's input", per_stage=True
    ),
    "assemble": Command("cascade.commands.assemble", "put trained stages together to a cascade", per_stage=True),
    "explain": Command("cascade.commands.explain", "draw what a config trains and how its sampler does"),
    "plan": Command("cascade.commands.plan", "say what a training and its sampling cost before they run"),
    "bench": Command("cascade.commands.bench", "time a network against diffusers' and this machine's ceiling"),
    "candidates": Command("cascade.commands.candidates", "train several networks of a stage, judge all by one loss"),
    "card": Command("cascade.commands.card", "write the model card of a cascade, all of it measured", per_stage=True),
    "report": Command("cascade.commands.report", "show a folder of samples as one page, stage by stage"),
    "import": Command(
        "cascade.commands.import_checkpoint", "make a stage of a published checkpoint", first_word="format"
    ),
    "reconstruct-ema": Command(
        "cascade.commands.reconstruct_ema", "make a stage of another average of a run's weights, from its snapshots"
    ),
    "prepare": Command("cascade.commands.prepare", "decode the pictures of a stage once, into a cache"),
}
_FLAGS = {"-h": "help", "--help": "help", "-m": "multirun", "--multirun": "multirun", "--version": "version"}
_WRONG = 2
_INTERRUPTED = 130
_HUNG_UP = 141
_MACHINE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.ENAMETOOLONG}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name) and return its exit code.

    0: done; 2: something the user gave is wrong, said in one line on stderr; 130: interrupted.
    """
    try:
        with _machine_errors():
            code = _run(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()  # here, where somebody hung up can still be met
            return code
    except CascadeError as error:
        _say(str(error))
        return _WRONG
    except KeyboardInterrupt:
        _say("interrupted")
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our lines has had enough of them (| head); Python would complain once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _HUNG_UP


@contextmanager
def _machine_errors() -> Iterator[None]:
    """A full disk or memory or a folder that may not be written is the user's to mend, and no fault of the program."""
    try:
        yield
    except OSError as error:
        if error.errno not in _MACHINE:
            raise
        raise CascadeError(f"{error.filename or 'a file'}: {error.strerror}") from error
    except (MemoryError, RuntimeError) as error:
        # torch, which need not be imported here, has an error of its own for a GPU, and a RuntimeError for a processor.
        ours = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        if not ours and "can't allocate memory" not in str(error):
            raise
        less = "a smaller STAGE.network_batch, a STAGE.tile or a smaller batch"
        raise CascadeError(f"there is not enough memory for this; {less} needs less") from error


def _say(message: str) -> None:
    print("cascade:", " ".join(message.split()), file=sys.stderr, flush=True)


def _run(argv: list[str]) -> int:
    flags, words = _split_flags(argv)
    if "version" in flags:
        print(f"cascade {__version__}")
        return 0
    if not words:
        if "help" not in flags:
            raise CascadeError(f"no command; choose from {', '.join(COMMANDS)} ('cascade --help' explains them)")
        from cascade.commands.command_help import explain_all

        print(explain_all({name: command.summary for name, command in COMMANDS.items()}))
        return 0
    name, *settings = words
    if name not in COMMANDS:
        raise CascadeError(f"unknown command '{name}'; {suggest(name, COMMANDS)}")
    command = COMMANDS[name]
    if "help" in flags:
        from cascade.commands.command_help import explain_command

        print(explain_command(name, command.summary, sweeps=command.sweeps, per_stage=command.per_stage))
        return 0
    sweep = "multirun" in flags
    if sweep and not command.sweeps:
        able = ", ".join(other for other, row in COMMANDS.items() if row.sweeps)
        raise CascadeError(f"-m (--multirun) works with {able} only, not with {name}")
    if command.first_word and settings and "=" not in settings[0]:
        settings[0] = f"{command.first_word}={settings[0]}"
    from cascade.commands.overrides import check

    # Imported for its keys alone, hence light: a command imports torch inside its functions.
    extra_keys = import_module(command.module).extra_keys if command.per_stage else None
    checked = check(name, settings, sweep=sweep, extra_keys=extra_keys)
    if sweep and not any(override.startswith("hydra/launcher=") for override in checked.overrides):
        # Where a launcher runs the jobs elsewhere, each is checked there.
        import_module(command.module).check_sweep(list(checked.jobs(name)))
    if command.drives and checked.config.point is None:
        launch = lambda more: _through_hydra(name, command.module, [*checked.overrides, *more], sweep=True)  # noqa: E731
        import_module(command.module).drive(checked, launch)
        return 0
    return _through_hydra(name, command.module, checked.overrides, sweep)


def _split_flags(argv: Sequence[str]) -> tuple[set[str], list[str]]:
    """Flags may stand anywhere; the first other word is the command."""
    flags, words = set(), []
    for word in argv:
        if word in _FLAGS:
            flags.add(_FLAGS[word])
        elif word.startswith("-"):
            raise CascadeError(f"unknown option '{word}'; {_option_hint(word)}")
        else:
            words.append(word)
    return flags, words


def _option_hint(word: str) -> str:
    stem = word.lstrip("-").split("=")[0]
    hint = suggest(word, [flag for flag in _FLAGS if flag.startswith("--")])
    if hint.startswith("did you mean"):
        return hint
    return f"settings are written without dashes: {stem}=..." if stem else "the options are -m, --help and --version"


def _through_hydra(name: str, module: str, overrides: list[str], sweep: bool) -> int:
    import hydra

    from cascade.commands.configuration import CONF, hydra_errors
    from cascade.commands.values import quoted

    entry = hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(_task(module))
    with _scratch_sweep_dir(overrides, sweep) as scratch:
        own = [f"hydra.sweep.dir={quoted(scratch)}", "hydra.sweep.subdir=."] if scratch else []
        argv = ["cascade", *(["--multirun"] if sweep else []), *overrides, *own]
        with _process_of(argv), hydra_errors():
            try:
                entry()
            except SystemExit as stop:
                return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


@contextmanager
def _process_of(argv: list[str]) -> Iterator[None]:
    """hydra.main reads the process's arguments; HYDRA_FULL_ERROR lets errors through to us instead of printing them."""
    key = "HYDRA_FULL_ERROR"
    argv_before, value_before = sys.argv, os.environ.get(key)
    sys.argv, os.environ[key] = argv, "1"
    try:
        yield
    finally:
        sys.argv = argv_before
        if value_before is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value_before


def _task(module: str) -> Callable[[object], None]:
    def task(config: object) -> None:
        # Hydra prints about a job's exceptions in its own way, and a launcher may run the job elsewhere: so the line is
        # said here, and SystemExit, which Hydra leaves alone, carries the code.
        try:
            with _machine_errors():
                import_module(module).run(config)
        except CascadeError as error:
            _say(str(error))
            raise SystemExit(_WRONG) from None

    return task


@contextmanager
def _scratch_sweep_dir(overrides: Sequence[str], sweep: bool) -> Iterator[str | None]:
    """A folder for Hydra's multirun.yaml that goes away again, unless a launcher needs a lasting one for its logs."""
    lasting = any(override.startswith(("hydra/launcher=", "hydra.sweep.")) for override in overrides)
    if not sweep or lasting:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="cascade-sweep-") as scratch:
        yield scratch
