"""A distillation halves the steps of a stage, round by round, and its run is a run like the others."""

import shutil
from dataclasses import replace

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from cascade import CascadePipeline, rng
from cascade.artifact import build_denoiser, load_stage, load_stage_config, save_stage
from cascade.commands.command_line import main
from cascade.commands.explain_certificate import certificates
from cascade.commands.explain_levels import noise_levels
from cascade.commands.explain_levels_figure import draw_levels
from cascade.data.procedural import ProceduralDataset
from cascade.diffusion import Condition, diffuse
from cascade.diffusion.distillation import two_step_target
from cascade.sampling import ClassifierFree, StaticThreshold
from stages.distill_assembly import build_stage, described_at, stage_config
from stages.distill_settings import completed
from stages.draws import Draws
from stages.run import train
from tests.stages.equal_runs import check_equal, checkpoint, curve

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]

CLASSES = tuple(ProceduralDataset(8, "train", size=1).class_names)
GRID = {"name": "uniform_log_snr", "log_snr_min": -8.0, "log_snr_max": 8.0, "n": 3}
SMALL = ["stage=distill", "stage.teacher_steps=8", "stage.steps=2", "stage.round_steps=3", "data=procedural"]
SMALL += ["data.size=12", "data.val_size=6", "trainer.batch=4", "trainer.workers=0", "trainer.accelerator=cpu"]
SMALL += ["trainer.precision=fp32", "trainer.log_every=1", "trainer.validate_every=2", "trainer.validation_images=6"]
SMALL += ["trainer.checkpoint_every=2", "trainer.sample_every=3", "trainer.sample_images=2", "name=r"]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory, small_configs):
    """Folders of a base of 8 px, guided at scale 2, and of a super-resolution stage, of the classes of the data."""
    folder = tmp_path_factory.mktemp("teachers")
    for config in small_configs[:2]:
        config = replace(config, class_names=CLASSES)
        state = build_denoiser(config).state_dict()
        weights = {key: 0.1 * rng.randn("teacher", config.name, key, shape=v.shape) for key, v in state.items()}
        save_stage(folder / config.name, replace(config, images_seen=100), weights)
    return folder


def composed(folder, teacher, *words):
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("train", overrides=[*SMALL, f"runs={folder}", f"teacher={teacher}", *words])
    return OmegaConf.to_container(config, resolve=True)


def test_every_round_begins_with_the_last_student_and_ends_as_a_stage(tmp_path, teachers):
    run = train(composed(tmp_path, teachers / "tiny8"), print).folder
    assert run == tmp_path / "r/tiny8"  # it takes its teacher's place, by name
    assert sorted(path.name for path in (run / "students").iterdir()) == ["4"]
    teacher, first, last = (load_stage(folder) for folder in (teachers / "tiny8", run / "students/4", run))
    assert [stage.config.distilled.steps for stage in (first, last)] == [4, 2]
    assert [stage.config.images_seen for stage in (first, last)] == [112, 124]
    for stage, stride in ((first, 2), (last, 4)):
        sampling = stage.config.sampling
        assert sampling.sampler == {"name": "ddim", "eta": 0.0}
        assert sampling.grid == {"name": "strided", "stride": stride, "grid": {**GRID, "n": 8}}
        assert sampling.guidance == {"name": "none"}
        assert stage.config.distilled.guidance == {"name": "classifier_free", "scale": 2.0}
        assert stage.config.distilled.teacher == teacher.sha256
        assert sampling.threshold == teacher.config.sampling.threshold
        assert stage.config.network == teacher.config.network
    # The teacher in the last checkpoint is the student that the first round has exported.
    state = checkpoint(run)["state_dict"]
    kept = {k.removeprefix("teacher."): v for k, v in state.items() if k.startswith("teacher.")}
    assert all(torch.equal(value, kept[key]) for key, value in first.denoiser.state_dict().items())
    assert int(state["round"]) == 1
    rows = curve(run)
    assert [float(row["train/student_steps"]) for row in rows] == [4, 4, 4, 2, 2, 2]
    # Each round's rate falls to 0 from its own beginning, after its own warm-up.
    rates = [float(row["train/lr"]) for row in rows]
    assert rates[:3] == rates[3:]
    assert rates[0] < rates[1]
    assert (run / "samples/00000006.png").is_file()


@pytest.mark.parametrize("name", ["tiny8", "sr16"])
def test_a_step_is_one_against_two_guided_steps_of_the_teacher(tmp_path, teachers, name):
    words = ["guidance=classifier_free", "guidance.scale=3", "threshold=static"] if name == "tiny8" else []
    config = completed(composed(tmp_path, teachers / name, *words, "weighting=v"))
    side = 8 if name == "tiny8" else 16
    dataset = ProceduralDataset(side, "train", size=4)
    stage = build_stage(config, stage_config(config, dataset))
    batch = {"image": rng.randn("pictures", shape=(4, 3, side, side)), "label": torch.tensor([0, 1, 2, 3])}
    batch |= {"low_res": batch["image"][..., ::2, ::2]} if name == "sr16" else {}
    draws = Draws(0, 0, (0, 1, 2, 3), 4)
    loss = stage.training_loss(batch, draws)
    x, condition = stage.examples(batch, draws)
    level = stage.recipe.noise.icdf(draws.stratified("log_snr"))
    grid = torch.linspace(-8, 8, 8, dtype=torch.float64).float()
    assert sorted(level.tolist()) == grid[::2].tolist()  # each of four strata of the four levels
    teacher = load_stage(teachers / name).denoiser
    guided = StaticThreshold(ClassifierFree(teacher, 3.0) if name == "tiny8" else teacher)
    ends = [torch.cat([grid, torch.tensor([torch.inf])])[(level[:, None] - grid).abs().argmin(1) + i] for i in (1, 2)]
    x_t = diffuse(x, draws.normal("eps", tuple(x.shape[1:])), level)
    target = two_step_target(guided, x_t, level, *ends, condition)
    mean = stage.denoiser.eval()(x_t, level, condition).mean
    expected = ((1 + level.exp()) * (target - mean).square().flatten(1).mean(1)).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    assert condition.augment is None


def test_known_pixels_are_what_they_are_in_every_rounds_target(tmp_path, teachers):
    """A teacher that keeps what its mask shows has students that do, and are taught no other values there."""
    config = load_stage_config(teachers / "sr16")
    config = replace(
        config,
        low_resolution=16,
        condition={"name": "mask_half"},
        augmentation={"name": "none"},
        sampling=replace(config.sampling, keep_known=True, aug_log_snr=None),
    )
    save_stage(tmp_path / "fills", config, build_denoiser(config).state_dict())
    config = completed(composed(tmp_path, tmp_path / "fills"))
    stage = build_stage(config, stage_config(config, ProceduralDataset(16, "train", size=4)))
    x, levels = torch.rand(2, 3, 16, 16), [torch.full((2,), level) for level in (-4.0, 0.0, 4.0)]
    known = torch.zeros(2, 1, 16, 16)
    known[..., :8] = 1
    condition = Condition(torch.tensor([0, 1]), torch.cat([known * x, known], 1), torch.full((2,), torch.inf))
    for number in range(2):
        target = two_step_target(stage.course.loss(number, stage.teacher).teacher, x, *levels, condition)
        same = target == x
        assert bool(same[..., :8].all())
        assert not bool(same[..., 8:].any())
    assert stage_config(config, ProceduralDataset(16, "train", size=4)).sampling.keep_known


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["guidance=classifier_free"], "classifier-free guidance needs a class 'none': say guidance=none"),
        (["guidance=interval"], "classifier-free guidance needs a class 'none': say guidance=none"),
        (["stage.label_dropout=0.1"], "a picture without its label needs a class 'none': say stage.label_dropout=0"),
    ],
)
def test_a_teacher_of_classes_only_is_refused_before_its_weights_are_read(tmp_path, teachers, capsys, words, message):
    """What `cascade import adm` makes has no class none: nothing is trained before that is said."""
    config = load_stage_config(teachers / "tiny8")
    sampling = replace(config.sampling, guidance={"name": "none"})
    save_stage(
        tmp_path / "adm",
        replace(config, network={"name": "adm", "channels": 32, "null_label": False}, sampling=sampling),
        {"not": torch.zeros(1), "these": torch.zeros(1)},
    )
    assert main(["train", *SMALL, f"teacher={tmp_path / 'adm'}", f"runs={tmp_path / 'runs'}", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("at", [2, 3, 4])
def test_a_run_stopped_in_a_round_or_between_two_ends_as_an_unbroken_one_bit_for_bit(tmp_path, teachers, at):
    words = ["trainer.checkpoint_every=1", "trainer.validate_every=1", "stage.label_dropout=0.3"]
    train(composed(tmp_path / "a", teachers / "sr16", *words), print)
    assert train(composed(tmp_path / "b", teachers / "sr16", *words, f"trainer.max_steps={at}"), print).step == at
    outcome = train(composed(tmp_path / "b", teachers / "sr16", *words), print)
    assert (outcome.step, outcome.resumed_from) == (6, at)
    runs = [tmp_path / name / "r/sr16" for name in "ab"]
    check_equal(*runs)
    for part in ("students/4/weights.safetensors", "students/4/config.yaml"):
        assert (runs[0] / part).read_bytes() == (runs[1] / part).read_bytes()


def test_an_export_that_was_not_made_is_made_up_for(tmp_path, teachers):
    words = composed(tmp_path, teachers / "tiny8", "trainer.validation_images=0")
    run = train(words, print).folder
    before = (run / "stage/weights.safetensors").read_bytes()
    shutil.rmtree(run / "stage")
    train(words, print)
    assert (run / "stage/weights.safetensors").read_bytes() == before


def test_a_student_has_students(tmp_path, teachers):
    run = train(composed(tmp_path / "first", teachers / "tiny8"), print).folder
    words = ["stage.teacher_steps=4", "stage.steps=1", "stage.round_steps=1"]
    second = train(composed(tmp_path / "second", run / "students/4", *words), print).folder
    config = load_stage_config(second)
    assert config.distilled == replace(load_stage_config(run).distilled, steps=1)
    levels = CascadePipeline([config], [config.sampling], {"tiny8": load_stage(second)}).plan()[0].log_snrs
    assert levels.tolist() == [-8.0, torch.inf]


def test_a_cascade_of_students_samples_as_they_were_distilled_and_in_no_other_way(tmp_path, teachers, capsys):
    runs = []
    for name in ("tiny8", "sr16"):
        runs.append(train(composed(tmp_path, teachers / name), print).folder)
    stages = f"stages=[{runs[0]},{runs[1]}]"
    assert main(["assemble", stages, f"out={tmp_path / 'cascade'}"]) == 0
    pipeline = CascadePipeline.load(tmp_path / "cascade", precision="fp32")
    plan = pipeline.plan()
    assert [stage.steps for stage in plan] == [2, 2]
    images = pipeline.sample(classes=CLASSES[0], seeds=[0, 1])
    assert images.shape == (2, 3, 16, 16)
    # One network call a step: nothing guides it twice.
    stage, calls = load_stage(runs[0]), []
    stage.denoiser.register_forward_pre_hook(lambda module, given: calls.append(given[1][0].item()))
    CascadePipeline([stage.config], [stage.config.sampling], {"tiny8": stage}, precision="fp32").sample(classes=0)
    assert calls == pytest.approx([-8.0, -8 + 16 * 4 / 7])
    capsys.readouterr()
    for words, message in (
        (["guidance_scale=2"], "distilled with classifier_free guidance of scale 2 in it, and cannot be guided"),
        (["tiny8.steps=4"], "distilled to 2 steps of its own, and has no other grid; leave its grid and steps out"),
        (["tiny8.sampler=heun"], "distilled to 2 steps of its own, and has no other sampler; leave its sampler out"),
        (["sr16.sampler.eta=1"], "distilled to 2 steps of its own, and has no other sampler"),
        (["sr16.grid=karras"], "distilled to 2 steps of its own, and has no other grid"),
        (["sr16.truncated=true"], "a truncated stage behind one is of stages that were not"),
        (["tiny8.guidance=interval"], "cannot be guided; leave its guidance out"),
    ):
        assert main(["sample", f"cascade={tmp_path / 'cascade'}", f"out={tmp_path / 'out'}", *words]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    for words in (["guidance_scale=1"], ["tiny8.steps=2"], ["tiny8.sampler=ddim"]):
        settings = [f"cascade={tmp_path / 'cascade'}", f"out={tmp_path / words[0]}", "seeds=0", "precision=fp32"]
        assert main(["sample", *settings, f"classes={CLASSES[0]}", *words]) == 0
    words = ["data=procedural", "metrics=[bits_per_dim]", f"out={tmp_path / 'judged'}"]
    assert main(["evaluate", f"cascade={tmp_path / 'cascade'}", *words]) == 2
    assert "a likelihood is of stages that were not" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs teacher=..."),
        (["teacher=nowhere"], "there is no stage at 'nowhere'"),
        (["teacher={}", "stage.steps=3"], "8 steps cannot be halved to 3"),
        (["teacher={}", "stage.steps=8"], "8 steps cannot be halved to 8"),
        (["teacher={}", "stage.round_steps=0"], "stage.round_steps must be at least 1"),
        (["teacher={}", "trainer.max_steps=7"], "more than the 2 rounds of stage.round_steps=3"),
        (["teacher={}", "trainer.max_steps=0"], "trainer.max_steps must be at least 1"),
        (["teacher={}", "ema=power_pair"], "a distillation is several; say ema=exponential_short"),
        (["teacher={}", "network=adm"], "a student has its teacher's network"),
        (["teacher={}", "debug=fast"], "leave network out (debug=fast chooses one, debug=fast_distill does not)"),
        (["teacher={}", "noise=cosine"], "a student has its teacher's noise"),
        (["teacher={}", "init={}"], "leave init out"),
        (["teacher={}", "weighting=edm"], "weighting.reference is that of 'noise', which there is not"),
        (["teacher={}", "guidance=autoguidance", "guidance.weak=x"], "not by another model; say guidance="),
        (["teacher={}", "stage.crop=9"], "larger than the pictures of 8 px"),
        (["teacher={}", "stage.crop=0"], "stage.crop must be at least 1"),
        (["teacher={}", "stage.label_dropout=2"], "must lie in [0, 1]"),
        (["teacher={}", "stage.resolution=8"], "unknown key 'stage.resolution'"),
        (["teacher={}", "grid=strided", "grid.stride=5"], "grid 'strided'"),
        (["stage=base64", "teacher={}"], "unknown key 'teacher'"),
    ],
)
def test_what_a_distillation_cannot_have_is_told_in_one_line(tmp_path, teachers, capsys, words, message):
    words = [word.replace("{}", str(teachers / "tiny8")) for word in words]
    given = {word.split("=")[0] for word in words}
    settings = [] if "stage=base64" in words else [word for word in SMALL if word.split("=")[0] not in given]
    assert main(["train", *settings, *words, f"runs={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_other_commands_say_that_a_student_has_a_teacher(teachers, capsys):
    assert main(["plan", "stage=distill", f"teacher={teachers / 'tiny8'}"]) == 2
    assert "stage=distill has a teacher" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tiny8", "sr16"])
def test_explained_is_what_the_first_round_trains(tmp_path, teachers, name):
    """Its levels, their weight, and the grid and sampler of its student."""
    config = completed(composed(tmp_path, teachers / name, "weighting=v"))
    described = stage_config(config, ProceduralDataset(8, "train", size=12))
    recipe = build_stage(config, described).recipe
    sides = {"picture": 3, "steps": [4]}
    found = noise_levels({**composed(tmp_path, teachers / name, "weighting=v"), **sides})
    assert found.trained.noise == recipe.noise
    assert torch.equal(found.profile.log_snr, recipe.noise.log_snrs)
    assert torch.equal(found.profile.p, recipe.noise.masses)
    ratio = found.profile.w / found.profile.p
    torch.testing.assert_close(ratio, recipe.weighting.log_ratio(recipe.noise.log_snrs).exp())
    first = described_at(config, described, 1).sampling
    assert found.config["grid"] == first.grid
    assert found.config["sampler"] == first.sampler
    assert found.loss is None, "its target is no picture"
    assert found.config["stage"]["resolution"] == described.resolution
    assert (found.augmentation is None) == (described.low_resolution is None)
    assert draw_levels(found).startswith(b"\x89PNG")
    certified = certificates({**found.trained.config, "steps": [4]}, found.bands, found.data, found.trained.note)
    assert "its teacher's 8 steps" in certified.report()["note"]
    assert [point.steps for point in certified.samplers[0].points] == [4]


def test_what_cannot_be_explained_of_a_student_is_said(tmp_path, teachers, capsys):
    """Halvings that are none, and a teacher with steps of its own."""
    words = ["explain", "stage=distill", f"teacher={teachers / 'tiny8'}", f"out={tmp_path / 'o'}"]
    assert main([*words, "stage.steps=5"]) == 2
    assert "32 steps cannot be halved to 5" in capsys.readouterr().err
    run = train(composed(tmp_path, teachers / "tiny8"), print).folder
    assert main([*words[:2], f"teacher={run}", words[3], "stage.steps=1"]) == 2
    assert "makes 2 steps; say stage.teacher_steps=2" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_other_classes_and_another_first_teacher_are_refused(tmp_path, teachers, small_cascade, capsys):
    words = [*SMALL[:-1], f"runs={tmp_path}", "name=again"]
    assert main(["train", *words, f"teacher={small_cascade / 'tiny8'}"]) == 2
    assert "have different class tables" in capsys.readouterr().err
    run = train(composed(tmp_path, teachers / "tiny8"), print).folder
    assert main(["train", *words, f"teacher={run}"]) == 2
    assert "was distilled to 2 steps; say stage.teacher_steps=2" in capsys.readouterr().err
    assert main(["train", *words, f"teacher={run}", "guidance=none"]) == 2
    assert "was distilled and has its own guidance" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_a_condition_without_a_class_stays_one(tmp_path, teachers):
    config = completed(composed(tmp_path, teachers / "tiny8", "stage.label_dropout=1.0"))
    stage = build_stage(config, stage_config(config, ProceduralDataset(8, "train", size=4)))
    shown = []
    stage.denoiser.register_forward_pre_hook(lambda module, given: shown.append(given[2]))
    batch = {"image": torch.zeros(2, 3, 8, 8), "label": torch.tensor([0, 1])}
    stage.training_loss(batch, Draws(0, 0, (0, 1), 2))
    assert shown[0].label.tolist() == Condition(torch.tensor([0, 1])).null().label.tolist()


@pytest.fixture
def cascade_of_teachers(tmp_path, teachers):
    """A cascade of both teachers, whose `cascade.yaml` says other things of their sampling than they do."""
    stages = f"stages=[{teachers / 'tiny8'},{teachers / 'sr16'}]"
    words = ["tiny8.guidance_scale=3", "tiny8.threshold=none", "tiny8.grid.log_snr_max=6", "sr16.aug_log_snr=4"]
    assert main(["assemble", stages, f"out={tmp_path / 'cascade'}", *words]) == 0
    return tmp_path / "cascade"


def test_a_teacher_in_a_cascade_is_sampled_as_that_says_unless_told(tmp_path, teachers, cascade_of_teachers):
    dataset = ProceduralDataset(8, "train", size=4)

    def student(teacher, *words):
        config = completed(composed(tmp_path, teacher, *words))
        return stage_config(config, dataset)

    alone, within = student(teachers / "tiny8"), student(cascade_of_teachers / "tiny8")
    assert alone.distilled.guidance == {"name": "classifier_free", "scale": 2.0}
    assert within.distilled.guidance == {"name": "classifier_free", "scale": 3.0}
    assert within.sampling.threshold == {"name": "none"}
    assert within.sampling.grid["grid"] == {**GRID, "log_snr_max": 6.0, "n": 8}
    assert alone.distilled.teacher == within.distilled.teacher
    chosen = student(cascade_of_teachers / "tiny8", "guidance=classifier_free", "guidance.scale=5", "threshold=static")
    assert chosen.distilled.guidance["scale"] == 5
    assert chosen.sampling.threshold == {"name": "static"}
    assert student(cascade_of_teachers / "sr16").sampling.aug_log_snr == 4
    assert student(teachers / "sr16").sampling.aug_log_snr == load_stage_config(teachers / "sr16").sampling.aug_log_snr
    # Explained is the same grid.
    found = noise_levels({**composed(tmp_path, cascade_of_teachers / "tiny8"), "picture": 3, "steps": [4]})
    assert found.config["grid"]["grid"] == within.sampling.grid["grid"]


def test_what_a_student_learns_stays_what_it_is_in_its_run(tmp_path, cascade_of_teachers, teachers, capsys):
    """Though `cascade.yaml` says another thing of its teacher when the run goes on, or the command does."""
    run = train(composed(tmp_path, cascade_of_teachers / "tiny8", "trainer.max_steps=1"), print).folder
    words = [f"stages=[{teachers / 'tiny8'},{teachers / 'sr16'}]", f"out={cascade_of_teachers}", "overwrite=true"]
    capsys.readouterr()
    for scale in (2, 3):
        again = ["tiny8.threshold=none", "tiny8.grid.log_snr_max=6", f"tiny8.guidance_scale={scale}"]
        assert main(["assemble", *words, *again]) == 0
        command = ["train", *SMALL, f"runs={tmp_path}", f"teacher={cascade_of_teachers / 'tiny8'}"]
        assert main(command) == (2 if scale == 2 else 0)
        error = capsys.readouterr().err
        assert ("was made with guidance.scale=3.0, not 2.0" in error) == (scale == 2)
    assert main([*command, "threshold=static"]) == 2
    assert "was made with threshold.name=none, not static" in capsys.readouterr().err
    assert load_stage_config(run).distilled.guidance["scale"] == 3
