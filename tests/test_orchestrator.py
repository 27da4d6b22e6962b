"""Laws of the chain: pictures do not depend on their company, on the way they came, or on stages that do not run."""

import math
from dataclasses import replace

import pytest
import torch

from cascade import CascadePipeline
from cascade.artifact import load_stage
from cascade.diffusion import Condition
from cascade.errors import CascadeError
from cascade.orchestrator import check_device
from cascade.rng import randn
from cascade.stage_sampler import StageSampler
from cascade.stage_settings import StageSettings

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES, SEEDS = ["dress", 1, "shoe", "dress", 2, "hat", None, 0], [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(scope="module")
def pipeline(small_cascade):
    return CascadePipeline.load(small_cascade)


@pytest.fixture(scope="module")
def eight(pipeline):
    """The same eight pictures for the whole module, with what each stage made of them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pipeline.threads = 1
    images = list(pipeline.iterate(CLASSES, SEEDS, stage_images=True))
    torch.set_num_threads(threads)
    return images


def test_a_picture_is_the_same_alone_among_three_and_among_eight(pipeline, eight):
    for i, (name, seed) in enumerate(zip(CLASSES, SEEDS, strict=True)):
        alone = pipeline.sample(name, seed)
        assert torch.equal(alone[0], eight[i].image), (name, seed)
    three = pipeline.sample([CLASSES[6], CLASSES[1], CLASSES[4]], [SEEDS[6], SEEDS[1], SEEDS[4]])
    assert all(torch.equal(three[place], eight[i].image) for place, i in enumerate((6, 1, 4)))


@pytest.mark.parametrize("number", [1, 3, 5])
def test_the_network_always_meets_its_chunk_size(pipeline, number):
    """The law behind the one above: on some machines and sizes the bits depend on the batch, here they may not."""
    met = []
    hooks = [
        stage.denoiser.register_forward_pre_hook(lambda _, args, name=name: met.append((name, len(args[0]))))
        for name, stage in pipeline.stages.items()
    ]
    pipeline.sample(0, range(number))
    for hook in hooks:
        hook.remove()
    assert set(met) == {("tiny8", 4), ("sr16", 3), ("sr32", 2)}


def test_every_stage_makes_pictures_of_its_size_and_they_differ(eight):
    assert [tuple(image.shape) for image in eight[0].stage_images.values()] == [(3, 8, 8), (3, 16, 16), (3, 32, 32)]
    for name in ("tiny8", "sr16", "sr32"):
        pictures = [image.stage_images[name] for image in eight]
        assert all(not torch.equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i]), name
    assert all(image.stage_images["sr32"] is image.image for image in eight)
    assert [(image.class_name, image.label, image.seed) for image in eight[5:7]] == [("hat", 1, 9), (None, None, 2)]


@pytest.mark.parametrize("start", ["tiny8", "sr16"])
def test_starting_from_a_kept_picture_continues_the_chain_bit_for_bit(pipeline, eight, start):
    low_res = [image.stage_images[start] for image in eight]
    again = pipeline.sample(CLASSES, SEEDS, low_res=low_res)
    assert torch.equal(again, torch.stack([image.image for image in eight]))


def test_stopping_early_gives_the_stage_pictures(pipeline, eight):
    for count, name in enumerate(("tiny8", "sr16"), 1):
        assert torch.equal(pipeline.sample(CLASSES[:2], SEEDS[:2], stages=count)[1], eight[1].stage_images[name])


def test_a_stage_runs_as_written_out_by_hand(small_cascade, eight):
    """Noise σ(λ₀)·ε₋₁, augmentation α·low + σ·ε₋₂ at low resolution, guidance inside the threshold."""
    stage = load_stage(small_cascade / "sr16")
    plan = StageSampler.prepare(stage, stage.config.sampling, torch.device("cpu"), "fp32")
    image = eight[3]
    low = image.stage_images["tiny8"] / 127.5 - 1
    level = torch.tensor(stage.config.sampling.aug_log_snr)
    augmented = level.sigmoid().sqrt() * low + (-level).sigmoid().sqrt() * randn(
        "sample", image.seed, "sr16", -2, 0, shape=(3, 8, 8)
    )
    # The chunk of 3 as sampling pads it; the sampler, its grid and its noise are tested elsewhere.
    condition = Condition(torch.tensor([0] * 3), augmented.expand(3, 3, 8, 8), level.expand(3))
    grid = torch.tensor([-8.0, 0.0, 8.0, math.inf], dtype=torch.float64)

    def noise(step: int, draw: int = 0) -> torch.Tensor:
        return randn("sample", image.seed, "sr16", step, draw, shape=(3, 16, 16)).expand(3, 3, 16, 16)

    with torch.no_grad():
        made = plan.sampler(plan.denoiser, (1 / (1 + math.exp(-8.0))) ** 0.5 * noise(-1), grid, condition, noise)
    expected = ((made[0] + 1) * 127.5).clamp(0, 255).round()
    assert (expected - image.stage_images["sr16"]).abs().max() <= 1
    assert (expected == image.stage_images["sr16"]).float().mean() > 0.99


def test_the_threshold_is_outside_the_guidance(pipeline):
    plan = pipeline.plan()[0]
    assert type(plan.denoiser).__name__ == "DynamicThreshold"
    assert type(plan.denoiser.denoiser).__name__ == "ClassifierFree"


def test_guidance_of_one_is_no_guidance_and_sets_the_base_alone(pipeline, eight):
    none = {"tiny8": StageSettings(guidance_scale=1.0)}
    assert torch.equal(pipeline.sample(0, 3, 1.0), pipeline.sample(0, 3, settings=none))
    assert not torch.equal(pipeline.sample(0, 3, 1.0)[0], eight[0].image)
    scales = [stage.sampling.guidance.get("scale") for stage in pipeline.plan(5.0)]
    assert scales == [5.0, None, None]


def test_an_unlabelled_stage_ignores_guidance(pipeline, eight):
    settings = {"sr32": StageSettings(guidance_scale=7.0)}
    assert torch.equal(pipeline.sample(CLASSES[0], SEEDS[0], settings=settings)[0], eight[0].image)


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("tiny8", StageSettings(steps=5)),
        ("sr16", StageSettings(guidance_scale=3.0)),
        ("sr16", StageSettings(aug_log_snr=5.0)),
        ("sr32", StageSettings(sampler="heun")),
        ("sr32", StageSettings(threshold="none")),
    ],
)
def test_a_setting_changes_its_stage_and_none_before_it(pipeline, eight, stage, settings):
    (image,) = pipeline.iterate("dress", 3, settings={stage: settings}, stage_images=True)
    order = ["tiny8", "sr16", "sr32"]
    for name in order[: order.index(stage)]:
        assert torch.equal(image.stage_images[name], eight[0].stage_images[name])
    assert not torch.equal(image.stage_images[stage], eight[0].stage_images[stage])


def test_no_product_is_rounded_before_it_is_made(pipeline, monkeypatch):
    """On a GPU cuDNN would round to TF32, and pick an algorithm by its own times."""
    found = []
    (stage, *_) = pipeline.plan()
    network = stage.stage.denoiser.network
    hook = network.register_forward_hook(
        lambda *_: found.append((torch.backends.cudnn.conv.fp32_precision, torch.backends.cudnn.deterministic))
    )
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = torch.backends.cudnn.conv.fp32_precision, torch.backends.cudnn.deterministic
    pipeline.sample(seeds=[0], stages=1)
    hook.remove()
    assert set(found) == {("ieee", True)}
    assert before == (torch.backends.cudnn.conv.fp32_precision, torch.backends.cudnn.deterministic)
    assert torch.backends.cudnn.benchmark


def test_bf16_is_near_fp32_and_not_the_same(small_cascade, eight):
    base = CascadePipeline.load(small_cascade, precision="bf16", only=["tiny8"]).sample("dress", 3, stages=1)[0]
    difference = (base.float() - eight[0].stage_images["tiny8"].float()).abs()
    assert difference.max() > 0
    assert difference.mean() < 10


def test_pictures_come_one_by_one_in_bounded_memory(pipeline):
    """No more than one group is read ahead, and the last stage hands over a chunk before it makes the next."""
    read = []

    class Reading:
        def __len__(self):
            return 100

        def __getitem__(self, i):
            read.append(i)
            return torch.full((3, 16, 16), i, dtype=torch.uint8)

    images = pipeline.iterate(None, range(100), low_res=Reading())
    next(images)
    assert max(read) < 4


def test_progress_counts_every_step_of_every_chunk(pipeline):
    told = []
    pipeline.sample([0], range(5), on_progress=lambda *now: told.append(now))
    # 5 pictures: groups of 4 and 1; chunks of 4, 3 and 2 pictures; 3 steps each.
    totals = {"tiny8": 2 * 3, "sr16": 3 * 3, "sr32": 3 * 3}
    for name, total in totals.items():
        steps = [done for stage, done, _ in told if stage == name]
        assert {whole for stage, _, whole in told if stage == name} == {total}
        assert steps == sorted(steps)
        assert (steps[0], steps[-1], set(steps)) == (0, total, set(range(total + 1)))


def test_the_number_of_threads_stays_that_of_loading(pipeline):
    torch.set_num_threads(2)
    try:
        pipeline.sample(0, 0, stages=1)
        assert torch.get_num_threads() == pipeline.threads == 1
    finally:
        torch.set_num_threads(1)


def test_the_global_generator_is_neither_read_nor_moved(pipeline, eight):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert torch.equal(pipeline.sample(CLASSES[0], SEEDS[0])[0], eight[0].image)
    assert torch.equal(torch.get_rng_state(), before)


def refused(pipeline, message, *args, **kwargs):
    with pytest.raises(CascadeError) as error:
        pipeline.iterate(*args, **kwargs)  # before the first picture is asked for
    assert message in str(error.value)


def test_what_is_wrong_is_refused_before_any_compute(pipeline):
    low = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    refused(pipeline, "did you mean 'dress'?", "dres", 0)
    refused(pipeline, "classes 0 to 2", 3, 0)
    refused(pipeline, "a list, [a,b]", "dress,hat", 0)
    refused(pipeline, "seed -1", 0, -1)
    refused(pipeline, "seed 9223372036854775808", 0, 2**63)
    refused(pipeline, "seed 1.5", 0, [1.5])
    refused(pipeline, "seed True", 0, True)
    refused(pipeline, "2 classes and 3 seeds", [0, 1], [0, 1, 2])
    refused(pipeline, "1 classes and 0 seeds", 0, [])
    refused(pipeline, "for 1 pictures", 0, [1, 2], low_res=low)
    refused(pipeline, "stages=4", 0, 0, stages=4)
    refused(pipeline, "they take 8 or 16 px", 0, 0, low_res=torch.zeros(1, 3, 9, 9, dtype=torch.uint8))
    refused(pipeline, "none of them takes", 0, 0, stages=1, low_res=low)
    refused(pipeline, "uint8 (3, h, h)", 0, 0, low_res=low.float())
    refused(pipeline, "use sr16.guidance_scale", 0, 0, 2.0, low_res=low)
    refused(pipeline, "did you mean 'sr16'?", 0, 0, settings={"sr61": StageSettings()})
    refused(pipeline, "'sr32' does not run here", 0, 0, stages=2, settings={"sr32": StageSettings()})
    refused(pipeline, "'sr16': augmentation level 7", 0, 0, settings={"sr16": StageSettings(aug_log_snr=7.0)})
    refused(pipeline, "'sr16': augmentation level inf", 0, 0, settings={"sr16": StageSettings(aug_log_snr=math.inf)})
    refused(pipeline, "is a base stage", 0, 0, settings={"tiny8": StageSettings(aug_log_snr=1.0)})
    with pytest.raises(CascadeError, match="unknown sampler 'dim'; did you mean 'ddim'"):
        StageSettings(sampler="dim")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"guidance_scale": "a"}, "guidance_scale=a must be a finite number"),
        ({"guidance_scale": math.nan}, "must be a finite number"),
        ({"guidance_scale": True}, "must be a finite number"),
        ({"guidance_scale": [2.0]}, "must be a finite number"),
        ({"classes": 1.5}, "1.5 is no class"),
        ({"classes": [1.0]}, "1.0 is no class"),
        ({"classes": [True]}, "True is no class"),
        ({"classes": [["hat"]]}, "is no class"),
        ({"classes": []}, "0 classes and 1 seeds"),
        ({"seeds": None}, "seed None is not a whole number"),
        ({"seeds": 2.5}, "seed 2.5 is not a whole number"),
        ({"seeds": "0-3"}, "seed 0-3 is not a whole number"),
        ({"seeds": ["7"]}, "seed 7 is not a whole number"),
        ({"stages": "2"}, "a number from 1 to 3"),
        ({"stages": 1.5}, "a number from 1 to 3"),
        ({"stages": 0}, "a number from 1 to 3"),
        ({"settings": "sr16"}, "settings are a mapping"),
        ({"settings": {"sr16": {"steps": 3}}}, "must be a StageSettings"),
        ({"settings": {"sr16": None}}, "must be a StageSettings"),
        ({"settings": {"tiny8": StageSettings(guidance="classifier_free")}}, "'classifier_free' needs 'scale'"),
        ({"settings": {"tiny8": StageSettings(guidance={"scale": "a"})}}, "scale=a must be a number"),
        ({"settings": {"tiny8": StageSettings(guidance={"name": "interval", "guided": "none"})}}, "not 'none'"),
        ({"low_res": "folder"}, "low_res is a list of pictures"),
        ({"low_res": 3}, "low_res is a list of pictures"),
        ({"low_res": []}, "low_res holds no picture"),
        ({"low_res": [None]}, "not NoneType"),
        ({"low_res": torch.zeros(8, 8, dtype=torch.uint8)}, "for 8 pictures"),
        ({"on_progress": 3}, "on_progress"),
        ({"guidance_scale": 2.0, "settings": {"tiny8": StageSettings(guidance_scale=3.0)}}, "give one of them"),
    ],
)
def test_every_argument_of_the_wrong_kind_is_a_cascade_error(pipeline, arguments, message):
    for ask in (pipeline.sample, pipeline.iterate):
        with pytest.raises(CascadeError) as error:
            ask(**{"classes": 0, "seeds": [0, 1] if message == "for 8 pictures" else 0} | arguments)
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": 3}, "is a path, not 3"),
        ({"path": None}, "is a path, not None"),
        ({"path": "nowhere"}, "no cascade at 'nowhere'"),
        ({"device": None}, "device 'None'"),
        ({"device": 1.5}, "device '1.5'"),
        ({"precision": ["fp32"]}, "unknown precision"),
        ({"precision": None}, "unknown precision"),
        ({"only": "sr61"}, "did you mean 'sr16'?"),
        ({"only": 3}, "no stage '3'"),
    ],
)
def test_every_argument_of_load_of_the_wrong_kind_is_a_cascade_error(small_cascade, arguments, message):
    with pytest.raises(CascadeError) as error:
        CascadePipeline.load(**{"path": small_cascade} | arguments)
    assert message in str(error.value)


def test_numbers_of_numpy_and_torch_are_numbers(pipeline, eight):
    import numpy as np

    asked = pipeline.sample(np.int64(0), np.array([0, 1]))
    assert torch.equal(asked, pipeline.sample([torch.tensor(0)], torch.tensor([0, 1])))
    assert torch.equal(asked, pipeline.sample(0, [0, 1]))


def test_a_device_or_precision_that_is_not_there_is_refused(small_cascade):
    with pytest.raises(CascadeError, match="device 'tpu'"):
        check_device("tpu")
    with pytest.raises(CascadeError, match="device 'cuda:99'"):
        check_device("cuda:99")
    with pytest.raises(CascadeError, match="did you mean 'fp32'"):
        CascadePipeline.load(small_cascade, precision="fp23")


def test_low_res_pictures_of_two_sizes_are_refused(pipeline):
    pictures = [torch.zeros(3, side, side, dtype=torch.uint8) for side in (8, 16)]
    with pytest.raises(CascadeError, match="differ in size: 8 and 16"):
        pipeline.sample(0, 0, low_res=pictures)


def test_a_stage_trained_without_augmentation_takes_clean_pictures_alone(tmp_path, small_configs, make_cascade):
    base, sr16, _ = small_configs
    clean = replace(sr16, augmentation={"name": "none"}, sampling=replace(sr16.sampling, aug_log_snr=math.inf))
    pipeline = CascadePipeline.load(make_cascade(tmp_path / "clean", [base, clean]))
    assert pipeline.sample(0, 0).shape == (1, 3, 16, 16)
    refused(pipeline, "trained without augmentation", 0, 0, settings={"sr16": StageSettings(aug_log_snr=3.0)})


def test_the_record_names_everything_as_plain_values(pipeline):
    records = [stage.record() for stage in pipeline.plan()]
    assert records[0]["sampler"] == {"name": "ddim", "eta": 1.0}
    assert (records[0]["steps"], records[0]["guidance"]["scale"], records[0]["aug_log_snr"]) == (3, 2.0, None)
    assert (records[1]["aug_log_snr"], records[2]["guidance"]) == (3.0, {"name": "none"})
    heun = pipeline.plan(settings={"sr32": StageSettings(sampler="heun")})[2].record()
    assert heun["sampler"]["s_max"] == "inf"
    assert len({record["sha256"] for record in records}) == 3
