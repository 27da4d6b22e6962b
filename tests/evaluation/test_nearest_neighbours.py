"""Nearest neighbours by brute force, and what copies and photographs score as."""

import json

import pytest
import torch
from PIL import Image

from cascade.commands.command_line import main
from cascade.data.procedural import ProceduralDataset
from cascade.data.source import open_dataset
from cascade.errors import CascadeError
from cascade.evaluation.neighbours import nearest, share_nearer
from cascade.evaluation.picture_folder import PictureFolder
from cascade.rng import randn

pytestmark = pytest.mark.usefixtures("one_thread")
POINTS, OTHERS = randn("points", shape=(7, 5)), randn("others", shape=(11, 5))


def test_it_is_the_least_of_all_distances():
    found = nearest(POINTS, OTHERS)
    all_of_them = (POINTS[:, None] - OTHERS[None]).double().square().mean(2).sqrt()
    assert torch.equal(found.index, all_of_them.argmin(1))
    torch.testing.assert_close(found.distance, all_of_them.min(1).values)


def test_a_picture_is_at_distance_0_from_itself():
    found = nearest(1e3 + OTHERS[3:6] / 3, 1e3 + OTHERS / 3)
    assert found.index.tolist() == [3, 4, 5]
    assert found.distance.tolist() == [0, 0, 0]


def test_of_two_sets_the_nearer_is_kept():
    one, two = nearest(POINTS, OTHERS[:6]), nearest(POINTS, OTHERS[6:])
    both = one.or_nearer(two)
    assert torch.equal(both.distance, nearest(POINTS, OTHERS).distance)
    assert torch.equal(both.distance, two.or_nearer(one).distance)


def test_the_share_that_is_nearer_by_brute_force():
    ours, theirs = torch.tensor([1.0, 2.0, 2.0, 5.0]), torch.tensor([2.0, 3.0, 4.0])
    pairs = [(a < b) + 0.5 * (a == b) for a in ours.tolist() for b in theirs.tolist()]
    share, error = share_nearer(ours, theirs)
    assert share == pytest.approx(sum(pairs) / 12)
    assert share_nearer(theirs, ours)[0] == pytest.approx(1 - share)
    assert error == pytest.approx((8 / 144) ** 0.5)


def test_the_error_is_that_of_the_null_hypothesis():
    shares = [share_nearer(randn("ours", i, shape=(30,)), randn("theirs", i, shape=(20,))) for i in range(400)]
    spread = torch.tensor([share for share, _ in shares]).std().item()
    assert spread == pytest.approx(shares[0][1], rel=0.12)


@pytest.mark.parametrize(("a", "b"), [((3,), (3,)), ((3, 2), (3, 4)), ((3, 2), (0, 2))])
def test_other_shapes_are_refused(a, b):
    with pytest.raises(CascadeError):
        nearest(torch.zeros(a), torch.zeros(b))
    with pytest.raises(CascadeError):
        share_nearer(torch.zeros(0), torch.zeros(3))


DATA = ["data=procedural", "data.size=24", "data.val_size=18", "features=tiny", "threads=1"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Training pictures (every second one mirrored) and photographs of val as folders of pictures to evaluate."""
    root = tmp_path_factory.mktemp("folders")
    for split, count in (("train", 12), ("val", 18)):
        data = ProceduralDataset(16, split, size=24, val_size=18)
        (root / split).mkdir()
        for i in range(count):
            pixels = data.image(i).flip(-1) if split == "train" and i % 2 else data.image(i)
            Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(root / split / f"{i:03}.png")
    return root


def asked(folder, out, *words):
    assert main(["evaluate", f"images={folder}", f"out={out}", *DATA, *words]) == 0
    return json.loads((out / "evaluation.json").read_text(encoding="utf-8"))


def test_copies_and_their_mirror_images_are_found_and_photographs_are_as_near_as_photographs(folders, tmp_path):
    copies = asked(folders / "train", tmp_path / "train", "metrics=[memorisation]")
    share, ours, theirs = (figure["value"] for figure in copies["figures"][:3])
    assert (share, ours) == (1, 0)
    assert theirs > 1
    pairs = copies["memorisation"]["pixels at 16 px"]
    assert [pair["trained"] for pair in pairs] == [pair["sample"] for pair in pairs]
    with Image.open(tmp_path / "train" / "neighbours-16.png") as sheet:
        assert sheet.text["Software"] == "cascade"
    same = asked(folders / "val", tmp_path / "val", "metrics=[memorisation]")
    assert [figure["value"] for figure in same["figures"][::3]] == [0.5, 0.5]


def test_the_floor_is_the_distance_of_train_from_val(folders, tmp_path):
    floor = asked(folders / "val", tmp_path / "floor", "metrics=[floor]", "allow_few_images=true", "num_images=24")
    root = tmp_path / "all"
    root.mkdir()
    data = ProceduralDataset(16, "train", size=24)
    for i in range(24):
        Image.fromarray(data.image(i).permute(1, 2, 0).contiguous().numpy()).save(root / f"{i:03}.png")
    words = ["data.split=val", "allow_few_images=true"]
    direct = asked(root, tmp_path / "direct", "metrics=[distances]", *words)
    known = {figure["name"]: figure["value"] for figure in direct["figures"]}
    for figure in floor["figures"]:
        assert known[figure["name"].removeprefix("floor: ")] == pytest.approx(figure["value"], rel=1e-6, abs=1e-9)
    assert {figure["name"] for figure in floor["figures"]} == {
        f"floor: {name}" for name in ("FD-tiny (biased, N<d)", "KID-tiny", "precision", "recall")
    }


def test_each_side_is_opened_once_for_all_metrics(folders, tmp_path, monkeypatch):
    opened = []

    def noted(source, side, split, progress):
        opened.append(split)
        return open_dataset(source, side, split, progress)

    def looked(root, progress):
        opened.append(root)
        return PictureFolder(root, progress)

    monkeypatch.setattr("cascade.data.source.open_dataset", noted)
    monkeypatch.setattr("cascade.evaluation.picture_folder.PictureFolder", looked)
    asked(folders / "val", tmp_path / "out", "metrics=[distances,floor,memorisation]", "allow_few_images=true")
    assert sorted(opened) == sorted([str(folders / "val"), "train", "val"])


def test_reference_folders_are_refused(folders, capsys):
    words = [f"images={folders / 'val'}", f"reference={folders / 'train'}", *DATA]
    for metric in ("floor", "memorisation"):
        assert main(["evaluate", f"metrics=[{metric}]", *words]) == 2
        assert "photographs of two splits" in capsys.readouterr().err
