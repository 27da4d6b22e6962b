"""Wrong command lines: one line with the nearest name, exit code 2, no traceback, nothing written, and fast."""

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from cascade.accelerators import is_missing
from cascade.commands.command_line import COMMANDS

WRONG = [
    # commands and flags
    ([], "no command"),
    (["tain"], "did you mean 'train'?"),
    (["Train"], "did you mean 'train'?"),
    (["zzz"], f"choose from {', '.join(sorted(COMMANDS))}"),
    (["train", "--multrun"], "did you mean '--multirun'?"),
    (["train", "seed=1", "--seed=3"], "seed=..."),
    (["train", "--cfg", "job"], "unknown option '--cfg'"),
    (["sample", "-m", "seeds=1"], "works with train only"),
    (["sample", "cascade={cascade}", "out=o", "--multirun"], "works with train only"),
    # students, and averages of a run
    (["train", "stage=distill"], "needs teacher=..."),
    (["train", "stage=distill", "teacher=nowhere"], "there is no stage at 'nowhere'"),
    (["train", "stage=distill", "teacher={cascade}/sr16", "stage.steps=5"], "32 steps cannot be halved to 5"),
    (["train", "-m", "stage=distill", "teacher=nowhere,{cascade}/sr16"], "no stage at 'nowhere'"),
    (["reconstruct-ema", "run=nowhere", "sigma_rel=0.1", "out=o"], "there is no run at 'nowhere'"),
    (["reconstruct-ema", "run={cascade}", "sigma_rel=0.1", "out=o"], "has no snapshots"),
    (["reconstruct-ema", "sigma_rell=0.1"], "did you mean 'sigma_rel'?"),
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
    (["train", "data.root=/photos"], "it belongs to data=cache and "),
    (["train", "data.rot=/photos"], "did you mean 'data.root'"),
    (["train", "trainer.optimizer=adam"], "'trainer.optimizer' holds several keys"),
    (["train", "xyzzy=1"], "'cascade train --help' lists the keys"),
    (["train", "hydra.nonsense=1"], "hydra.nonsense"),
    (["train", "hydra/launcher=nowhere"], "hydra/launcher"),
    # groups and choices
    (["train", "stage=base46"], "did you mean 'base64'?"),
    (["train", "stge=base64"], "did you mean 'stage'?"),
    (["train", "stage=null"], "a stage is needed here; choose from base64"),
    (["train", "stage=classifier64", "classifier=null"], "a classifier is needed here; choose from adm"),
    (["train", "stage=classifier64", "classifier=amd"], "did you mean 'adm'?"),
    (["train", "stage=classifier64", "network=tiny"], "which has no network; leave it out"),
    (["train", "stage=base64", "classifier=adm"], "trains a denoiser, not a classifier"),
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
    (["train", "trainer.workers=2000"], "trainer.workers=2000 must be at most 256"),
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
    (["train", "noise.p_std=0"], "noise.p_std=0.0 must be above 0 and finite"),
    (["train", "grid.n=0"], "grid.n=0 must be at least 1"),
    (["train", "grid.sigma_max=0.001"], "sigma_min=0.002 must be below it"),
    (["train", "network.channels=[64,0,192]"], "network.channels=[64, 0, 192] must be at least 1"),
    (["train", "noise=cosine", "noise.schedule.base.log_snr_min=99"], "must be below log_snr_max=20.0"),
    (["train", "-m", "stage=base64,sr256", "weighting.sigma_data=-1"], "above 0 and finite (with stage=base64"),
    (["explain", "guidance=interval", "guidance.lo=9"], "guidance.lo=9.0 must be below hi=2.55"),
    # words that a parameter cannot be
    (["train", "network.norm=grup"], "unknown network.norm 'grup'; did you mean 'group'?"),
    (["train", "network=adm", "network.qkv_order=x"], "choose from heads_first, qkv_first"),
    (["train", "stage=classifier64", "classifier.pool=atention"], "did you mean 'attention'?"),
    (["train", "noise=discrete_betas", "noise.schedule.base.kind=cosin"], "did you mean 'cosine'?"),
    (["train", "trainer.optimizer._target_=torch.optim.AdamWW"], "did you mean 'AdamW'?"),
    (["train", "trainer.optimizer._target_=Adamw"], "there is no 'Adamw'; did you mean 'Adam'?"),
    (["evaluate", "cascade={cascade}", "features.resize=bilinear"], "did you mean 'bilinear_tf1'?"),
    (["sample", "cascade={cascade}", "out=o", "sr16.sampler=ancestral", "sr16.sampler.variance=smal"], "'small'?"),
    (["plan", "network.dropout=1"], "must be at least 0 and below 1"),
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
    (["train", "data=folder", "data.root={empty}", "data.val_fraction=2"], "data.val_fraction=2.0 must be"),
    (["train", "data=folder", "data.root={photos}"], "png, 32×48); data.small=skip leaves them out"),
    (["train", "data=folder", "data.root={photos}", "data.small=skip"], "none of the"),
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
    (["evaluate", "cascade={cascade}", "device=gpu"], "device 'gpu' is not available: "),
    # plan, steps, explain, import
    (["plan", "card=rtx490"], "did you mean 'rtx4090'?"),
    (["plan", "utilisation=2"], "is a share of the peak"),
    (["plan", "trainer.precision=fp23"], "did you mean 'fp32'?"),
    (["plan", "stage=classifier64"], "'classifier64' makes none"),
    (["plan", "stage.crop=72"], "stage.crop=72 must be from 1 to the 64 px"),
    (["plan", "stage=sr256", "stage.aug_log_snr=99"], "augmentation level 99 was not trained"),
    (["plan", "data=folder", "data.root=nowhere"], "the folder nowhere does not exist"),
    (["plan", "json={file}/x.json"], "file is a file"),
    (["plan", "json={file}"], "was not made by cascade plan"),
    (["steps", "cascade={cascade}", "stage=sr61", "out=o"], "did you mean 'sr16'?"),
    (["steps", "cascade={cascade}", "stage=sr16", "out=o", "samplers=[ddin]"], "did you mean 'ddim'?"),
    (["steps", "cascade={cascade}", "stage=sr16", "out=o", "steps=4"], "must be a list of whole numbers"),
    (["steps", "cascade={cascade}", "stage=sr16", "out={file}/x"], "file/x cannot be made: Not a directory"),
    (["explain", "steps=[0]"], "lengths of grids"),
    (["explain", "picture=-1"], "picture=-1 must be at least 0"),
    (["import", "adn", "checkpoint={file}", "out=o"], "did you mean 'adm'?"),
    (["import", "adm", "checkpoint={file}", "preset=64x64_difusion", "out=o"], "did you mean '64x64_diffusion'?"),
    (["import", "adm", "checkpoint={file}", "preset=64x64_diffusion", "out=o", "name=../x"], "'../x' cannot be"),
    (["import", "adm", "checkpoint={file}", "preset=64x64_diffusion", "out=o", "class_names=no"], "cannot be read"),
    (["import", "adm", "checkpoint={file}", "preset=64x64_diffusion", "out=o", "verify=nowhere"], "is no folder"),
    # places that cannot be made, and runs of other settings
    (["train", "runs={file}/x"], "is a file"),
    (["train", "runs={runs}", "name=mine", "seed=7"], "was made with seed=3, not 7; continue it with that, or use"),
    (["train", "runs={runs}", "name=mine", "seed=3", "stage.flip=false"], "was made with stage.flip=True, not False"),
    (["train", "-m", "runs={runs}", "name=mine", "stage=sr256,base64"], "seed=3, not 0; continue it with that"),
    (["train", "init=nowhere"], "there is no stage at 'nowhere'"),
    (["train", "guidance=classifier", "guidance.classifier=nowhere"], "there is no stage at 'nowhere'"),
    (["train", "guidance=interval_autoguidance", "guidance.guided.weak=nowhere"], "there is no stage at 'nowhere'"),
    (["train", "sampler=classifier_ancestral", "sampler.classifier={empty}"], "it holds no config.yaml"),
    (["assemble", "stages=[{cascade}/tiny8]", "out=o", "sr16.steps=3"], "did you mean 'tiny8.steps'?"),
    (["sample", "cascade={cascade}", "out={file}/x"], "file/x cannot be made: Not a directory"),
    (["assemble", "stages=[{cascade}/tiny8]", "out={file}/x"], "file cannot be made: File exists"),
    (["evaluate", "cascade={cascade}", "out={file}/x"], "file/x cannot be made: Not a directory"),
    (["explain", "out={file}/x"], "file/x cannot be made: Not a directory"),
    (["candidates", "stage=base64", "out={file}/x"], "file/x cannot be made: Not a directory"),
    (["card", "cascade={cascade}", "out={file}/x"], "file/x cannot be made: Not a directory"),
    (
        ["import", "adm", "checkpoint={file}", "preset=64x64_diffusion", "out={file}/x"],
        "file cannot be made: File exists",
    ),
    # sweeps
    (["train", "stage=base64,sr256"], '-m "stage=base64,sr256"'),
    (["train", "seed=1,2"], "needs -m"),
    (["train", "-m", "stage=base64,sr26"], "did you mean 'sr256'?"),
    (["train", "-m", "stage=glob(x*)"], "matches nothing; choose from base64"),
    (["train", "-m", "stage=base64,sr256", "guidance.scale=1"], "with stage=sr256"),
    (["train", "-m", "stage=base64,sr256", "trainer.batch=7", "trainer.accumulate=2"], "(with stage=base64)"),
    (
        ["train", "-m", "stage=base64,sr256", "stage.crop=66"],
        "is larger than the pictures of 64 px (with stage=base64)",
    ),
    (["train", "-m", "stage=sr1024,base64", "data=folder", "data.root={photos}"], "smaller than 1024 px"),
    (["train", "-m", "seed=1,2", "name=x"], "the jobs with seed=1 and with seed=2 would both train the run in"),
    (["train", "-m", "stage=base64", "trainer.devices=2"], "torchrun --no-python --nproc-per-node=2 cascade train"),
    # what must be given
    (["train", "data=folder"], "'train' needs data.root=..."),
    (["sample"], "'sample' needs cascade=... and out=..."),
    (["assemble", "stages=[a]"], "'assemble' needs out=..."),
    (["sample", "cascade={cascade}", "out=o", "tiny8.network_batch=100000"], "at least 1 and at most 4096, not 100000"),
    (["assemble", "stages=[a", "out=o"], "stages=[a must be a list, from [ to ]"),
    (["assemble", "stages=[{cascade}/tiny9]", "out=o"], "no such folder; did you mean '/"),
    # what is not there
    (["sample", "cascade=nowhere", "out=o"], "there is no cascade at 'nowhere'"),
    (["sample", "cascade=~nobodys", "out=o"], "there is no cascade at '~nobodys'"),
    (["train", "data=folder", "data.root=~nobodys/é"], "the folder ~nobodys/é does not exist"),
    (["sample", "cascade=nowhere", "out=o", "sr16.steps=3"], "there is no cascade at 'nowhere'"),
    (
        ["sample", "cascade={cascade}", "out=o", "low_res=nowhere"],
        "low_res=nowhere is no folder; give a folder of pictures",
    ),
    (["sample", "cascade={cascade}", "out=o", "low_res={empty}"], "holds no pictures"),
    (["sample", "cascade={cascade}", "out={file}"], "is a file; choose a folder"),
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
    (["sample", "cascade={cascade}", "out=o", "seeds=5-3"], "runs backwards; write 3-5"),
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
    (["sample", "cascade={cascade}", "out=o", "sr16.grid.n=0"], "stage 'sr16': grid.n=0 must be at least 1"),
    (
        ["sample", "cascade={cascade}", "out=o", "sr16.sampler=ddim", "sr16.sampler.eta=-1"],
        "eta=-1.0 must be at least 0",
    ),
    (["sample", "cascade={cascade}", "out=o", "threads=0"], "at least 1"),
    (["sample", "cascade={cascade}", "out=o", "threads=99999999999"], "at most 1024"),
    (["sample", "cascade={cascade}", "out=o", "tiny8.aug_log_snr=3"], "is a base stage and has no aug_log_snr"),
    (["sample", "cascade={cascade}", "out=o", "stages=1", "sr16.steps=3"], "stage 'sr16' does not run here"),
    (["sample", "cascade={cascade}", "out=o", "guidance_scale=2", "tiny8.guidance_scale=3"], "give one of them"),
    (["sample", "cascade={cascade}", "out={foreign}"], "so it is not of cascade sample"),
    (["sample", "cascade={cascade}", "out={cascade}/new"], "lies in the cascade"),
]

if is_missing("cuda"):
    WRONG += [
        (["train", "trainer.accelerator=gpu"], "finds no GPU here; say trainer.accelerator=cpu"),
        (["train", "-m", "stage=base64,sr256", "trainer.accelerator=gpu"], "finds no GPU here"),
        (["sample", "cascade={cascade}", "out=o", "device=cuda"], "device 'cuda' is not available here"),
        (["evaluate", "cascade={cascade}", "device=cuda:1"], "device 'cuda:1' is not available here"),
    ]
if is_missing("mps"):
    WRONG += [(["train", "trainer.accelerator=mps"], "finds no GPU of Apple's here")]


def content(*folders: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for folder in folders for path in [folder, *folder.rglob("*")]}


ANSWER = """
import contextlib, io, json, os, sys, traceback
from cascade.commands.command_line import main
for line in sys.stdin:
    folder, argv = json.loads(line)
    os.chdir(folder)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(argv)
        except BaseException:
            status = traceback.format_exc()
    print(json.dumps([status, out.getvalue(), err.getvalue(), "torch" in sys.modules]), flush=True)
"""


@pytest.fixture(scope="module")
def answering():
    """answering(): a process without torch that answers command lines, one after the other; a new one where it died."""
    living: list[subprocess.Popen] = []

    def process() -> subprocess.Popen:
        if not living or living[-1].poll() is not None:
            command = [sys.executable, "-c", ANSWER]
            living.append(subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return living[-1]

    yield process
    for each in living:
        each.kill()
        each.communicate()


def answer(process: subprocess.Popen, folder: Path, argv: list[str]) -> list:
    """Exit code (or the traceback), what is printed, and whether torch was imported for it."""
    try:
        process.stdin.write(json.dumps([str(folder), argv]) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())
    except BaseException:
        process.kill()  # it is at work still: the line was right after all
        raise


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("argv", "message"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_one_line_names_the_mistake(argv, message, here, places, answering):
    """Before torch is imported, and so in the time that Python and Hydra take."""
    argv = [word.format(**places) if "${" not in word else word for word in argv]
    roots = (here, places["cascade"], places["empty"].parent)
    before = content(*roots)
    status, out, err, torch = answer(answering(), here, argv)
    assert status == 2, status
    assert message in err
    assert re.fullmatch(r"cascade: [^\n]{10,400}\n", err), err
    assert out == ""
    assert content(*roots) == before
    assert not torch


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
