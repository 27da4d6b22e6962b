"""A stage by tiles: the same pictures where its network is local, larger ones too, and a record of it."""

import pytest
import torch

from cascade.artifact import load_cascade_config
from cascade.commands.command_line import main
from cascade.errors import CascadeError
from cascade.orchestrator import CascadePipeline
from cascade.sampling import Tiled
from cascade.stage_denoiser import overlap_and_blend
from cascade.stage_settings import StageSettings
from tests.conftest import small_stage


@pytest.fixture(scope="module")
def large(tmp_path_factory, make_cascade):
    """16 → 64 px; the second stage is local and sees 24 px to each side at most."""
    stages = [
        small_stage("base16", 16, class_names=()),
        small_stage("sr64", 64, 16, class_names=(), chunk=1),
    ]
    return make_cascade(tmp_path_factory.mktemp("large") / "cascade", stages)


def tiled(tile):
    return {"sr64": StageSettings(tile=tile)}


def test_a_local_stage_by_tiles_makes_the_same_picture(large):
    pipeline = CascadePipeline.load(large)
    (_, stage) = pipeline.plan(settings=tiled(16))
    overlap, blend = overlap_and_blend(stage.stage, 16)
    assert 16 + overlap < 64, "a tile in a corner is not shown the whole picture"
    assert blend == 1
    whole, parts = (pipeline.sample(seeds=[0, 1], settings=settings) for settings in (None, tiled(16)))
    assert (whole.int() - parts.int()).abs().max() <= 1
    assert (whole != parts).float().mean() < 1e-3


def test_thresholding_is_outside_the_tiles(large):
    settings = {"sr64": StageSettings(tile=16, threshold={"name": "dynamic"})}
    (_, stage) = CascadePipeline.load(large).plan(settings=settings)
    assert type(stage.denoiser).__name__ == "DynamicThreshold"
    inner = stage.denoiser.denoiser
    while not isinstance(inner, Tiled):
        inner = inner.denoiser
    assert type(inner.denoiser).__name__ == "VPreconditioning"


def test_larger_pictures_are_taken_by_tiles_alone(large):
    pipeline = CascadePipeline.load(large)
    low = [torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))]
    made = pipeline.sample(low_res=low, settings=tiled(64))
    assert made.shape == (1, 3, 128, 128)
    other = pipeline.sample(low_res=low, settings=tiled(32))
    assert (made.int() - other.int()).abs().max() <= 1
    with pytest.raises(CascadeError, match=r"fit none of the stages: they take 16 px; by tiles, with sr64\.tile=64"):
        pipeline.sample(low_res=low)
    with pytest.raises(CascadeError, match="fit none"):
        pipeline.sample(low_res=[low[0][:, :8, :8]], settings=tiled(64))


def test_the_record_says_it_only_where_it_matters(large):
    pipeline = CascadePipeline.load(large)
    assert all("tile" not in stage.record() for stage in pipeline.plan())
    assert pipeline.plan(settings=tiled(16))[1].record()["tile"] == 16


@pytest.mark.parametrize("tile", [-1, True, 2.0])
def test_a_tile_is_a_whole_number(tile):
    with pytest.raises(CascadeError, match="at least 0"):
        StageSettings(tile=tile)


def test_a_tile_keeps_to_the_networks_grid(large):
    with pytest.raises(CascadeError, match="stage 'sr64': tile=18 must be a multiple of 4, the network's grid"):
        CascadePipeline.load(large).plan(settings=tiled(18))


def test_a_network_that_is_not_local_is_blended_over_the_whole_overlap(large):
    (base, _) = CascadePipeline.load(large).plan(settings={"base16": StageSettings(tile=8)})
    assert overlap_and_blend(base.stage, 8) == (4, 4)


def test_the_command_line_stores_and_takes_back_a_tile(large, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = f"stages=[{large / 'base16'},{large / 'sr64'}]"
    assert main(["assemble", stages, "sr64.tile=32", "out=made"]) == 0
    assert [sampling.tile for _, sampling in load_cascade_config("made").stages] == [None, 32]
    assert CascadePipeline.load("made").plan()[1].sampling.tile == 32
    assert CascadePipeline.load("made").plan(settings=tiled(0))[1].sampling.tile is None


def test_a_stage_called_with_tiles_sees_no_larger_part(large):
    pipeline = CascadePipeline.load(large)
    seen = []
    network = pipeline.stages["sr64"].denoiser.network
    handle = network.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[-1]))
    low = [torch.zeros(3, 64, 64, dtype=torch.uint8)]
    pipeline.sample(low_res=low, settings={"sr64": StageSettings(tile=16, steps=1)})
    handle.remove()
    (overlap, _) = overlap_and_blend(pipeline.stages["sr64"], 16)
    assert max(seen) == 16 + 2 * overlap < 256
