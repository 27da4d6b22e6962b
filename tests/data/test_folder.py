"""A folder is the same dataset for any number of workers, and what it leaves out is named."""

import csv
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from cascade import registry
from cascade.data.dataset import PictureDataset
from cascade.data.folder import BadFile, FolderDataset, write_bad_files
from cascade.data.order import RunOrder
from cascade.data.picture import read_square
from cascade.data.source import check_source
from cascade.data.views import TrainingView
from cascade.errors import CascadeError


def plant(root: Path, seed: int = 0, **sizes: tuple[int, int]) -> Path:
    """Pictures of noise: plant(root, a_1=(40, 32)) makes ROOT/a/1.png."""
    draw = np.random.default_rng(seed)
    for name, (width, height) in sizes.items():
        path = root / f"{name.replace('_', '/')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture
def root(tmp_path):
    root = plant(tmp_path / "photos", cat_1=(40, 32), cat_2=(32, 50), dog_1=(32, 32), dog_2=(64, 48), dog_3=(33, 99))
    (root / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (root / "dog" / "empty.png").touch()
    return root


def test_pictures_labels_and_names(root):
    dataset = FolderDataset(root, 32, "all")
    assert isinstance(dataset, PictureDataset)
    assert dataset.paths == ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png", "dog/3.png"]
    assert dataset.class_names == ["cat", "dog"]
    assert [dataset.label(i) for i in range(5)] == [0, 0, 1, 1, 1]
    for i, path in enumerate(dataset.paths):
        assert torch.equal(dataset.image(i), read_square(root / path, 32)[0])
    unlabelled = FolderDataset(root, 32, "all", labelled=False)
    assert (unlabelled.class_names, unlabelled.label(3)) == ([], -1)


def test_bad_files_are_named_and_counted_whatever_the_number_of_workers(root, tmp_path):
    seen = []
    datasets = [FolderDataset(root, 32, "all", workers=workers) for workers in (1, 2, 5)]
    for dataset in datasets:
        assert [bad.path for bad in dataset.bad_files] == ["cat/broken.jpg", "dog/empty.png"]
        write_bad_files(tmp_path / "bad_files.csv", dataset.bad_files)
        seen.append((tmp_path / "bad_files.csv").read_bytes())
        assert (dataset.paths, dataset.labels, dataset.fingerprint) == (
            datasets[0].paths,
            datasets[0].labels,
            datasets[0].fingerprint,
        )
    assert seen[0] == seen[1] == seen[2]
    with (tmp_path / "bad_files.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["path", "reason"]
    assert rows[2] == ["dog/empty.png", "not a picture that Pillow can read"]


def test_bad_files_with_odd_names_are_written(tmp_path):
    odd = [BadFile('a "b", c\n.png', "why, indeed"), BadFile("\udcff.png", "not UTF-8"), BadFile("été.png", "x")]
    write_bad_files(tmp_path / "bad.csv", odd)
    with (tmp_path / "bad.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert [BadFile(*row) for row in csv.reader(file)][1:] == odd


def test_looking_through_tells_its_progress(root):
    told = []
    FolderDataset(root, 32, "all", progress=lambda done, total: told.append((done, total)))
    assert told == [(i, 7) for i in range(1, 8)]


def test_the_fingerprint_names_the_content(root, tmp_path):
    def fingerprint(folder, **parameters):
        return FolderDataset(folder, **{"resolution": 32, "split": "all"} | parameters).fingerprint

    first = fingerprint(root)
    copy = shutil.copytree(root, tmp_path / "copy")
    assert fingerprint(copy) == first
    (copy / "cat" / "broken.jpg").unlink()
    (copy / "cat" / "notes.txt").write_text("not a picture")
    assert fingerprint(copy) == first
    assert fingerprint(copy, resolution=16) != first
    assert fingerprint(copy, labelled=False) != first
    assert fingerprint(copy, split="train") != first
    (copy / "cat" / "1.png").rename(copy / "cat" / "0.png")
    assert fingerprint(copy) != first
    (copy / "cat" / "0.png").rename(copy / "cat" / "1.png")
    plant(copy, seed=9, cat_1=(40, 32))
    assert fingerprint(copy) != first


def test_small_pictures_are_an_error_skipped_or_enlarged(root):
    with pytest.raises(CascadeError, match=r"4 of 7 pictures .* smaller than 40 px .*cat/1.png, 40×32.*small=skip"):
        FolderDataset(root, 40, "all")
    (root / "cat" / "9.png").write_bytes((root / "dog" / "2.png").read_bytes())
    skipped = FolderDataset(root, 40, "all", small="skip")
    assert skipped.paths == ["cat/9.png", "dog/2.png"]
    assert BadFile("dog/3.png", "33×99, smaller than 40 px") in skipped.bad_files
    assert [bad.path for bad in skipped.bad_files] == sorted(bad.path for bad in skipped.bad_files)
    enlarged = FolderDataset(root, 40, "all", small="upscale")
    assert len(enlarged) == 6
    assert enlarged.image(2).shape == (3, 40, 40)


def test_a_class_without_pictures_is_refused(root):
    for path in (root / "cat").glob("*.png"):
        path.unlink()
    with pytest.raises(CascadeError, match=r"class 'cat' in .* has no picture that can be used"):
        FolderDataset(root, 32, "all")


def test_nothing_but_bad_files_is_refused(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").write_text("text")
    with pytest.raises(CascadeError, match=r"none of the 2 pictures .* can be used; the first, a.png: not a picture"):
        FolderDataset(tmp_path, 32, "all")


def test_a_picture_that_vanishes_is_a_clear_error(root):
    dataset = FolderDataset(root, 32, "all")
    (root / "dog" / "3.png").unlink()
    with pytest.raises(CascadeError, match=r"dog/3.png could be read .* but not any more: No such file"):
        dataset.image(4)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12
@pytest.mark.parametrize("workers", [0, 2])
def test_loader_workers_read_the_same(root, workers):
    dataset = FolderDataset(root, 32, "all")
    order = RunOrder(0, size=len(dataset), batch=3)
    loader = DataLoader(TrainingView(dataset, run_seed=0), batch_sampler=order, num_workers=workers)
    view = TrainingView(pickle.loads(pickle.dumps(dataset)), run_seed=0)
    batches = iter(loader)
    for k in range(4):
        expected = torch.stack([view[key]["image"] for key in order.micro_batch(k)])
        assert torch.equal(next(batches)["image"], expected)


def test_the_registry_builds_it_and_names_wrong_choices(root):
    config = {"name": "folder", "root": str(root)}
    assert len(registry.build("data", config, resolution=32, split="all")) == 5
    with pytest.raises(CascadeError, match="no parameter 'labeled'; did you mean 'labelled'"):
        registry.build("data", config | {"labeled": False}, resolution=32, split="all")
    with pytest.raises(CascadeError, match=r"data\.small=skp: unknown choice; did you mean 'skip'"):
        registry.build("data", config | {"small": "skp"}, resolution=32, split="all")


@pytest.mark.parametrize("fraction", [0.05, 0.5])
def test_bad_files_are_left_out_before_the_split_is_made(tmp_path, fraction):
    """Whichever files of a small folder are broken, the others are split as if those were not there."""
    names = [f"{i}.png" for i in range(5)]
    whole = plant(tmp_path / "whole", **{str(i): (32, 32) for i in range(5)})
    for broken in range(2**5):
        bad = [name for i, name in enumerate(names) if broken >> i & 1]
        torn, without = tmp_path / f"torn{broken}", tmp_path / f"without{broken}"
        for folder, files in ((torn, names), (without, sorted(set(names) - set(bad)))):
            folder.mkdir()
            for name in files:
                (folder / name).write_bytes(b"no picture" if name in bad else (whole / name).read_bytes())
        for split in ("train", "val"):

            def opened(folder, workers=None, split=split):
                try:
                    return FolderDataset(folder, 16, split, val_fraction=fraction, workers=workers)
                except CascadeError:
                    return None

            expected, found = opened(without), [opened(torn, workers) for workers in (1, 3)]
            if expected is None:  # one picture, or all of them for validation: training is what lacks them
                assert len(names) - len(bad) < 2 or fraction == 0.5
                assert split == "val" or found == [None, None]
                continue
            for dataset in found:
                assert (dataset.paths, dataset.fingerprint) == (expected.paths, expected.fingerprint)
                assert {file.path for file in dataset.bad_files} <= set(bad)


def test_of_two_pictures_one_of_which_is_broken_none_can_be_spared(tmp_path):
    plant(tmp_path, **{"1": (32, 32)})
    (tmp_path / "2.png").write_bytes(b"no picture")
    with pytest.raises(CascadeError, match=r"1.png, which cannot be split; set data.val_fraction=0"):
        FolderDataset(tmp_path, 16, "train")
    assert FolderDataset(tmp_path, 16, "train", val_fraction=0).paths == ["1.png"]


def test_no_more_is_decoded_than_the_split_needs(tmp_path, monkeypatch):
    plant(tmp_path, **{str(i): (32, 32) for i in range(40)})
    read = []
    monkeypatch.setattr("cascade.data.folder.read_square", lambda *which: read.append(which) or read_square(*which))
    train, val = (FolderDataset(tmp_path, 16, split, val_fraction=0.3) for split in ("train", "val"))
    assert len(read) == 40 + 1  # of validation one, to see that there is one
    assert sorted(train.paths + val.paths) == sorted(f"{i}.png" for i in range(40))


def test_a_command_that_names_a_split_beside_the_source_has_it_checked(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "hat").mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (16, 16)).save(tmp_path / split / "hat" / f"{number}.png")
    source = {"name": "folder", "root": str(tmp_path), "split": "val"}
    check_source(source, 8, ["val"])
    with pytest.raises(CascadeError, match="16"):
        check_source(source, 32, ["val"])
