"""Truncated conditioning augmentation in the chain: a stage stops at λ_a, and x_λ reaches the next one as it is."""

import math
from dataclasses import replace

import pytest
import torch

from cascade import CascadePipeline
from cascade.commands.evaluated_samples import EvaluatedSamples
from cascade.data.degradation import to_uint8
from cascade.diffusion import Condition
from cascade.errors import CascadeError
from cascade.rng import ImageNoise
from cascade.stage_settings import StageSettings

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES, SEEDS = ["dress", 1, "shoe", None], [3, 1, 4, 0]
TRUNCATED = {"sr16": StageSettings(truncated=True)}
LEVEL = 3.0


@pytest.fixture(scope="module")
def pipeline(small_cascade):
    return CascadePipeline.load(small_cascade)


@pytest.fixture(scope="module")
def four(pipeline):
    pipeline.threads = 1
    torch.set_num_threads(1)
    return list(pipeline.iterate(CLASSES, SEEDS, settings=TRUNCATED, stage_images=True))


@pytest.fixture
def told(pipeline):
    """What the network of sr16 is told of its low-res pictures, call by call."""
    seen = []
    denoiser = pipeline.stages["sr16"].denoiser
    hook = denoiser.register_forward_pre_hook(lambda _, args: seen.append((args[2].low_res, args[2].aug_log_snr)))
    yield seen
    hook.remove()


def x_lambda(pipeline):
    """The base walked by hand to LEVEL: the grid −8, 0, 8, ∞ of its config cut there, with its own noise and labels."""
    plan = pipeline.plan(stages=1)[0]
    grid = torch.tensor([-8.0, 0.0, LEVEL], dtype=torch.float64)
    noise = ImageNoise(SEEDS, "tiny8", (3, 8, 8))
    condition = Condition(torch.tensor([0, 1, 2, -1]))
    with torch.no_grad():
        x = plan.sampler(plan.denoiser, (1 / (1 + math.exp(-8.0))) ** 0.5 * noise(-1), grid, condition, noise)
        level = torch.full((4,), LEVEL)
        return x, plan.denoiser(x, level, condition).mean


def test_the_next_stage_is_handed_x_at_its_level_as_it_is(pipeline, four, told):
    """No noise is added and nothing is rounded; all steps are told the same."""
    x, _ = x_lambda(pipeline)
    pipeline.sample(CLASSES[:3], SEEDS[:3], stages=2, settings=TRUNCATED)
    assert len(told) == 3
    for low_res, level in told:
        torch.testing.assert_close(low_res, x[:3], rtol=1e-5, atol=1e-5)
        assert level.tolist() == [LEVEL] * 3
    assert torch.equal(told[0][0], told[2][0])
    assert told[0][0].abs().max() > 1


def test_a_stopped_stage_is_shown_as_its_posterior_mean(pipeline, four):
    _, mean = x_lambda(pipeline)
    for image, want in zip(four, to_uint8(mean), strict=True):
        assert image.stage_images["tiny8"].dtype == torch.uint8
        assert (image.stage_images["tiny8"].int() - want.int()).abs().max() <= 1
    assert len({image.stage_images["tiny8"].numpy().tobytes() for image in four}) == 4


def test_another_way_of_augmentation_is_another_picture(pipeline, four):
    assert not torch.equal(pipeline.sample(CLASSES[0], SEEDS[0])[0], four[0].image)


def test_a_picture_is_the_same_alone_and_among_others_and_whatever_is_shown(pipeline, four):
    for name, seed, image in zip(CLASSES, SEEDS, four, strict=True):
        assert torch.equal(pipeline.sample(name, seed, settings=TRUNCATED)[0], image.image)
    again = pipeline.sample(CLASSES[::-1], SEEDS[::-1], settings=TRUNCATED)
    assert torch.equal(again, torch.stack([image.image for image in four[::-1]]))


def test_stages_behind_the_truncated_one_start_from_its_finished_picture(pipeline, four):
    low_res = [image.stage_images["sr16"] for image in four]
    again = pipeline.sample(CLASSES, SEEDS, low_res=low_res)
    assert torch.equal(again, torch.stack([image.image for image in four]))


def test_a_stage_is_finished_where_the_truncated_one_does_not_run(pipeline, small_configs, make_cascade, tmp_path):
    base, sr16, _ = small_configs
    stored = replace(sr16, sampling=replace(sr16.sampling, truncated=True))
    other = CascadePipeline.load(make_cascade(tmp_path / "stored", [base, stored]))
    assert torch.equal(other.sample(0, 3, stages=1), pipeline.sample(0, 3, stages=1))
    assert torch.equal(other.sample(0, 3), pipeline.sample(0, 3, stages=2, settings=TRUNCATED))
    finished = {"sr16": StageSettings(truncated=False)}
    assert torch.equal(other.sample(0, 3, settings=finished), pipeline.sample(0, 3, stages=2))


def test_the_path_of_level_0_is_the_identity(small_configs, make_cascade, tmp_path):
    """At +inf nothing is cut off: the base finishes, is rounded, and the clean picture is handed over, either way."""
    base, sr16, _ = small_configs
    ways = [
        replace(sr16, augmentation={"name": "none"}, sampling=replace(sr16.sampling, aug_log_snr=math.inf, truncated=t))
        for t in (True, False)
    ]
    images = [
        next(CascadePipeline.load(make_cascade(tmp_path / str(i), [base, way])).iterate(0, 0, stage_images=True))
        for i, way in enumerate(ways)
    ]
    assert torch.equal(images[0].image, images[1].image)
    assert torch.equal(images[0].stage_images["tiny8"], images[1].stage_images["tiny8"])


def test_the_records_say_where_a_stage_stopped_and_say_nothing_where_none_did(pipeline):
    base, middle, last = (stage.record() for stage in pipeline.plan(settings=TRUNCATED))
    assert (base["until"], base["steps"], "truncated" in base) == (LEVEL, 2, False)
    assert (middle["truncated"], middle["aug_log_snr"], "until" in middle) == (True, LEVEL, False)
    plain = [stage.record() for stage in pipeline.plan()]
    assert last == plain[2]
    assert not {"until", "truncated"} & {key for record in plain for key in record}


def test_progress_counts_the_steps_that_are_taken(pipeline):
    told = []
    pipeline.sample([0], range(5), stages=2, settings=TRUNCATED, on_progress=lambda *now: told.append(now))
    assert [max(done for stage, done, _ in told if stage == name) for name in ("tiny8", "sr16")] == [2 * 2, 3 * 3]
    assert {total for stage, _, total in told if stage == "tiny8"} == {4}


def refused(pipeline, message, **settings):
    with pytest.raises(CascadeError) as error:
        pipeline.iterate(0, 0, **settings)  # before the first picture is asked for
    assert message in str(error.value)


def test_what_cannot_be_truncated_is_refused_before_any_compute(pipeline):
    low = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    refused(pipeline, "sr16.truncated=false adds noise", low_res=low, settings=TRUNCATED)
    refused(pipeline, "'tiny8' is a base stage", settings={"tiny8": StageSettings(truncated=True)})
    untrained = {"sr16": StageSettings(truncated=True, aug_log_snr=7.0)}
    refused(pipeline, "'sr16': augmentation level 7", settings=untrained)
    late = {**TRUNCATED, "tiny8": StageSettings(grid={"log_snr_min": 4.0})}
    refused(pipeline, "'tiny8': a grid from log-SNR 4 cannot stop at 3", settings=late)


def test_an_evaluation_keeps_its_pictures_and_never_starts_from_them(pipeline, four, tmp_path):
    def evaluated():
        return EvaluatedSamples(pipeline, range(3), None, 2, TRUNCATED, tmp_path / "samples")

    first = [(picture.clone(), low.clone()) for picture, low in evaluated()]
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert len(kept) == 6
    lost = next(path for path in kept if path.parent.name.startswith("sr16") and path.name == "000001.png")
    lost.unlink()
    again = list(evaluated())
    assert all(
        torch.equal(a, b) for one, other in zip(first, again, strict=True) for a, b in zip(one, other, strict=True)
    )
    assert torch.equal(first[1][0], pipeline.sample(1, 1, stages=2, settings=TRUNCATED)[0])
