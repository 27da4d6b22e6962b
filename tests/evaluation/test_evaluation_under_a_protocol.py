"""`cascade evaluate protocol=...`: what a protocol decides and refuses, ranges of seeds, and the card of a figure."""

import json
import statistics

import pytest
import torch
from PIL import Image

from cascade.commands.command_line import main
from cascade.commands.report_cards import read_cards
from cascade.data.procedural import ProceduralDataset
from cascade.rng import uniform
from tests.conftest import small_stage

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = tuple(ProceduralDataset.class_names)


@pytest.fixture(scope="module")
def cascade(make_cascade, tmp_path_factory):
    stages = [small_stage("tiny8", 8, chunk=4, class_names=CLASSES)]
    return make_cascade(tmp_path_factory.mktemp("protocol") / "cascade", stages)


def evaluate(cascade, *words):
    given = ["data.size=18", "data.val_size=3", "features=tiny", "threads=1"]
    return main(["evaluate", f"cascade={cascade}", *given, *map(str, words)])


def report(out):
    return json.loads((out / "evaluation.json").read_text())


def test_a_protocol_decides_the_resizing_and_is_in_the_card(cascade, tmp_path, capsys):
    rules = {"own": "bilinear_antialias", "adm": "bilinear_tf1", "clean": "bicubic_clean"}
    for protocol, rule in rules.items():
        out = tmp_path / protocol
        assert evaluate(cascade, f"protocol={protocol}", "num_images=6", f"out={out}") == 0
        said = report(out)
        assert all(f["resize"].endswith(f"{rule} to 32 px") for f in said["figures"] if f["features"] == "tiny")
        assert said["protocol"]["name"] == protocol
    assert said["generated"]["balance"] == {"classes": 6, "fewest": 1, "most": 1, "without": 0}
    assert said["features"]["sha256"] == said["figures"][0]["sha256"]
    assert said["reference"]["fingerprint"]
    assert {"cascade", "torch", "torchmetrics", "pillow"} <= set(said["versions"])
    (card,) = read_cards([str(tmp_path / "clean")])
    assert any(line.startswith("Protocol: clean: bicubic_clean, but of 6 pictures") for line in card.lines)
    assert any(line.startswith("Pictures: ") and line.endswith("seeds 0 to 5.") for line in card.lines)
    printed = capsys.readouterr().out
    stage = said["generated"]["stages"][0]
    for words in (
        "bicubic_clean, but of 6 pictures and not of 5000",
        "1 of each of 6 classes",
        "seeds 0 to 5",
        "ddim, 3 steps",
        "classifier_free 2",
    ):
        assert words in printed
    for digest in (stage["sha256"], said["features"]["sha256"], said["reference"]["fingerprint"]):
        assert digest[:12] in printed


def test_every_result_of_a_folder_is_kept_and_shown(cascade, tmp_path):
    """Under another protocol or rule, or of another metric, it is another result; the same one is measured anew."""
    tf1 = ["features.resize=bilinear_tf1", "num_images=6"]
    for words in (["num_images=6"], tf1, ["protocol=adm", "num_images=6"], ["protocol=adm", "num_images=12"]):
        assert evaluate(cascade, *words, f"out={tmp_path}") == 0
    assert evaluate(cascade, "metrics=[bits_per_dim]", "bits_per_dim.num_images=3", f"out={tmp_path}") == 0
    said = report(tmp_path)
    assert said["result"] == "own, bits_per_dim, tiny8"
    own, adm = said["others"]["own, distances, tiny8, tiny"], said["others"]["adm, distances, tiny8, tiny"]
    other = said["others"]["own, distances, tiny8, tiny, bilinear_tf1"]
    assert len(said["others"]) == 3
    assert [result["features"]["resize"] for result in (own, other)] == [
        "bilinear_antialias to 32 px",
        "bilinear_tf1 to 32 px",
    ]
    assert [result["generated"]["count"] for result in (own, adm)] == [6, 12]
    assert [result["protocol"]["name"] for result in (own, adm)] == ["own", "adm"]
    cards = read_cards([str(tmp_path)])
    assert [card.title.rpartition(": ")[2] for card in cards] == [said["result"], *sorted(said["others"])]
    assert all(card.rows for card in cards)
    # Under adm with all that the data have, however few are sampled; else with as many.
    assert [result["reference"]["count"] for result in (own, adm)] == [6, 18]
    alone = tmp_path / "alone"
    assert evaluate(cascade, "num_images=6", f"out={alone}") == 0
    assert report(alone)["figures"] == own["figures"]


def test_ranges_of_seeds_are_those_of_separate_evaluations(cascade, tmp_path, capsys):
    assert evaluate(cascade, "num_images=5", "seed_ranges=3", f"out={tmp_path / 'all'}") == 0
    assert "spread" in capsys.readouterr().out
    together = {figure["name"]: figure for figure in report(tmp_path / "all")["figures"]}
    alone = []
    for number in range(3):
        out = tmp_path / str(number)
        assert evaluate(cascade, "num_images=5", f"first_seed={5 * number}", f"out={out}") == 0
        alone.append({figure["name"]: figure for figure in report(out)["figures"]})
    assert set(together) == set(alone[0])
    for name, figure in together.items():
        values = [found[name]["value"] for found in alone]
        assert figure["values"] == values
        assert figure["value"] == pytest.approx(statistics.fmean(values), rel=1e-12)
        assert figure["spread"] == pytest.approx(statistics.stdev(values), rel=1e-9, abs=1e-15)
        assert figure["num_images"] == 5
    said = report(tmp_path / "all")
    assert said["generated"]["seeds"] == {"first_seed": 0, "count": 15}
    assert said["generated"]["seed_ranges"] == 3
    assert said["reference"]["count"] == 5


def test_adm_balances_the_samples_alone(cascade, tmp_path):
    """The training set is taken as it is, with whatever shares of classes; `num_reference` limits it."""
    photos = tmp_path / "photos"
    for name, count in zip(CLASSES, (3, 1, 1, 2, 1, 1), strict=True):
        (photos / name).mkdir(parents=True)
        for i in range(count):
            pixels = (255 * uniform(name, i, shape=(8, 8, 3))).to(torch.uint8)
            Image.fromarray(pixels.numpy()).save(photos / name / f"{i}.png")
    words = ["protocol=adm", "num_images=6", "data=folder", f"data.root={photos}", "data.val_fraction=0"]
    for number, more in ((9, []), (7, ["num_reference=7"])):
        out = tmp_path / str(number)
        given = [f"cascade={cascade}", "features=tiny", "threads=1", *words, *more, f"out={out}"]
        assert main(["evaluate", *given]) == 0
        said = report(out)
        assert said["reference"]["count"] == said["figures"][0]["num_reference"] == number
        assert said["protocol"]["whole_reference"]
    assert report(tmp_path / "9")["reference"]["balance"] == {"classes": 6, "fewest": 1, "most": 3, "without": 0}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["protocol=amd"], "did you mean 'adm'?"),
        (["protocol=adm", "features.resize=bicubic_clean"], "protocol=adm resizes by bilinear_tf1; for bicubic_clean"),
        (["protocol=adm", "num_images=8"], "make num_images a multiple of its 6 classes"),
        (["protocol=adm", "num_images=5"], "and 0 of"),
        (["protocol=adm", "num_images=4", "seed_ranges=3"], "make num_images a multiple of its 6 classes"),
        (["seed_ranges=0"], "seed_ranges=0 must be at least 1"),
        (["seed_ranges=2", "metrics=[cas]"], "is for metrics=[distances] alone"),
    ],
)
def test_what_a_protocol_does_not_allow_is_said_in_one_line(cascade, words, line, tmp_path, capsys):
    assert evaluate(cascade, *words, f"out={tmp_path / 'out'}") == 2
    captured = capsys.readouterr()
    assert line in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
