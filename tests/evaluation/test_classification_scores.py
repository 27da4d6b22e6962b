"""The classifier of features is the minimum that it says, and samples that are photographs score as photographs."""

import json
import math

import pytest
import torch
from PIL import Image

from cascade.commands.command_line import main
from cascade.data.procedural import ProceduralDataset
from cascade.errors import CascadeError
from cascade.evaluation.classification import (
    Accuracy,
    LogisticClassifier,
    accuracy,
    choose_strength,
    fit_logistic,
    ratio,
)
from cascade.rng import randn

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2] * 6)
FEATURES = randn("features", shape=(60, 5)) * torch.tensor([1.0, 3.0, 0.1, 1.0, 20.0]) + LABELS[:, None].float()


def objective(classifier, strength: float, weights: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The definition, written apart: each class's mean of −ln p weighs a third."""
    log_probs = (((FEATURES.double() - classifier.mean) / classifier.scale) @ weights + bias).log_softmax(1)
    means = [-log_probs[c == LABELS, c].mean() for c in range(3)]
    return sum(means) / 3 + strength / 2 * weights.square().sum()


@pytest.mark.parametrize("strength", [0.3, 0.01])
def test_it_is_the_minimum_of_the_balanced_cross_entropy(strength):
    fitted = fit_logistic(FEATURES, LABELS, 3, strength)
    weights, bias = fitted.weights.clone().requires_grad_(), fitted.bias.clone().requires_grad_()
    least = objective(fitted, strength, weights, bias)
    for gradient in torch.autograd.grad(least, (weights, bias)):
        assert gradient.abs().max() < 1e-6
    for i in range(5):
        beside = fitted.weights + 0.05 * randn("beside", i, shape=(5, 3)).double()
        assert objective(fitted, strength, beside, fitted.bias) > least


def test_one_feature_of_two_classes_has_a_closed_form():
    """x = ±1, of which 3 in 4 have their sign's class: with s the logit at x = 1, σ(s) = 3/4 − strength·s/2."""
    x = torch.tensor([1.0, 1, 1, -1, -1, -1, -1, 1])[:, None]
    labels = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0])
    fitted = fit_logistic(x, labels, 2, strength=0.2)
    gap = fitted(torch.tensor([[1.0]])).diff(dim=1).item()
    # W = (−s/2, s/2), so strength/2·‖W‖² = strength·s²/4.
    assert torch.sigmoid(torch.tensor(gap, dtype=torch.float64)).item() == pytest.approx(0.75 - 0.2 * gap / 2, abs=1e-6)


def test_units_of_the_features_copies_of_pictures_and_the_order_of_classes_do_not_matter():
    logits = fit_logistic(FEATURES, LABELS, 3, 0.03)(FEATURES)
    moved = 7 * FEATURES.double() - 3
    assert torch.allclose(fit_logistic(moved, LABELS, 3, 0.03)(moved), logits, atol=1e-5)
    twice = fit_logistic(FEATURES.repeat(2, 1), LABELS.repeat(2), 3, 0.03)
    assert torch.allclose(twice(FEATURES), logits, atol=1e-5)
    order = torch.tensor([2, 0, 1])
    assert torch.allclose(fit_logistic(FEATURES, order[LABELS], 3, 0.03)(FEATURES)[:, order], logits, atol=1e-5)


def test_a_class_whose_pictures_come_twice_weighs_as_before():
    """Class 0 has the others' mean and variance here, so that more of it leaves the features' scale as it was."""
    first, features = LABELS == 0, FEATURES.double()
    own, others = features[first], features[~first]
    features[first] = (own - own.mean(0)) * (others.std(0, correction=0) / own.std(0, correction=0)) + others.mean(0)
    more = torch.cat([torch.arange(60), torch.nonzero(first)[:, 0]])
    twice = fit_logistic(features[more], LABELS[more], 3, 0.03)
    assert torch.allclose(twice(features), fit_logistic(features, LABELS, 3, 0.03)(features), atol=1e-5)


def test_features_that_say_nothing_leave_every_class_as_likely():
    """Though half of the pictures are of class 0: what a class is in the world is not what is asked."""
    fitted = fit_logistic(torch.ones(60, 2), LABELS, 3, 0.1)
    assert torch.allclose(
        fitted(torch.ones(1, 2)).softmax(1), torch.full((1, 3), 1 / 3, dtype=torch.float64), atol=1e-6
    )


def test_cross_validation_shrinks_noise_and_trusts_what_is_plain():
    strengths = (3.0, 0.1, 0.003)
    noise = randn("noise", shape=(60, 30))
    assert choose_strength(noise, LABELS, 3, seed=0, strengths=strengths) == 3.0
    plain = torch.nn.functional.one_hot(LABELS, 3).float() + 0.01 * noise[:, :3]
    assert choose_strength(plain, LABELS, 3, seed=0, strengths=strengths) == 0.003
    for folds in (1, 61):
        with pytest.raises(CascadeError, match="cannot be cut"):
            choose_strength(noise, LABELS, 3, seed=0, folds=folds)


def test_the_errors_are_those_of_binomial_counts():
    """Against the exact variance of a binomial share, and the ratio's against its derivatives."""
    exact = sum(math.comb(20, k) * 0.3**k * 0.7 ** (20 - k) * (k / 20 - 0.3) ** 2 for k in range(21))
    assert Accuracy(6, 20).standard_error == pytest.approx(math.sqrt(exact))
    one, other = Accuracy(60, 80), Accuracy(45, 50)
    p, q = one.value, other.value
    error = math.hypot(one.standard_error / q, p / q**2 * other.standard_error)
    assert ratio(one, other) == (pytest.approx(p / q), pytest.approx(error))
    assert ratio(Accuracy(0, 9), other) == (0.0, 0.0)
    with pytest.raises(CascadeError, match="never right"):
        ratio(one, Accuracy(0, 9))


def test_the_likeliest_class_is_the_answer():
    one = torch.ones(2, dtype=torch.float64)
    largest = LogisticClassifier(torch.eye(2, dtype=torch.float64), 0 * one, 0 * one, one)
    features = torch.tensor([[3.0, 1.0], [1.0, 3.0], [-1.0, 0.0]])
    assert accuracy(largest, features, torch.tensor([0, 0, 1])) == Accuracy(2, 3)


@pytest.mark.parametrize(("features", "labels", "strength"), [(0, 0, 1.0), (3, 2, 1.0), (3, 3, 0.0), (3, 3, math.inf)])
def test_what_teaches_nothing_is_refused(features, labels, strength):
    with pytest.raises(CascadeError):
        fit_logistic(torch.zeros(features, 2), torch.zeros(labels, dtype=torch.long), 2, strength)


DATA = ["data=procedural", "data.size=48", "data.val_size=36", "features=tiny", "threads=1"]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """The photographs of train themselves, as CLASS/NUMBER.png; and in `wrong` each in the next class's folder."""
    root, data = tmp_path_factory.mktemp("samples"), ProceduralDataset(16, "train", size=48)
    for i in range(48):
        picture = Image.fromarray(data.image(i).permute(1, 2, 0).numpy())
        for kind, label in (("right", data.label(i)), ("wrong", (data.label(i) + 1) % len(data.class_names))):
            file = root / kind / data.class_names[label] / f"{i:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture.save(file)
    return root


def report(out):
    return json.loads((out / "evaluation.json").read_text(encoding="utf-8"))


def test_samples_that_are_the_photographs_score_as_photographs_and_of_wrong_classes_as_nothing(samples, tmp_path):
    for kind in ("right", "wrong"):
        words = ["evaluate", f"images={samples / kind}", "metrics=[cas]", f"out={tmp_path / kind}", *DATA]
        assert main(words) == 0
    right, wrong = ([figure["value"] for figure in report(tmp_path / kind)["figures"]] for kind in ("right", "wrong"))
    names = [figure["name"] for figure in report(tmp_path / "right")["figures"]]
    assert names[0].startswith("CAS:")
    cas, unseen, on_samples, quotient = right
    assert cas == unseen  # the same pictures teach
    assert on_samples >= unseen
    assert quotient == pytest.approx(on_samples / unseen)
    # What teaches the next class is right where the other was wrong in just that way, and never where it was right.
    assert wrong[0] <= 1 - unseen
    assert wrong[1] == unseen
    assert wrong[2] <= 1 - on_samples
    figures = report(tmp_path / "right")["figures"]
    assert all(f["standard_error"] == pytest.approx(math.sqrt(f["value"] * (1 - f["value"]) / n))
               for f, n in zip(figures, (36, 36, 48), strict=False))  # fmt: skip
    cas_report = report(tmp_path / "right")["cas"]
    assert (cas_report["unseen"]["data"]["split"], cas_report["taught"]["count"]) == ("val", 48)


def test_the_figures_are_the_same_each_time(samples, tmp_path):
    for i in range(2):
        words = ["evaluate", f"images={samples / 'right'}", "metrics=[cas]", f"out={tmp_path / str(i)}", *DATA]
        assert main([*words, "cas.num_photographs=30"]) == 0
    assert (tmp_path / "0/evaluation.json").read_bytes() == (tmp_path / "1/evaluation.json").read_bytes()
    assert report(tmp_path / "0")["cas"]["taught"]["count"] == 30


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cas.split=train"], "cas.split=train must be val"),
        (["cas.folds=1"], "cas.folds=1 must be at least 2"),
        (["cas.num_photographs=3"], "must be at least cas.folds"),
        (["reference=REFERENCE"], "not reference="),
    ],
)
def test_what_cannot_be_asked_is_told_in_one_line(samples, capsys, words, message):
    words = [word.replace("REFERENCE", str(samples / "right")) for word in words]
    assert main(["evaluate", f"images={samples / 'right'}", "metrics=[cas]", *DATA, *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_pictures_without_a_class_or_of_another_are_refused(samples, tmp_path, capsys):
    first = sorted((samples / "right").rglob("*.png"))[:4]
    for folder, message in (("", "need"), ("cat", "of which no photograph teaches")):
        root = tmp_path / f"pictures{folder}"
        (root / folder).mkdir(parents=True)
        for file in first:
            (root / folder / file.name).write_bytes(file.read_bytes())
        assert main(["evaluate", f"images={root}", "metrics=[cas]", *DATA]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
