"""Upscaling, memorisation and likelihoods are the same bits for one process, for three, and after a stop."""

import io
import json
import threading

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from rich.console import Console

from cascade.commands import team as teams
from cascade.commands.evaluate import asked, evaluated
from cascade.commands.team import Team
from cascade.data.procedural import ProceduralDataset
from cascade.processes import Processes
from cascade.progress import Bars
from tests.conftest import small_stage

METRICS = ("upscaling", "memorisation", "bits_per_dim", "log_likelihood")
PIECES = {"real": 3, "bicubic": 1, "upscaled": 1, "samples": 1, "bits_per_dim": 6, "log_likelihood": 6}
"""Chunks that are shared."""
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def settings(make_cascade, tmp_path_factory):
    classes = tuple(ProceduralDataset.class_names)
    stages = [small_stage("tiny8", 8, chunk=2, class_names=classes), small_stage("sr16", 16, 8, 2, class_names=())]
    cascade = make_cascade(tmp_path_factory.mktemp("shared") / "cascade", stages)
    words = [
        f"cascade={cascade}", f"metrics=[{','.join(METRICS)}]", "features=tiny", "num_images=6", "data.size=6",
        "data.val_size=6", "patches.side=8", "allow_few_images=true", "upscaling.num_images=6", "precision=fp32",
        "bits_per_dim.num_images=6", "log_likelihood.num_images=6", "log_likelihood.steps=3", "bound.points=1",
    ]  # fmt: skip
    with initialize_config_module("conf", version_base="1.3"):
        return asked(OmegaConf.to_container(compose("evaluate", overrides=words), resolve=True))


def made(settings, out, count):
    """Have so many processes share it, and return what is kept in the end."""
    failed = []

    def run(rank):
        try:
            evaluated(settings, out, Team(out, Processes(count, rank)), Bars(Console(file=io.StringIO())), "")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    assert not failed, failed
    assert not any(thread.is_alive() for thread in threads), "a hang"
    return (out / "evaluation.json").read_bytes()


def test_the_report_is_the_same_bits_however_many_share_it_and_after_a_stop(settings, tmp_path, monkeypatch):
    for name, seconds in (("_LOOK", 0.01), ("_BEAT", 0.0)):
        monkeypatch.setattr(teams, name, seconds)
    alone = made(settings, tmp_path / "one", 1)
    assert {part for part in json.loads(alone) if part in METRICS} == set(METRICS)
    files = sorted((tmp_path / "one").glob("measured/*/*.safetensors"))
    kinds = [file.parent.name.rpartition("-")[0] for file in files]
    assert {kind: kinds.count(kind) for kind in kinds} == PIECES
    assert made(settings, tmp_path / "three", 3) == alone
    for file in files[::2]:
        file.unlink()  # as if it had been stopped there
    before = {file: file.stat().st_mtime_ns for file in files[1::2]}
    assert made(settings, tmp_path / "one", 2) == alone
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert all(file.is_file() for file in files)
