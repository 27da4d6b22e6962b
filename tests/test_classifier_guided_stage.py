"""Guidance by a classifier as it is chosen: at any stage, in both forms, by a folder that is none of a stage's."""

import json
import math
from dataclasses import replace

import pytest
import torch
import yaml

from cascade import CascadePipeline
from cascade.artifact import Stage, StageSampling, load_cascade_config, load_stage, load_stage_config, save_stage
from cascade.classifier import Classifier, ClassifierConfig, build_classifier, load_classifier, load_classifier_config
from cascade.commands.command_line import main
from cascade.commands.tune_points import TUNABLE
from cascade.diffusion.oracle import MixtureDenoiser
from cascade.errors import CascadeError
from cascade.rng import ImageNoise, randn
from cascade.sampling import DDIM, Ancestral, ClassifierGuidance, LabelLogProb, Unconditional
from cascade.stage_sampler import StageSampler
from cascade.stage_settings import StageSettings

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ("dress", "hat", "shoe")


@pytest.fixture(scope="module")
def pipeline(small_cascade):
    pipeline = CascadePipeline.load(small_cascade)
    pipeline.threads = 1
    return pipeline


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """classifier(side, class_names): the folder of a classifier with random weights that are not small."""

    def save(side: int = 8, class_names: tuple[str, ...] = CLASSES) -> str:
        config = ClassifierConfig(
            name=f"classifier{side}",
            resolution=side,
            class_names=class_names,
            network={"name": "adm", "channels": 32, "channel_mult": [1], "blocks": 1, "attention": [1]}
            | {"head_channels": 16, "patch": 2},
        )
        folder = tmp_path_factory.mktemp("classifiers") / config.name
        state = build_classifier(config).state_dict()
        save_stage(
            folder, config, {key: 0.3 * randn("weights", key, shape=value.shape) for key, value in state.items()}
        )
        return str(folder)

    return save


def by(folder: str, scale: float = 30.0, **changes) -> StageSettings:
    return StageSettings(guidance={"name": "classifier", "classifier": folder, "scale": scale, **changes})


def around(folder: str, inner: float, scale: float = 30.0) -> StageSettings:
    guided = {"name": "classifier_free", "scale": inner}
    guidance = {"name": "classifier_around", "classifier": folder, "classifier_scale": scale, "guided": guided}
    return StageSettings(guidance=guidance)


def shifted(folder: str, scale: float, variance: str = "small") -> StageSettings:
    sampler = {"name": "classifier_ancestral", "classifier": folder, "scale": scale, "variance": variance}
    return StageSettings(sampler=sampler, guidance="none")


def sampled(pipeline, settings, classes=(0, 1), seeds=(3, 4), stage="tiny8"):
    return pipeline.sample(list(classes), list(seeds), stages=1, settings={stage: settings})


def test_scale_0_is_the_unguided_stage_bit_for_bit(pipeline, classifier):
    folder = classifier()
    plain = sampled(pipeline, StageSettings(guidance="none"))
    assert torch.equal(sampled(pipeline, by(folder, 0.0)), plain)
    assert not torch.equal(sampled(pipeline, by(folder)), plain)
    ancestral = sampled(pipeline, StageSettings(guidance="none", sampler="ancestral"))
    assert torch.equal(sampled(pipeline, shifted(folder, 0.0)), ancestral)
    assert not torch.equal(sampled(pipeline, shifted(folder, 30.0)), ancestral)


@pytest.mark.parametrize("form", [by, shifted])
def test_the_bits_do_not_depend_on_the_other_pictures(pipeline, classifier, form):
    """Five pictures in chunks of four, the last one padded; each alone; and in another order."""
    settings = form(classifier(), 30.0)
    classes, seeds = [0, 1, 2, 0, 1], [3, 4, 5, 6, 7]
    together = sampled(pipeline, settings, classes, seeds)
    alone = [sampled(pipeline, settings, [label], [seed])[0] for label, seed in zip(classes, seeds, strict=True)]
    assert torch.equal(together, torch.stack(alone))
    assert torch.equal(sampled(pipeline, settings, classes[::-1], seeds[::-1]), together.flip(0))


class Oracle(torch.nn.Module):
    """An exact denoiser where a stage has a network."""

    def __init__(self, oracle: MixtureDenoiser) -> None:
        super().__init__()
        self.oracle, self.log_class = oracle, oracle.log_class

    def forward(self, x_t, log_snr, condition):
        return self.oracle(x_t, log_snr, condition)


@pytest.fixture(scope="module")
def exact(small_configs):
    """exact(guidance, sampler, known): a stage of three Gaussian classes, whose classifier is the exact one."""
    root = 0.3 * randn("root", shape=(3, 12, 12)).double()
    covariances = root @ root.mT + 0.05 * torch.eye(12)
    oracle = Oracle(MixtureDenoiser(torch.ones(3), 0.6 * randn("means", shape=(3, 12)).double(), covariances))

    def make(guidance=None, sampler=None, known: bool = True) -> StageSampler:
        """`known`: the stage knows the classes."""
        config = replace(small_configs[0], resolution=2, class_names=CLASSES if known else ())
        read = ClassifierConfig("exact", 2, {"name": "adm"}, CLASSES)
        guide = Classifier(read, oracle.log_class, folder=None, sha256="")
        sampling = StageSampling(
            sampler=sampler or {"name": "ddim", "eta": 0.5},
            grid={"name": "uniform_log_snr", "log_snr_min": -8.0, "log_snr_max": 8.0, "n": 24},
            guidance=guidance or {"name": "none"},
            network_batch=3,
        )
        stage = Stage(config, oracle, folder=None, sha256="")
        load = lambda kind, folder, device: guide  # noqa: E731
        return StageSampler.prepare(stage, sampling, torch.device("cpu"), "fp32", until=4.0, load=load)

    return make


REQUESTS = [(0, 5), (2, 6)]


@pytest.mark.parametrize("known", [True, False], ids=["labelled", "unlabelled"])
def test_the_exact_classifier_makes_the_unconditional_stage_the_exact_conditional_one(exact, known):
    """At scale 1, through the config of a stage that knows the classes and is not told, or of one that knows none."""
    guidance = {"name": "classifier", "classifier": "there", "scale": 1.0, "conditional": False}
    got = exact(guidance, known=known).run(REQUESTS, None)
    want = exact().run(REQUESTS, None)
    assert (got - want).abs().max() < 2e-5
    free = exact({"name": "classifier_free", "scale": 0.0}).run(REQUESTS, None)
    assert (free - want).abs().max() > 0.1


@pytest.mark.parametrize("conditional", [True, False])
def test_the_config_is_the_wrapper_around_what_it_says(exact, conditional):
    guided = exact({"name": "classifier", "classifier": "there", "scale": 2.5, "conditional": conditional})
    oracle, noise = guided.stage.denoiser, ImageNoise([5, 6, 6], "tiny8", (3, 2, 2))
    wrapped = ClassifierGuidance(oracle if conditional else Unconditional(oracle), LabelLogProb(oracle.log_class), 2.5)
    condition = guided._condition([*REQUESTS, REQUESTS[-1]], None)
    start = torch.sigmoid(-guided.log_snrs[0]).sqrt().item() * noise(-1)
    threshold = replace(guided.denoiser, denoiser=wrapped)
    assert torch.equal(guided.run(REQUESTS, None), DDIM(0.5)(threshold, start, guided.log_snrs, condition, noise)[:2])


def test_the_mean_shift_form_nears_the_exact_conditional_stage(exact):
    """Its variance is that of short steps: the gap to ancestral sampling of the conditional stage is of first order."""
    sampler = {"name": "classifier_ancestral", "classifier": "there", "scale": 1.0, "variance": "large"}
    unconditional = {"name": "classifier_free", "scale": 0.0}
    ancestral = {"name": "ancestral", "variance": "large"}
    want = exact(sampler=ancestral).run(REQUESTS, None)
    got = exact(unconditional, sampler).run(REQUESTS, None)
    free = exact(unconditional, ancestral).run(REQUESTS, None)
    assert (got - want).norm() < 0.25 * (free - want).norm()
    built = exact(unconditional, sampler).sampler
    assert (built.scale, built.variance, isinstance(built, Ancestral)) == (1.0, "large", False)


def test_an_unlabelled_stage_takes_its_classes_from_the_classifier(small_configs, make_cascade, classifier, tmp_path):
    """In Python and on the command line, by the settings of a call and by what the cascade says."""
    base = replace(small_configs[0], class_names=())
    pipeline = CascadePipeline.load(make_cascade(tmp_path / "plain", [base]))
    assert pipeline.class_names == ()
    folder = classifier()
    guided = sampled(pipeline, by(folder), [0, 1], [3, 3])
    assert not torch.equal(*guided)
    assert torch.equal(*sampled(pipeline, by(folder, 0.0), [0, 1], [3, 3]))
    image = next(pipeline.iterate("hat", 3, settings={"tiny8": by(folder)}))
    assert (image.label, image.class_name) == (1, "hat")
    words = ["tiny8.guidance=classifier", f"tiny8.guidance.classifier={folder}", "tiny8.guidance.scale=30"]
    assert main(["assemble", f"stages={tmp_path / 'plain/tiny8'}", f"out={tmp_path / 'cascade'}", *words]) == 0
    assembled = CascadePipeline.load(tmp_path / "cascade")
    assert assembled.class_names == CLASSES
    assert torch.equal(assembled.sample(["dress", "hat"], 3), guided)
    for cascade, extra in (("plain", words), ("cascade", [])):
        out = tmp_path / f"out-{cascade}"
        assert main(["sample", f"cascade={tmp_path / cascade}", f"out={out}", "seeds=3", *extra]) == 0
        assert {path.parent.name for path in out.glob("*/3.png")} == set(CLASSES)


def test_super_resolution_stages_are_guided_too(pipeline, classifier):
    plain = next(pipeline.iterate(0, 3, stage_images=True)).stage_images
    settings = {"sr16": by(classifier(16)), "sr32": by(classifier(32))}
    guided = next(pipeline.iterate(0, 3, settings=settings, stage_images=True)).stage_images
    assert torch.equal(guided["tiny8"], plain["tiny8"])
    assert not torch.equal(guided["sr16"], plain["sr16"])
    (unlabelled,) = (plan for plan in pipeline.plan(settings=settings) if plan.name == "sr32")
    assert unlabelled.class_names == CLASSES


def test_a_classifier_that_does_not_fit_is_refused_by_name(pipeline, classifier, small_cascade):
    other = classifier(32, ("hat", "dress", "shoe"))
    for stage, folder, message in (
        ("tiny8", classifier(16), "'tiny8': the classifier 'classifier16' is of 16 px, not 8 px"),
        ("tiny8", classifier(8, ("hat", "dress", "shoe")), "the classifier 'classifier8' has another class table"),
        ("sr32", other, "stage 'sr32': its classifier has another class table than stage 'tiny8'"),
        ("tiny8", str(small_cascade / "tiny8"), "of the diffusion stage 'tiny8', and here belongs a classifier"),
        ("tiny8", "nowhere", "'tiny8': there is no stage at 'nowhere'"),
    ):
        for settings in (by(folder), shifted(folder, 1.0)):
            with pytest.raises(CascadeError) as error:
                pipeline.plan(settings={stage: settings})
            assert message in str(error.value)
            assert "\n" not in str(error.value)


def test_a_classifier_is_no_stage(pipeline, classifier, small_cascade, tmp_path, capsys):
    folder, message = classifier(), "is of the classifier 'classifier8', and here belongs a diffusion stage"
    for read in (load_stage, load_stage_config):
        with pytest.raises(CascadeError, match=message):
            read(folder)
    weak = StageSettings(guidance={"name": "autoguidance", "weak": folder, "scale": 2.0})
    with pytest.raises(CascadeError, match=message):
        pipeline.plan(settings={"tiny8": weak})
    assert main(["assemble", f"stages=[{folder}]", f"out={tmp_path / 'no'}"]) == 2
    assert message in capsys.readouterr().err
    with pytest.raises(CascadeError, match="is of the diffusion stage 'sr16', and here belongs a classifier"):
        load_classifier_config(small_cascade / "sr16")


def test_a_missing_kind_is_diffusion_and_an_unknown_one_is_refused(small_cascade, tmp_path):
    mapping = yaml.safe_load((small_cascade / "tiny8/config.yaml").read_text())
    assert "kind" not in mapping
    for kind in ("diffusion", "difusion"):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({**mapping, "kind": kind}))
        if kind == "diffusion":
            assert load_stage_config(tmp_path) == load_stage_config(small_cascade / "tiny8")
        else:
            with pytest.raises(CascadeError, match="unknown kind 'difusion'; did you mean 'diffusion'"):
                load_stage_config(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ["hat"]}, "needs 2, not 1"),
        ({"class_names": ["hat", "hat"]}, "occurs twice"),
        ({"resolution": 0}, "at least 1"),
        ({"name": "../x"}, "cannot be"),
        ({"betas": 3}, "'betas' must be dict or null"),
        ({"schema": 2}, "schema 2 is not 1"),
        ({"sampling": {}}, "unknown key 'sampling'"),
    ],
)
def test_what_is_no_classifiers_config_is_told_in_one_line(classifier, tmp_path, changes, message):
    mapping = load_classifier_config(classifier()).to_mapping()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**mapping, **changes}))
    with pytest.raises(CascadeError, match=message):
        load_classifier_config(tmp_path)


def test_a_damaged_classifier_is_refused(classifier):
    folder = load_classifier(classifier()).folder
    (folder / "weights.safetensors").write_bytes(b"")
    with pytest.raises(CascadeError, match=r"is damaged: weights\.safetensors does not match"):
        load_classifier(folder)


def test_the_record_names_a_classifier_by_its_weights(pipeline, classifier):
    folder = classifier()
    sha256 = load_classifier(folder).sha256
    record = pipeline.plan(stages=1, settings={"tiny8": by(folder)})[0].record()
    assert record["guidance"] == {"name": "classifier", "scale": 30.0, "classifier": sha256, "conditional": True}
    record = pipeline.plan(stages=1, settings={"tiny8": shifted(folder, 2.0)})[0].record()
    sampler = {"name": "classifier_ancestral", "classifier": sha256, "scale": 2.0, "variance": "small"}
    assert record["sampler"] == sampler
    inside = {"name": "interval", "lo": -math.inf, "hi": math.inf, "guided": by(folder).guidance}
    plan = pipeline.plan(stages=1, settings={"tiny8": StageSettings(guidance=inside)})
    assert plan[0].record()["guidance"]["guided"]["classifier"] == sha256
    assert torch.equal(sampled(pipeline, StageSettings(guidance=inside)), sampled(pipeline, by(folder)))


def test_a_classifier_runs_in_bf16_where_the_stage_does(small_cascade, pipeline, classifier):
    half = CascadePipeline.load(small_cascade, precision="bf16", only=["tiny8"])
    half.threads = 1
    folder = classifier()
    images = [sampled(p, by(folder)).float() for p in (half, pipeline)]
    assert 0 < (images[0] - images[1]).abs().mean() < 8


def test_an_assembled_cascade_keeps_its_classifier_and_moves_with_it(small_cascade, classifier, tmp_path, capsys):
    stages, folder = f"stages=[{small_cascade / 'tiny8'},{small_cascade / 'sr16'}]", classifier()
    words = ["tiny8.guidance=interval_classifier", f"tiny8.guidance.guided.classifier={folder}"]
    words += ["tiny8.guidance.guided.scale=30", "sr16.sampler=classifier_ancestral"]
    words += [f"sr16.sampler.classifier={classifier(16)}", "sr16.sampler.scale=2"]
    out = tmp_path / "cascade"
    assert main(["assemble", stages, f"out={out}", *words]) == 0
    stored = load_cascade_config(out).stages
    assert stored[0][1].guidance["guided"]["classifier"] == "tiny8_classifier"
    assert stored[1][1].sampler["classifier"] == "sr16_classifier"
    kept = {"cascade.yaml", "tiny8", "sr16", "tiny8_classifier", "sr16_classifier"}
    assert {path.name for path in out.iterdir()} == kept
    assert main(["assemble", stages, f"out={out}", *words]) == 0
    assert "is there already" in capsys.readouterr().out
    pictures = CascadePipeline.load(out).sample(1, 7)
    moved = out.rename(tmp_path / "moved")
    assert torch.equal(CascadePipeline.load(moved).sample(1, 7), pictures)
    # Guidance and sampler of a stage share one classifier.
    two = ["tiny8.guidance=classifier", f"tiny8.guidance.classifier={folder}", "tiny8.sampler=classifier_ancestral"]
    assert main(["assemble", stages, f"out={tmp_path / 'no'}", *two, f"tiny8.sampler.classifier={classifier()}"]) == 2
    assert "its guidance and sampler share one" in capsys.readouterr().err
    assert main(["assemble", stages, f"out={tmp_path / 'one'}", *two, f"tiny8.sampler.classifier={folder}"]) == 0
    assert main(["assemble", stages, f"out={tmp_path / 'no'}", *two]) == 2
    assert "tiny8.sampler=classifier_ancestral needs tiny8.sampler.classifier=" in capsys.readouterr().err


def test_around_another_guidance_the_scale_is_the_inner_one_and_the_classifier_stays(pipeline, classifier):
    folder = classifier()
    (plan,) = pipeline.plan(guidance_scale=1.0, stages=1, settings={"tiny8": around(folder, 4.0)})
    assert plan.sampling.guidance == around(folder, 1.0).guidance
    assert TUNABLE["guidance_scale"].present(replace(plan.sampling, guidance=around(folder, 4.0).guidance)) == 4.0
    guided = sampled(pipeline, around(folder, 1.0))
    assert torch.equal(guided, sampled(pipeline, by(folder))), "at 1 the classifier alone is left"
    assert not torch.equal(guided, sampled(pipeline, around(folder, 4.0)))
    free = StageSettings(guidance={"name": "classifier_free", "scale": 4.0})
    assert torch.equal(sampled(pipeline, around(folder, 4.0, scale=0.0)), sampled(pipeline, free))


def test_a_classifier_around_goes_along_from_cascade_to_cascade(small_cascade, classifier, tmp_path):
    """A stage of a cascade is sampled, and guided, in the next one as in the first; the manifest names the weights."""
    folder, first, second = classifier(), tmp_path / "first", tmp_path / "second"
    words = ["tiny8.guidance=classifier_around", f"tiny8.guidance.classifier={folder}", "tiny8.guidance_scale=3"]
    assert main(["assemble", f"stages=[{small_cascade / 'tiny8'}]", f"out={first}", *words]) == 0
    assert main(["assemble", f"stages=[{first / 'tiny8'}]", f"out={second}"]) == 0
    ((_, sampling),) = load_cascade_config(second).stages
    assert load_cascade_config(first).stages[0][1] == sampling
    assert sampling.guidance == around("tiny8_classifier", 3.0, scale=8.0).guidance
    out = tmp_path / "samples"
    assert main(["sample", f"cascade={second}", f"out={out}", "classes=[0]", "seeds=3", "guidance_scale=1"]) == 0
    (line,) = (json.loads(row) for row in (out / "manifest.jsonl").read_text().splitlines())
    assert line["stages"][0]["guidance"] == around(load_classifier(folder).sha256, 1.0, scale=8.0).guidance
