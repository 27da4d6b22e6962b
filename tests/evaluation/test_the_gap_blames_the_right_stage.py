"""The gap of a cascade whose stages are exact, until one of them is spoilt on purpose.

The pictures are slopes of colour, which bicubic upscaling continues exactly: so it is a perfect stage, and whatever a
stage does beside it is its own fault.
"""

import itertools
import json

import pytest
import torch
from PIL import Image

from cascade.commands.command_line import main
from cascade.errors import CascadeError
from cascade.evaluation.gap import NOTHING, StageGap, blame
from cascade.evaluation.jackknife import Estimate
from cascade.evaluation.kernel import kernel_distance, kernel_estimate, kernel_spread
from cascade.evaluation.resize import bicubic
from cascade.rng import randn
from cascade.stage_sampler import StageSampler

COUNT = 40
CALM = "No stage loses more than twice the error"


def slope(side, *names):
    """A picture (3, side, side) of a colour that rises linearly, in levels; the same one at every size."""
    colour, right, down = (
        127
        + 30 * randn(*names, shape=(3, 3)).clamp(-2, 2)[..., None, None]
        - torch.tensor([0.0, 127.0, 127.0]).reshape(3, 1, 1, 1)
    )
    at = (torch.arange(side) + 0.5) / side - 0.5
    return colour + 2 * (right * at + down * at[:, None])


def exact(low, side, seeds):
    return torch.stack([slope(side, "drawn", seed) for seed in seeds]) if low is None else bicubic(low.float(), side)


def broken(low, side, seeds):
    """Weights that are not those of the training: its pictures carry a texture."""
    return exact(low, side, seeds) + torch.stack([80 * randn("broken", seed, shape=(3, side, side)) for seed in seeds])


def reddened(low, side, seeds):
    return exact(low, side, seeds) + torch.tensor([40.0, 0.0, 0.0]).reshape(3, 1, 1)


def deaf(low, side, seeds):
    """A level so noisy that nothing is seen of the low-res picture: fine pictures, but of something else."""
    return torch.stack([slope(side, "deaf", seed) for seed in seeds])


def faulty(low, side, seeds):
    """A base whose pictures have a faint chequered pattern."""
    board = (torch.arange(side)[:, None] + torch.arange(side)) % 2 * 2.0 - 1
    return exact(low, side, seeds) + 6 * board


def trusting(low, side, seeds):
    """No augmentation: what is not smooth in the low-res picture is taken for detail, and brought out."""
    rough = low.float() - bicubic(torch.nn.functional.avg_pool2d(low.float(), 2), low.shape[-1])
    inside = torch.zeros_like(rough)
    inside[..., 2:-2, 2:-2] = rough[..., 2:-2, 2:-2]  # at the border even slopes are rough
    return bicubic(low.float() + 60 * inside, side)


@pytest.fixture
def stages(monkeypatch):
    """What each stage does, by its name, where it is not exact."""
    doing = {}

    def run(self, requests, low_res, on_step=None):
        do, side = doing.get(self.name, exact), self.stage.config.resolution
        return do(low_res, side, [seed for _, seed in requests]).round().clamp(0, 255).byte()

    monkeypatch.setattr(StageSampler, "run", run)
    return doing


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for split, i in itertools.product(("train", "val"), range(COUNT)):
        (root / split).mkdir(exist_ok=True)
        pixels = slope(32, split, i).round().clamp(0, 255).byte().permute(1, 2, 0).contiguous()
        Image.fromarray(pixels.numpy()).save(root / split / f"{i:02}.png")
    return root


DEFAULTS = {
    "report": "gap", "data": "folder", "features": "tiny", "threads": 1, "precision": "fp32",
    "gap.num_images": COUNT, "patches.side": 8,
}  # fmt: skip


def evaluate(cascade, photographs, *words):
    given = DEFAULTS | {"cascade": cascade, "data.root": photographs} | dict(str(word).split("=") for word in words)
    return main(["evaluate", *(f"{key}={value}" for key, value in given.items())])


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("doing", "sentence"),
    [
        ({}, CALM),
        ({"tiny8": broken}, "tiny8 loses most"),
        ({"sr32": broken}, "sr32 loses most"),
        ({"tiny8": reddened}, "tiny8 loses most"),
        ({"sr16": reddened}, "sr16 loses most"),
        ({"sr32": deaf}, "sr32 loses most"),
        ({"tiny8": faulty, "sr16": trusting}, "sr16 loses most"),
    ],
)
def test_the_stage_that_is_spoilt_is_named(doing, sentence, stages, small_cascade, photographs, capsys):
    stages.update(doing)
    assert evaluate(small_cascade, photographs) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(sentence), said
    assert "not below it" not in said, said


@pytest.mark.usefixtures("one_thread")
def test_table_picture_and_report_are_there_and_nothing_is_made_twice(
    stages, small_cascade, photographs, tmp_path, monkeypatch, capsys
):
    stages["sr16"] = reddened
    words = (small_cascade, photographs, f"out={tmp_path}", "stages=2", "patches.side=128")
    assert evaluate(*words) == 0
    printed = capsys.readouterr().out
    for heading in ("real against real", "from real low-res", "chained", "low-res RMS", "KID-tiny"):
        assert heading in printed
    report = json.loads((tmp_path / "evaluation.json").read_text())
    found = report["gap"]
    assert found["stage"] == "sr16"
    assert found["sentence"] in printed
    base, sr = found["stages"]
    assert (base["stage"], base["of"], base["real"], base["amplified"]["value"]) == ("tiny8", "pictures", None, 0)
    assert sr["loss"]["value"] > 2 * sr["loss"]["standard_error"] > 0
    assert set(sr["figures"]) == {"floor", "real", "chained"}
    shift = {
        kind: {f["name"]: f["value"] for f in sr["figures"][kind]}.get("colour shift red") for kind in sr["figures"]
    }
    assert shift["floor"] is None
    assert shift["real"] == pytest.approx(40, abs=1)
    # Two real low-res pictures differ by twice the variance of one, and the stage's by 40 in one of three colours.
    variance = torch.stack([slope(8, "val", i) for i in range(COUNT)]).var(0).mean()
    assert sr["departs"]["value"] == pytest.approx(float(40**2 / 3 / (2 * variance)), rel=0.02)
    with Image.open(tmp_path / "gap.png") as image:
        assert (image.width, image.text["Software"]) == (1200, "cascade")
    monkeypatch.setattr(StageSampler, "run", None)
    assert evaluate(*words) == 0
    assert json.loads((tmp_path / "evaluation.json").read_text()) == report


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["report=gaps"], "unknown report 'gaps'; did you mean 'gap'?"),
        (["gap.split=vall"], "unknown split 'vall'; did you mean 'val'?"),
        (["gap.num_images=2"], "gap.num_images=2 must be at least 3"),
        (["reference=."], "give data=..., not reference="),
        (["data.split=all"], "gap.split=val and data.split=all share photographs"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(words, line, small_cascade, photographs, capsys):
    assert evaluate(small_cascade, photographs, *words) == 2
    captured = capsys.readouterr()
    assert line in captured.err
    assert captured.err.count("\n") == 1


def test_photographs_of_one_split_are_parted_and_their_classes_balanced():
    from cascade.commands.gap import balanced_places

    class Data:
        labels = [0] * 12 + [1] * 4 + [2] * 8

        def __len__(self):
            return len(self.labels)

        def label(self, i):
            return self.labels[i]

    shown = balanced_places(Data(), 9, 0, "val", ())
    assert [sum(Data.labels[i] == label for i in shown) for label in range(3)] == [3, 3, 3]
    others = balanced_places(Data(), 99, 0, "val", shown)
    assert sorted(shown + others) == list(range(24))
    assert shown != balanced_places(Data(), 9, 1, "val", ())


def known(value, error, name="photographs"):
    """An estimate with that error, whose set of pictures is its own."""
    moved = torch.tensor([1.0, -1.0], dtype=torch.float64) * error
    return Estimate(value, {name: moved})


def test_a_fault_that_is_handed_on_is_not_the_stages_own():
    base = StageGap("base", floor=NOTHING, chained=known(0.9, 0.1, "a"))
    handing = StageGap(
        "sr", NOTHING, chained=known(1.0, 0.1, "b"), real=known(0.1, 0.1, "c"), before=known(0.9, 0.1, "d")
    )
    assert handing.amplified.value == pytest.approx(0)
    assert (blame([base, handing]).stage, blame([base, handing]).sure) == ("base", True)
    # It is, by as much as it grows; and one that makes it smaller is what it is with real pictures.
    growing, repairing = (StageGap("sr", NOTHING, Estimate(c), Estimate(0.1), Estimate(0.9)) for c in (2.5, 0.2))
    assert growing.loss.value == pytest.approx(1.6)
    assert repairing.loss.value == pytest.approx(0.1)
    assert blame([base, growing]).stage == "sr"
    # The floor is the stage's own nowhere, and what it does not keep of a real input is.
    floor = Estimate(0.3)
    sr = StageGap("sr", floor, chained=floor, real=floor, before=NOTHING, departs=Estimate(0.2))
    assert sr.loss.value == pytest.approx(0.2)
    assert StageGap("base", floor, chained=Estimate(0.7)).loss.value == pytest.approx(0.4)


def test_a_sentence_is_no_surer_than_the_errors():
    near = [StageGap(name, NOTHING, known(value, 0.1, name)) for name, value in (("a", 0.9), ("b", 0.7))]
    verdict = blame(near)
    assert (verdict.stage, verdict.sure) == ("a", False)
    assert verdict.sentence == (
        "No stage surely loses most: a, 0.9 ± 0.1; but b, 0.7 ± 0.1, is not below it by more than twice the error of "
        "the difference."
    )
    shared = [StageGap(name, NOTHING, known(value, 0.1)) for name, value in (("a", 0.9), ("b", 0.7))]
    assert blame(shared).sure  # the same pictures: what the choice of them does to one it does to the other
    # One that is known badly may lose more than another that is known well.
    verdict = blame([StageGap("a", NOTHING, known(0.2, 0.4, "a")), StageGap("b", NOTHING, known(0.1, 0.01, "b"))])
    assert (verdict.stage, verdict.sure) == ("b", False)
    assert "; but a, 0.2 ± 0.4, is not below it" in verdict.sentence
    verdict = blame([StageGap("a", NOTHING, known(0.2, 0.15, "a")), StageGap("b", NOTHING, known(0.05, 0.01, "b"))])
    assert (verdict.stage, verdict.sure) == ("b", False), "a is not sure to lose anything"
    verdict = blame([StageGap("a", NOTHING, known(0.5, 0.2, "a")), StageGap("b", NOTHING, known(0.4, 0.01, "b"))])
    assert (verdict.stage, verdict.sure) == ("b", False), "both lose, and b surely so much"
    weak = blame([StageGap("a", NOTHING, known(0.19, 0.1))])
    assert (weak.stage, weak.sure) == (None, False)
    assert weak.sentence.startswith(CALM)


def test_estimates_have_the_jackknifes_error_and_know_what_they_share():
    a, b, c = (randn("gap", name, shape=(n, 5)).double() for name, n in (("a", 9), ("b", 7), ("c", 9)))
    for x, group in ((a, 1), (torch.cat([a, c]), 2)):
        y = b if group == 1 else torch.cat([b, b + 1])
        one, there = kernel_estimate(x, y, ("x", "y"), group=group), kernel_distance(x, y, 0, group=group)
        assert (one.value, one.standard_error) == pytest.approx(tuple(there), rel=1e-9)
    both = [kernel_estimate(rows, b, ("x", "y")) for rows in (a, c)]
    difference = both[0] - both[1]
    # By brute force: leave out picture i of a and c at once, or one of b.
    whole = kernel_distance(a, b, 0).value - kernel_distance(c, b, 0).value
    rest = lambda rows, i: torch.cat([rows[:i], rows[i + 1 :]])  # noqa: E731
    less_x = [kernel_distance(rest(a, i), b, 0).value - kernel_distance(rest(c, i), b, 0).value for i in range(9)]
    less_y = [kernel_distance(a, rest(b, i), 0).value - kernel_distance(c, rest(b, i), 0).value for i in range(7)]
    squared = sum((len(w) - 1) * torch.tensor(w).var(correction=0) for w in (less_x, less_y))
    assert difference.value == pytest.approx(whole)
    assert difference.standard_error == pytest.approx(float(squared**0.5), rel=1e-6)
    assert (both[0] - both[0]).standard_error == 0
    numbers = torch.tensor([1.0, 4.0, 4.0, 7.0])
    mean = Estimate.of_mean(numbers, "x")
    assert (mean.value, mean.standard_error) == pytest.approx((4.0, float(numbers.std() / 2)))
    # What two distances are divided by is known no better than the pictures are: the jackknife of the quotient itself.
    unit = kernel_spread(b, "y")
    less = [kernel_spread(rest(b, i)).value for i in range(7)]
    assert (unit.moved["y"] + unit.value).tolist() == pytest.approx(less, rel=1e-9)
    quotient, (value, own) = both[0].over(unit), (both[0].value, both[0].moved)
    assert quotient.value == pytest.approx(value / unit.value)
    assert (quotient.moved["x"] + quotient.value).tolist() == pytest.approx(((value + own["x"]) / unit.value).tolist())
    without = (value + own["y"]) / torch.tensor(less)
    assert (quotient.moved["y"] + quotient.value).tolist() == pytest.approx(without.tolist())
    assert Estimate.of_variance(a, "a").value == pytest.approx(a.var(0).mean().item())
    assert (Estimate.of_variance(a, "a").moved["a"] + a.var(0).mean()).tolist() == pytest.approx(
        [rest(a, i).var(0).mean().item() for i in range(9)]
    )
    with pytest.raises(CascadeError, match="estimates of 9 and of 4 x are not of the same ones"):
        both[0] + mean


def test_of_two_stages_that_lose_alike_neither_is_surely_the_worse():
    """Each has photographs of its own, whose spread is its unit: it is wrong in no more than one of twenty, or so."""
    alike, beside_a_small_loss = 0, 0
    for draw in range(50):
        gaps = []
        for stage, shift in (("a", 6), ("b", 6), ("small", 0.3)):
            real, chained = (randn("alike", draw, stage, of, shape=(12, 3)).double() for of in ("real", "chained"))
            distance = kernel_estimate(chained + shift, real, (f"seeds {stage}", f"reference {stage}"))
            unit = kernel_spread(real, f"reference {stage}")
            known, measured = distance * (1 / unit.value), distance.over(unit)
            gaps.append(StageGap(stage, NOTHING, known, with_units=StageGap(stage, NOTHING, measured)))
        alike += blame(gaps[:2]).sure
        beside_a_small_loss += blame(gaps[1:]).sure
    assert alike <= 8  # if the units were taken as known it would be more than half
    assert beside_a_small_loss == 50  # however badly its unit is known


@pytest.mark.parametrize("group", [1, 2])
def test_the_spread_is_unbiased_and_that_of_rows(group):
    population = randn("spread", shape=(4, 2, 3)).double()[:, :group]
    rows = population.flatten(0, 1)
    within = ((population.flatten(0, 1) @ population.flatten(0, 1).mT) / 3 + 1) ** 3
    # Of independent pictures, the kernel of two of them is the mean over their rows.
    expected = within.diagonal().mean() - within.mean()
    draws = [population[list(d)].flatten(0, 1) for d in itertools.product(range(4), repeat=3)]
    assert len(rows) == 4 * group
    assert sum(kernel_spread(d, group=group).value for d in draws) / len(draws) == pytest.approx(float(expected))
