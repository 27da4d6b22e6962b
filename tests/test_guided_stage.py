"""Guidance of one stage as it is chosen: in an interval, by another stage; its scale, its labels, its record."""

import math
from dataclasses import replace

import pytest
import torch

from cascade import CascadePipeline, registry
from cascade.artifact import load_stage
from cascade.errors import CascadeError
from cascade.sampling import AutoGuidance, ClassifierFree, Interval, Unconditional
from cascade.stage_settings import StageSettings

pytestmark = pytest.mark.usefixtures("one_thread")

INTERVAL = {"name": "interval", "lo": -2.0, "hi": 4.0, "guided": {"name": "classifier_free", "scale": 3.0}}


@pytest.fixture(scope="module")
def pipeline(small_cascade):
    pipeline = CascadePipeline.load(small_cascade)
    pipeline.threads = 1
    return pipeline


@pytest.fixture
def weak(small_configs, make_cascade, tmp_path):
    """Save a changed copy of a small stage under a name of its own, and with weights of its own."""

    def save(index: int = 0, **changes) -> str:
        config = replace(small_configs[index], name=f"weak{len(list(tmp_path.iterdir()))}", **changes)
        return str(make_cascade(tmp_path / config.name, [config]) / config.name)

    return save


def by(folder: str, scale: float = 2.0) -> StageSettings:
    return StageSettings(guidance={"name": "autoguidance", "scale": scale, "weak": folder})


def calls(pipeline, stage, settings):
    """How many calls of the network sampling one picture takes."""
    count = []
    hook = pipeline.stages[stage].denoiser.register_forward_hook(lambda *_: count.append(1))
    pipeline.sample(0, 3, stages=1, settings={stage: settings})
    hook.remove()
    return len(count)


def test_guided_by_its_own_folder_a_stage_makes_the_pictures_it_makes_without_guidance(pipeline, small_cascade):
    plain = pipeline.sample([0, 1], [3, 4], stages=1, settings={"tiny8": StageSettings(guidance="none")})
    own = {"tiny8": by(str(small_cascade / "tiny8"), 4.0)}
    assert torch.equal(pipeline.sample([0, 1], [3, 4], stages=1, settings=own), plain)


def test_a_weak_stage_is_asked_beside_the_stage_and_inside_the_threshold(pipeline, weak):
    folder = weak()
    (plan,) = pipeline.plan(stages=1, settings={"tiny8": by(folder)})
    guided = plan.denoiser.denoiser
    assert (type(guided), guided.scale) == (AutoGuidance, 2.0)
    assert guided.good is pipeline.stages["tiny8"].denoiser
    stored = load_stage(folder).denoiser.state_dict()
    assert all(torch.equal(value, stored[key]) for key, value in guided.bad.state_dict().items())
    pictures = [pipeline.sample(0, 3, stages=1, settings={"tiny8": by(folder, scale)}) for scale in (1.0, 2.0)]
    plain = pipeline.sample(0, 3, stages=1, settings={"tiny8": StageSettings(guidance="none")})
    assert torch.equal(pictures[0], plain)
    assert not torch.equal(pictures[1], plain)


def test_labels_reach_a_weak_stage_that_knows_them_and_no_other(pipeline, weak):
    (plan,) = pipeline.plan(stages=1, settings={"tiny8": by(weak(class_names=()))})
    assert isinstance(plan.denoiser.denoiser.bad, Unconditional)
    image = next(pipeline.iterate(0, 3, stages=1, settings={"tiny8": by(weak(class_names=()))})).image
    assert not torch.equal(image, pipeline.sample(0, 3, stages=1)[0])


def test_super_resolution_stages_are_guided_too_with_labels_or_without(pipeline, weak):
    """sr32 is unlabelled: classifier-free guidance is none there, autoguidance is not."""
    plain = next(pipeline.iterate(0, 3, stage_images=True)).stage_images
    for index, name in ((1, "sr16"), (2, "sr32")):
        guided = next(pipeline.iterate(0, 3, settings={name: by(weak(index))}, stage_images=True)).stage_images
        assert not torch.equal(guided[name], plain[name])
    assert torch.equal(guided["sr16"], plain["sr16"])


def test_a_weak_stage_runs_in_bf16_where_the_stage_does(small_cascade, weak):
    half = CascadePipeline.load(small_cascade, precision="bf16", only=["tiny8"])
    (plan,) = half.plan(stages=1, settings={"tiny8": by(weak())})
    assert {type(d).__name__ for d in (plan.denoiser.denoiser.good, plan.denoiser.denoiser.bad)} == {"Autocast"}


def test_a_stage_that_does_not_fit_cannot_guide(pipeline, weak, small_cascade, tmp_path):
    base, sr16, sr32 = (str(small_cascade / name) for name in ("tiny8", "sr16", "sr32"))
    other_levels = {"name": "gaussian", "log_snr_min": 4.0, "log_snr_max": 6.0, "default": 5.0}
    untrained = weak(1, augmentation=other_levels)
    for stage, folder, message in (
        ("tiny8", sr16, "'tiny8': the weak stage 'sr16' is 8 -> 16 px, not 8 px"),
        ("sr16", base, "'sr16': the weak stage 'tiny8' is 8 px, not 8 -> 16 px"),
        ("sr16", sr32, "is 16 -> 32 px, not 8 -> 16 px"),
        ("sr16", weak(resolution=16), "is 16 px, not 8 -> 16 px"),
        ("tiny8", weak(class_names=("hat", "dress", "shoe")), "has another class table"),
        ("sr16", untrained, "augmentation level 3 was not trained"),
        ("tiny8", str(tmp_path / "nowhere"), "'tiny8': there is no stage at"),
    ):
        with pytest.raises(CascadeError) as error:
            pipeline.plan(settings={stage: by(folder)})
        assert message in str(error.value)


def test_the_record_names_a_weak_stage_by_its_weights(pipeline, weak):
    folder = weak()
    record = pipeline.plan(stages=1, settings={"tiny8": by(folder)})[0].record()
    assert record["guidance"] == {"name": "autoguidance", "scale": 2.0, "weak": load_stage(folder).sha256}
    inside = {"name": "interval", "guided": {"name": "autoguidance", "weak": folder}}
    record = pipeline.plan(stages=1, settings={"tiny8": StageSettings(guidance=inside)})[0].record()
    assert record["guidance"]["guided"]["weak"] == load_stage(folder).sha256
    assert (record["guidance"]["lo"], record["guidance"]["guided"]["scale"]) == (-2.13, 2.0)


def test_outside_the_interval_the_stage_is_called_once(pipeline):
    """The grid of three steps starts at λ = −8, 0 and 8."""
    assert calls(pipeline, "tiny8", StageSettings(guidance="none")) == 3
    assert calls(pipeline, "tiny8", StageSettings(guidance={**INTERVAL, "lo": -math.inf, "hi": math.inf})) == 6
    assert calls(pipeline, "tiny8", StageSettings(guidance=INTERVAL)) == 4
    assert calls(pipeline, "tiny8", StageSettings(guidance=INTERVAL, guidance_scale=1.0)) == 3


def test_an_interval_of_the_whole_line_is_classifier_free_guidance(pipeline):
    whole = StageSettings(guidance={**INTERVAL, "lo": -math.inf, "hi": math.inf})
    free = StageSettings(guidance={"name": "classifier_free", "scale": 3.0})
    pictures = [pipeline.sample(1, 4, stages=1, settings={"tiny8": way}) for way in (whole, free)]
    assert torch.equal(*pictures)
    record = pipeline.plan(stages=1, settings={"tiny8": whole})[0].record()
    assert (record["guidance"]["lo"], record["guidance"]["hi"]) == ("-inf", "inf")


def test_guidance_in_guidance_is_of_one_denoiser():
    built = registry.build("guidance", INTERVAL, denoiser="the denoiser")
    assert built == Interval(ClassifierFree("the denoiser", 3.0), "the denoiser", -2.0, 4.0)
    with pytest.raises(CascadeError, match="guidance 'classifier_free' needs 'scale'"):
        registry.build("guidance", {"name": "interval", "guided": {"name": "classifier_free"}}, denoiser=None)


def sampled_with(pipeline, stage, settings, scale=None):
    return next(p.sampling for p in pipeline.plan(scale, settings={stage: settings}) if p.name == stage)


def test_the_scale_is_that_of_what_is_chosen(pipeline, weak):
    folder = weak()
    assert sampled_with(pipeline, "tiny8", StageSettings(guidance=INTERVAL), 5.0).guidance["guided"]["scale"] == 5.0
    assert sampled_with(pipeline, "tiny8", by(folder), 5.0).guidance["scale"] == 5.0
    assert sampled_with(pipeline, "sr16", StageSettings(guidance_scale=5.0)).guidance == {
        "name": "classifier_free",
        "scale": 5.0,
    }


def test_without_labels_classifier_free_guidance_is_none_and_autoguidance_stays(pipeline, weak):
    folder = weak(2)
    for guidance in (INTERVAL, INTERVAL["guided"], "none"):
        settings = StageSettings(guidance=guidance, guidance_scale=4.0)
        assert sampled_with(pipeline, "sr32", settings).guidance == {"name": "none"}
    auto = {"name": "autoguidance", "scale": 4.0, "weak": folder}
    assert sampled_with(pipeline, "sr32", replace(by(folder), guidance_scale=4.0)).guidance == auto
    inside = {**INTERVAL, "guided": auto}
    assert sampled_with(pipeline, "sr32", StageSettings(guidance=inside)).guidance == inside


def test_some_parameters_are_changed_in_what_the_stage_has(pipeline):
    base = pipeline.samplings[0]
    changes = StageSettings(
        sampler={"eta": 0.5}, grid={"log_snr_min": -6.0}, guidance={"scale": 7.0}, threshold={"percentile": 0.5}
    )
    got = sampled_with(pipeline, "tiny8", changes)
    assert got.sampler == {**base.sampler, "eta": 0.5}
    assert got.grid == {**base.grid, "log_snr_min": -6.0}
    assert got.guidance == {**base.guidance, "scale": 7.0}
    assert got.threshold == {"name": "dynamic", "percentile": 0.5}
    whole = StageSettings(sampler={"name": "heun", "s_churn": 3.0}, threshold={"name": "static"}, steps=5)
    got = sampled_with(pipeline, "tiny8", whole)
    assert (got.sampler, got.threshold, got.grid["n"]) == ({"name": "heun", "s_churn": 3.0}, {"name": "static"}, 5)
    with pytest.raises(CascadeError, match="'tiny8': sampler 'ddim' has no parameter 's_churn'"):
        pipeline.plan(settings={"tiny8": StageSettings(sampler={"s_churn": 3.0})})
    with pytest.raises(CascadeError, match="unknown guidance 'intervall'; did you mean 'interval'"):
        StageSettings(guidance={"name": "intervall"})
