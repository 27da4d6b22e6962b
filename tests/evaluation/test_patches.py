"""Patches of large pictures: how they are cut, their distances, and a stage beside bicubic upscaling."""

import itertools
import json

import pytest
import torch

from cascade.commands.command_line import main
from cascade.errors import CascadeError
from cascade.evaluation.kernel import kernel_distance, kernel_estimate
from cascade.evaluation.patches import PatchFeatures, cut_patches, patch_distances
from cascade.evaluation.tiny import tiny_features
from cascade.rng import generator, randn
from tests.conftest import small_stage


def pictures(name, count, side):
    return torch.randint(0, 256, (count, 3, side, side), generator=generator(name), dtype=torch.uint8)


def test_patches_tile_the_middle_of_a_picture_row_by_row():
    images = pictures("cut", 2, 14)
    patches = cut_patches(images, 4)
    assert patches.shape == (18, 3, 4, 4)
    inner = images[..., 1:13, 1:13]
    for place, patch in enumerate(patches):
        picture, rest = divmod(place, 9)
        top, left = 4 * (rest // 3), 4 * (rest % 3)
        assert torch.equal(patch, inner[picture, :, top : top + 4, left : left + 4])


def test_features_of_patches_are_those_of_each_patch_and_the_same_places_of_every_picture():
    features, images = tiny_features(batch=4), pictures("features", 3, 16)
    every = PatchFeatures(features, 8)(images)
    assert torch.equal(every, features(cut_patches(images, 8)))
    some = PatchFeatures(features, 8, most=2, seed=1)(images).unflatten(0, (3, 2))
    of_picture = every.unflatten(0, (3, 4))
    assert PatchFeatures(features, 8)(images[:0]).shape == (0, features.dim)
    calls = []
    network = features._network
    features._network = lambda chunk: (calls.append(len(chunk)), network(chunk))[1]
    assert torch.equal(PatchFeatures(features, 8, most=2, seed=1)(images), some.flatten(0, 1))
    assert calls == [4, 4]  # of 3·2 patches, not a call for each picture
    pairs = [pair for pair in itertools.combinations(range(4), 2) if torch.equal(some, of_picture[:, list(pair)])]
    assert len(pairs) == 1


def test_a_picture_smaller_than_a_patch_is_refused():
    with pytest.raises(CascadeError, match="16 px has no patches of 17 px"):
        cut_patches(pictures("small", 1, 16), 17)


def set_kernel(a, b):
    """The kernel of two pictures by its definition, patch by patch."""
    return sum((float(p @ q) / len(p) + 1) ** 3 for p in a for q in b) / (len(a) * len(b))


def u_statistic(x, y, paired):
    """Over pairs of different pictures; where picture i of x was made from picture i of y, these are one picture."""
    n, m = len(x), len(y)
    xx = [set_kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j]
    yy = [set_kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j]
    xy = [set_kernel(x[i], y[j]) for i in range(n) for j in range(m) if not paired or i != j]
    return sum(xx) / len(xx) + sum(yy) / len(yy) - 2 * sum(xy) / len(xy)


@pytest.mark.parametrize("paired", [False, True])
def test_the_kernel_distance_of_patches_leaves_out_pairs_within_a_picture(paired):
    n, m, g = 5, 5 if paired else 6, 3
    x = randn("x", shape=(n * g, 4)).double() + randn("of picture", shape=(n, 1, 4)).expand(n, g, 4).reshape(-1, 4)
    y = 1.1 * randn("y", shape=(m * g, 4)).double() + 0.2
    found = kernel_distance(x, y, seed=0, group=g, paired=paired)
    x, y = x.unflatten(0, (n, g)), y.unflatten(0, (m, g))
    assert found.value == pytest.approx(u_statistic(x, y, paired), rel=1e-10)

    def less(z, i):
        return torch.cat([z[:i], z[i + 1 :]])

    if paired:
        without = [torch.tensor([u_statistic(less(x, i), less(y, i), True) for i in range(n)])]
    else:
        without = [
            torch.tensor([u_statistic(less(x, i), y, False) for i in range(n)]),
            torch.tensor([u_statistic(x, less(y, i), False) for i in range(m)]),
        ]
    variance = sum((len(w) - 1) / len(w) * (w - w.mean()).square().sum() for w in without)
    assert found.standard_error == pytest.approx(variance.sqrt().item(), rel=1e-4)


def test_broken_groups_and_pairs_are_refused():
    x = torch.zeros(12, 2)
    with pytest.raises(CascadeError, match="no whole pictures of 5 patches"):
        kernel_distance(x, x, seed=0, group=5)
    with pytest.raises(CascadeError, match="no pairs"):
        kernel_distance(x, x[:9], seed=0, group=3, paired=True)


def test_blurred_pictures_are_farther_in_patches_and_the_same_ones_are_at_zero():
    from cascade.evaluation.resize import bicubic

    features = PatchFeatures(tiny_features(), 16)
    images = pictures("blur", 40, 32)
    blurred = bicubic(bicubic(images.float(), 8), 32).round().clamp(0, 255).byte()
    real = features(images)
    same = figures_of(real, real, features, pictures=40, seed=0, allow_few_images=True)[0]
    far = figures_of(features(blurred), real, features, pictures=40, seed=0, paired=True, allow_few_images=True)[0]
    assert [figure.name for figure in far] == ["patch-FD-tiny (biased, N<2d)", "patch-KID-tiny"]
    assert (far[0].num_images, far[0].num_reference, far[0].patches) == (40, 40, 4)
    assert abs(same[0].value) < 1e-6 < far[0].value
    assert far[1].value > 5 * far[1].standard_error
    of_pictures = kernel_distance(features(blurred), real, seed=0, group=4, paired=True)
    assert (far[1].value, far[1].standard_error) == of_pictures
    few, left_out = figures_of(real, real, features, pictures=40, seed=0)  # 160 patches, but of 40 pictures
    assert [figure.name for figure in few] == ["patch-KID-tiny"]
    assert "40 pictures (of 4 patches each, which are not independent) are fewer than twice the 32" in left_out[0]


def figures_of(*rows, **how):
    found, left_out = patch_distances(*rows, **how)
    return [one.figure for one in found], left_out


def test_the_error_and_the_bias_of_a_frechet_distance_are_those_over_pictures():
    """Of 60 rows, or of 60 pictures of 8 equal patches, which are no more than 60 rows: the same."""
    d, n = 3, 60
    features = PatchFeatures(tiny_features(), 8)
    features.dim = d
    distances, biases, errors = [], [], []
    for draw in range(120):
        x = randn("x", draw, shape=(n, d)).double()
        y = randn("y", draw, shape=(n, d)).double() + 0.5
        (one, _), _ = patch_distances(x, y, features, pictures=n, seed=0, paired=True)
        distances.append(one.figure.value)
        biases.append(one.figure.details["bias"])
        errors.append(one.figure.standard_error)
        if draw < 3:
            thick = [rows.repeat_interleave(8, 0) for rows in (x, y)]
            (same, _), _ = patch_distances(*thick, features, pictures=n, seed=0, paired=True)
            assert same.figure.value == pytest.approx(one.figure.value, rel=0.02)
            assert same.figure.standard_error == pytest.approx(one.figure.standard_error, rel=0.05)
    mean, spread = torch.tensor(distances).mean().item(), torch.tensor(distances).std().item()
    truth = d * 0.25  # N(0, 1) from N(½, 1) in each dimension
    assert mean - truth > 4 * spread / 120**0.5  # it is biased
    assert mean - torch.tensor(biases).mean().item() == pytest.approx(truth, abs=4 * spread / 120**0.5)
    assert torch.tensor(errors).square().mean().sqrt().item() == pytest.approx(spread, rel=0.25)
    # Pairs that all differ alike lie as far from each other without any of them.
    (pairs, _), _ = patch_distances(x, x + 0.5, features, pictures=n, seed=0, paired=True)
    told = pairs.figure.value, pairs.figure.standard_error, pairs.figure.details["bias"]
    assert told == pytest.approx((truth, 0, 0), abs=1e-6)


def test_a_quotient_has_the_error_of_pictures_that_both_are_of():
    """Over many draws its spread is the error; taken as independent, both errors would make it several times larger."""
    quotients, errors, independent = [], [], []
    for draw in range(60):
        real = 1.5 * randn("real", draw, shape=(30, 1, 3)) + 0.3 * randn("patches", draw, shape=(30, 4, 3))
        ours, theirs = real * 0.6 + 1, real * 0.5 + 1.3
        one, other = (
            kernel_estimate(way.flatten(0, 1), real.flatten(0, 1), group=4, paired=True) for way in (ours, theirs)
        )
        quotient = one.over(other)
        quotients.append(quotient.value)
        errors.append(quotient.standard_error)
        independent.append(
            quotient.value * ((one.standard_error / one.value) ** 2 + (other.standard_error / other.value) ** 2) ** 0.5
        )
    spread = torch.tensor(quotients).std().item()
    assert torch.tensor(errors).square().mean().sqrt().item() == pytest.approx(spread, rel=0.35)
    assert torch.tensor(independent).square().mean().sqrt().item() > 2 * spread


@pytest.fixture(scope="module")
def cascade(make_cascade, tmp_path_factory):
    stages = [small_stage("tiny8", 8, chunk=4, class_names=()), small_stage("sr16", 16, 8, class_names=())]
    return make_cascade(tmp_path_factory.mktemp("upscaling") / "cascade", stages)


def evaluate(cascade, metric, *words):
    given = ["data.size=8", "data.val_size=8", "features=tiny", "threads=1", "allow_few_images=true", *map(str, words)]
    side = [] if any(word.startswith("patches.side") for word in given) else ["patches.side=8"]
    return main(["evaluate", f"cascade={cascade}", f"metrics=[{metric}]", *given, *side])


def named(out):
    return {figure["name"]: figure for figure in json.loads((out / "evaluation.json").read_text())["figures"]}


@pytest.mark.usefixtures("one_thread")
def test_a_stage_is_compared_with_bicubic_on_the_same_photographs(cascade, tmp_path):
    assert evaluate(cascade, "upscaling", f"out={tmp_path}", "upscaling.num_images=6") == 0
    found = named(tmp_path)
    name = "patch-FD-tiny (biased, N<d)"
    ours, theirs = (found[f"{way}: {name}"] for way in ("sr16", "bicubic"))
    assert (ours["num_images"], ours["num_reference"], ours["patches"]) == (6, 6, 4)
    assert all(found[f"sr16 / bicubic: {of}"]["standard_error"] > 0 for of in (name, "patch-KID-tiny"))
    assert found[f"sr16 / bicubic: {name}"]["value"] == pytest.approx(ours["value"] / theirs["value"])
    assert ours["value"] > theirs["value"]  # random weights
    assert found["bicubic: low-res PSNR"]["value"] > 30 > found["sr16: low-res PSNR"]["value"]
    kept = sorted((tmp_path / "upscaled").rglob("*.png"))
    assert len(kept) == 6
    before = (tmp_path / "evaluation.json").read_text(), [file.read_bytes() for file in kept]
    kept[2].unlink()  # it alone is made again, the same bits
    assert evaluate(cascade, "upscaling", f"out={tmp_path}", "upscaling.num_images=6") == 0
    assert before == ((tmp_path / "evaluation.json").read_text(), [file.read_bytes() for file in kept])


@pytest.mark.usefixtures("one_thread")
def test_a_measured_precision_is_kept_with_the_pictures(cascade, tmp_path):
    words = (f"out={tmp_path}", "upscaling.num_images=3")
    assert evaluate(cascade, "upscaling", *words, "precision=bf16") == 0
    before = json.loads((tmp_path / "evaluation.json").read_text())
    assert evaluate(cascade, "upscaling", *words, "precision=auto") == 0
    again = json.loads((tmp_path / "evaluation.json").read_text())
    assert again == {**before, "command": before["command"].replace("precision=bf16", "precision=auto")}


@pytest.mark.usefixtures("one_thread")
def test_patches_of_samples_are_compared_with_those_of_data(cascade, tmp_path):
    assert evaluate(cascade, "patches", f"out={tmp_path}", "num_images=5", "patches.most=10") == 0
    assert json.loads((tmp_path / "evaluation.json").read_text())["patches"]["of each picture"] == 2
    assert named(tmp_path)["patch-KID-tiny"]["resize"] == "patches of 8 px, bilinear_antialias to 32 px"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["stages=1"], "'tiny8' is a base stage and upscales nothing"),
        (["upscaling.num_images=2"], "upscaling.num_images=2 must be at least 3"),
        (["upscaling.split=vall"], "unknown split 'vall'; did you mean 'val'?"),
        (["patches.side=17"], "patches.side=17 is more than the 16 px"),
        (["patches.most=0"], "patches.most=0 must be at least 1"),
    ],
)
def test_what_cannot_be_upscaled_is_said_in_one_line(cascade, words, line, capsys):
    assert evaluate(cascade, "upscaling", *words) == 2
    captured = capsys.readouterr()
    assert line in captured.err
    assert captured.err.count("\n") == 1
