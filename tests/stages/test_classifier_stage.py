"""A classifier is trained by the cross entropy at random λ, and its run is a run like the others."""

import math

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch import nn

from cascade import rng
from cascade.classifier import load_classifier
from cascade.commands.command_line import main
from cascade.diffusion import CosineSchedule, ScheduleNoise, diffuse
from cascade.diffusion.geometric import AugmentPipe
from cascade.diffusion.noisy_classifier import NoisyClassifier
from cascade.diffusion.schedule import DiscreteBetas
from cascade.diffusion.weighting import UnitWeighting
from stages.classifier_stage import ClassifierStage
from stages.draws import Draws
from stages.run import train
from tests.stages.equal_runs import check_equal, curve

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]

STILL = AugmentPipe(p=0.0)


def logits(weight, x_t, log_snr):
    return (weight * x_t.mean((1, 2, 3)) + log_snr)[:, None] * torch.arange(3)


class Linear(nn.Module):
    """logits_k = (w·mean(x_t) + λ)·k; it remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.shown = []

    def forward(self, x_t, log_snr):
        self.shown.append((x_t.detach(), log_snr))
        return logits(self.weight, x_t, log_snr)


@pytest.fixture
def made(recipe):
    def make(geometric=STILL, **changes) -> ClassifierStage:
        return ClassifierStage(Linear(), recipe(weighting=UnitWeighting(), label_dropout=0.0, **changes), geometric)

    return make


def test_the_loss_is_the_cross_entropy_at_stratified_levels(made, batch, fit):
    stage, pictures = made(), batch(step=3)
    before = stage.denoiser.weight.detach().clone()
    fit(stage, [pictures])
    x_t, log_snr = stage.denoiser.shown[0]
    draws = Draws(7, 3, (0, 1, 2, 3), 4)
    noise = ScheduleNoise(CosineSchedule())
    level = noise.icdf(draws.stratified("log_snr")).double()
    assert torch.equal(log_snr, level)
    u = torch.sigmoid(level)  # one level in each quarter of p(λ)
    quarters = torch.searchsorted(noise.icdf(torch.tensor([0.25, 0.5, 0.75])).sigmoid().double(), u)
    assert sorted(quarters.tolist()) == [0, 1, 2, 3]
    eps = draws.normal("eps", (3, 4, 4)).double()
    assert torch.equal(x_t, diffuse(pictures["image"], eps, level))
    weight = before.clone().requires_grad_()
    loss = -logits(weight, x_t, level).log_softmax(1)[range(4), pictures["label"]].mean()
    (gradient,) = torch.autograd.grad(loss, weight)
    assert torch.allclose(stage.denoiser.weight, before - 0.02 * gradient, atol=1e-7)


def test_pieces_of_a_batch_are_the_batch(made, batch, fit):
    whole, pieces = made(), made()
    fit(whole, [batch()])
    fit(pieces, [batch(indices=range(2)), batch(indices=range(2, 4))], accumulate=2)
    assert torch.allclose(whole.denoiser.weight, pieces.denoiser.weight, atol=1e-12)
    assert torch.allclose(whole.average.weight, pieces.average.weight, atol=1e-12)


def test_pictures_are_moved_and_it_is_not_told(made, batch, fit):
    stage, still = made(AugmentPipe(p=1.0)), made()
    pictures = {k: v.float() if v.is_floating_point() else v for k, v in batch(side=16).items()}
    for each in (stage, still):
        each.training_loss(pictures, Draws(7, 0, (0, 1, 2, 3), 4))
    (moved, level), (kept, same) = stage.denoiser.shown[0], still.denoiser.shown[0]
    assert torch.equal(level, same)
    assert not torch.equal(moved, kept)


def test_validation_is_of_the_average_with_noise_of_the_picture(made, batch):
    stage = made()
    stage.average.weight.data += 1.0
    pictures = batch() | {"log_snr": torch.tensor([-9.0, 0.0, 3.0, 9.0])}
    log_snr, terms = stage.validation_terms(pictures)
    x_t, _ = stage.average.shown[-1]
    eps = Draws(7, -1, (0, 1, 2, 3), 4).normal("eps", (3, 4, 4)).double()
    assert torch.equal(x_t, diffuse(pictures["image"], eps, pictures["log_snr"].double()))
    of = logits(stage.average.weight, x_t, log_snr)
    assert torch.allclose(terms["loss"], -of.log_softmax(1)[range(4), pictures["label"]])
    assert terms["accuracy"].tolist() == [float(a == b) for a, b in zip(of.argmax(1), pictures["label"], strict=True)]
    assert set(terms) == {*stage.WHOLE, *stage.BY_BAND}


def test_a_clock_of_steps_can_count_as_if_there_were_a_thousand():
    ladder = DiscreteBetas("cosine", 250)
    level = ladder.log_snrs[[100]].float()
    clock = lambda x, step: step[:, None]  # noqa: E731
    x = torch.zeros(1, 3, 2, 2)
    assert NoisyClassifier(clock, ladder, rescale=True)(x, level).item() == 400
    assert NoisyClassifier(clock, ladder)(x, level).item() == 100
    assert NoisyClassifier(clock)(x, level).item() == level.item()


SMALL = ["stage=classifier64", "stage.resolution=16", "classifier.channels=32", "classifier.channel_mult=[1,1]"]
SMALL += [
    "classifier.attention=[2]",
    "classifier.head_channels=32",
    "data=procedural",
    "data.size=24",
    "data.val_size=12",
]
SMALL += ["trainer.batch=4", "trainer.workers=0", "trainer.accelerator=cpu", "trainer.precision=fp32", "name=r"]
SMALL += [
    "trainer.log_every=1",
    "trainer.validate_every=2",
    "trainer.validation_images=12",
    "trainer.checkpoint_every=2",
]


def composed(folder, *words):
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("train", overrides=[*SMALL, f"runs={folder}", *words])
    return OmegaConf.to_container(config, resolve=True)


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path):
    """Dropout, moves, optimizer and average are on; the run is stopped after 2 of its 4 steps."""
    moves = ["classifier.dropout=0.2", "geometric=edm", "geometric.p=0.5", "trainer.cooldown_steps=0"]
    assert train(composed(tmp_path / "a", *moves, "trainer.max_steps=4"), print).step == 4
    assert train(composed(tmp_path / "b", *moves, "trainer.max_steps=2"), print).step == 2
    outcome = train(composed(tmp_path / "b", *moves, "trainer.max_steps=4"), print)
    assert (outcome.step, outcome.resumed_from) == (4, 2)
    runs = [tmp_path / name / "r" / "classifier64" for name in "ab"]
    check_equal(*runs)
    last = curve(runs[0])[-1]
    assert {"val/accuracy", "val/loss", "val/accuracy[-2,2]", "val/cross_entropy[2,6]"} <= set(last)
    # Of 12 pictures at levels that stratify p(λ), the whole is the bands' mean.
    bands = [float(v) for k, v in last.items() if k.startswith("val/accuracy[") and v]
    assert min(bands) - 1e-9 <= float(last["val/accuracy"]) <= max(bands) + 1e-9
    stage = load_classifier(runs[0])
    assert (stage.config.images_seen, len(stage.config.class_names), stage.config.betas) == (16, 6, None)
    made = stage.network(rng.randn("x", shape=(2, 3, 16, 16)), torch.zeros(2))
    assert made.shape == (2, 6)


def test_a_run_begins_with_another_classifiers_weights_and_with_no_denoisers(tmp_path, small_cascade, capsys):
    first = train(composed(tmp_path, "trainer.max_steps=1"), print).folder
    again = [*(word for word in SMALL if word != "name=r"), f"runs={tmp_path}", "name=again", "trainer.max_steps=1"]
    assert main(["train", *again, f"init={first}", "trainer.optimizer.lr=1e-9"]) == 0
    second = load_classifier(tmp_path / "again/classifier64")
    assert second.config.images_seen == 8
    state = load_classifier(first).network.state_dict()
    assert all(torch.allclose(value, state[key], atol=1e-6) for key, value in second.network.state_dict().items())
    again[again.index("name=again")] = "name=third"
    assert main(["train", *again, f"init={small_cascade / 'tiny8'}"]) == 2
    assert "is of the diffusion stage 'tiny8', and here belongs a classifier" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stage=classifier64", "guidance=none"], "trains a classifier, which has no guidance"),
        (["stage=classifier64", "network=adm"], "trains a classifier, which has no network"),
        (["stage=classifier64", "debug=fast"], "leave it out (debug=fast chooses one, debug=fast_classifier does not)"),
        (["stage=base64", "classifier=adm"], "trains a denoiser, not a classifier"),
        (["stage=classifier64", "stage.resolution=60"], "size=60 must be a multiple of 8"),
        (["stage=classifier64", "classifier.channels=48"], "no multiple of 32"),
        (["stage=classifier64", "classifier.pool=attenton"], "did you mean 'attention'"),
        (["stage=classifier64", "stage.resolution=0"], "stage.resolution must be at least 1"),
        (["stage=classifier64", "stage.crop=32"], "unknown key 'stage.crop'"),
    ],
)
def test_what_a_classifier_does_not_have_is_told_in_one_line(tmp_path, capsys, words, message):
    assert main(["train", *words, f"runs={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_pictures_without_classes_teach_no_classifier(tmp_path, capsys):
    from cascade.data.cache import write_cache
    from cascade.data.procedural import ProceduralDataset

    class Unlabelled(ProceduralDataset):
        class_names: tuple[str, ...] = ()

        def label(self, i):
            return -1

    sets = {split: Unlabelled(16, split, size=4, val_size=4) for split in ("train", "val")}
    write_cache(sets, tmp_path / "cache")
    words = [word for word in SMALL if not word.startswith("data")]
    words += ["data=cache", f"data.root={tmp_path / 'cache'}", f"runs={tmp_path / 'runs'}", "trainer.max_steps=1"]
    assert main(["train", *words]) == 2
    assert "tells classes apart, and the pictures have none" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["classifier64", "classifier256"])
def test_a_classifier_of_each_shipped_size_takes_a_step(tmp_path, stage):
    words = [f"stage={stage}", "data=procedural", "data.size=4", "data.val_size=2", "trainer.batch=2", "name=r"]
    words += ["trainer.max_steps=1", "trainer.workers=0", "trainer.validation_images=2", f"runs={tmp_path}"]
    assert main(["train", *words, "trainer.accelerator=cpu"]) == 0
    stage = load_classifier(tmp_path / "r" / stage)
    assert math.isclose(sum(p.numel() for p in stage.network.parameters()) / 1e6, 3.6, abs_tol=0.2)
