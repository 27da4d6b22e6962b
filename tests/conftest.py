"""A cascade of three very small stages with random weights, 8 → 16 → 32 px, for whatever samples or assembles."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cascade.artifact import (
    CascadeConfig,
    StageConfig,
    StageSampling,
    build_denoiser,
    save_cascade_config,
    save_stage,
)
from cascade.rng import randn

collect_ignore = ["mutants"]  # a program of its own: make mutants

CLASSES = ("dress", "hat", "shoe")
GRID = {"name": "uniform_log_snr", "log_snr_min": -8.0, "log_snr_max": 8.0, "n": 3}


def small_stage(
    name: str, resolution: int, low_resolution: int | None = None, chunk: int = 3, **changes
) -> StageConfig:
    """A stage config with a network of some thousand parameters; the base has group norm and attention."""
    base = low_resolution is None
    sampling = StageSampling(
        sampler={"name": "ddim", "eta": 1.0},
        grid=GRID,
        guidance={"name": "classifier_free", "scale": 2.0} if base else {"name": "none"},
        threshold={"name": "dynamic", "percentile": 0.9} if base else {"name": "static"},
        aug_log_snr=None if base else 3.0,
        network_batch=chunk,
    )
    config = StageConfig(
        name=name,
        resolution=resolution,
        low_resolution=low_resolution,
        network={
            "name": "efficient",
            "patch": 2,
            "channels": [8, 16],
            "blocks": [1, 1],
            "attention": [False, base],
            "head_channels": 8,
            "norm": "group" if base else "pixel",
            "embedding_dim": 16,
        },
        preconditioning={"name": "edm" if base else "v"},
        sampling=sampling,
        class_names=CLASSES,
        augmentation={"name": "none"}
        if base
        else {"name": "gaussian", "log_snr_min": 0.0, "log_snr_max": 6.0, "default": 3.0},
        data_fingerprint="test",
    )
    return replace(config, **changes)


def save_small(folder: Path, config: StageConfig) -> Path:
    """Save a stage of that config with random weights that depend on its name alone."""
    state = build_denoiser(config).state_dict()
    weights = {
        key: 0.2 * randn("weights", config.name, key, shape=value.shape) if value.is_floating_point() else value
        for key, value in state.items()
    }
    save_stage(folder, config, weights)
    return folder


@pytest.fixture(scope="session")
def small_configs() -> list[StageConfig]:
    return [
        small_stage("tiny8", 8, chunk=4),
        small_stage("sr16", 16, 8, chunk=3),
        small_stage("sr32", 32, 16, chunk=2, class_names=()),
    ]


@pytest.fixture(scope="session")
def make_cascade() -> Callable[[Path, list[StageConfig]], Path]:
    """Write a cascade folder of these stages."""

    def make(folder: Path, configs: list[StageConfig]) -> Path:
        for config in configs:
            save_small(folder / config.name, config)
        save_cascade_config(folder, CascadeConfig(tuple((c.name, c.sampling) for c in configs)))
        return folder

    return make


@pytest.fixture(scope="session")
def small_cascade(tmp_path_factory, small_configs, make_cascade) -> Path:
    """A cascade folder tiny8 (8 px), sr16 (16 px), sr32 (32 px, unlabelled). Read only."""
    return make_cascade(tmp_path_factory.mktemp("cascade") / "small", small_configs)


@pytest.fixture
def one_thread():
    """Small pictures gain nothing from threads, and a busy machine loses by them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="module")
def one_beginning_of_all():
    """A network's first weights come from the global generator; no test may pass or fail by them."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def one_beginning(one_beginning_of_all):
    """The same for each test, whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """What a test finds out about the machine stays with the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
