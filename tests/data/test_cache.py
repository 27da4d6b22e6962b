"""A cache is its source bit for bit, whole or not there at all."""

import hashlib
import json
import pickle
import re
import shutil
from itertools import islice

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch.utils.data import DataLoader

from cascade.commands import prepare
from cascade.data.cache import CachedDataset, write_cache
from cascade.data.folder import FolderDataset
from cascade.data.order import RunOrder
from cascade.data.views import TrainingView
from cascade.errors import CascadeError
from cascade.lock import beside


@pytest.fixture
def photos(tmp_path):
    root, draw = tmp_path / "photos", np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 2)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 256, (40, 48 + i, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    (root / "train" / "cat" / "bad.jpg").write_text("not a picture")
    return root


def config(photos, out, **changes):
    data = {"name": "folder", "root": str(photos)} | changes.pop("data", {})
    return OmegaConf.create(
        {"data": data, "resolution": 32, "out": str(out), "splits": ["train", "val"], "workers": 2} | changes
    )


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12
def test_training_from_a_cache_equals_training_from_the_folder_bit_for_bit(photos, tmp_path):
    prepare.run(config(photos, tmp_path / "cache"))
    folder, cache = FolderDataset(photos, 32), CachedDataset(tmp_path / "cache", 32, verify=True)
    assert (cache.fingerprint, cache.class_names, len(cache)) == (folder.fingerprint, folder.class_names, len(folder))
    order = RunOrder(3, size=len(folder), labels=folder.labels, batch=4)
    loaders = [
        DataLoader(TrainingView(d, 3, crop=16, factor=4), batch_sampler=order, num_workers=workers)
        for d, workers in ((folder, 0), (cache, 0), (cache, 2))
    ]
    for batches in islice(zip(*loaders, strict=False), 6):
        for name in ("image", "low_res", "label", "step", "index"):
            assert torch.equal(batches[0][name], batches[1][name])
            assert torch.equal(batches[0][name], batches[2][name])


def test_the_cache_is_a_plain_array_with_its_sha256(photos, tmp_path):
    prepare.run(config(photos, tmp_path / "cache"))
    raw = (tmp_path / "cache" / "val.u8").read_bytes()
    pictures = np.frombuffer(raw, np.uint8).reshape(-1, 3, 32, 32)
    source = FolderDataset(photos, 32, "val")
    assert all(np.array_equal(pictures[i], source.image(i)) for i in range(len(source)))
    index = json.loads((tmp_path / "cache" / "index.json").read_text())
    assert index["splits"]["val"]["sha256"] == hashlib.sha256(raw).hexdigest()
    assert index["splits"]["val"]["paths"] == source.paths
    assert "train/cat/bad.jpg,not a picture that Pillow can read" in (tmp_path / "cache/bad_files.csv").read_text()


def test_the_number_of_workers_changes_nothing(photos, tmp_path):
    for workers in (1, 3):
        prepare.run(config(photos, tmp_path / f"{workers}", workers=workers, data={"workers": workers}))
    for name in ("train.u8", "val.u8", "index.json", "bad_files.csv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()


def test_workers_open_their_own_map(photos, tmp_path):
    prepare.run(config(photos, tmp_path / "cache"))
    cache = CachedDataset(tmp_path / "cache", 32)
    first = cache.image(0)
    carried = pickle.dumps(cache)
    assert len(carried) < 3 * 32 * 32
    assert torch.equal(pickle.loads(carried).image(0), first)
    first.zero_()  # a copy: the file is not touched
    assert cache.image(0).any()


def test_preparing_again_leaves_a_finished_cache_alone(photos, tmp_path, capsys):
    out = tmp_path / "a (new) cache, été"
    prepare.run(config(photos, out))
    assert "10 train and 4 val pictures at 32 px, 2 classes; 1 file was left out" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    prepare.run(config(photos, out))
    assert "is ready already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    (photos / "val" / "dog" / "0.png").unlink()
    with pytest.raises(CascadeError, match="is a cache of other pictures"):
        prepare.run(config(photos, out))


def test_an_error_or_an_interruption_leaves_nothing(photos, tmp_path):
    class Breaks:
        resolution, class_names, fingerprint = 32, [], ""

        def __init__(self, error):
            self.error = error

        def __len__(self):
            return 9

        def label(self, i):
            return -1

        def image(self, i):
            if i == 7:
                raise self.error
            return torch.zeros(3, 32, 32, dtype=torch.uint8)

    before = set(tmp_path.iterdir())
    for error in (KeyboardInterrupt(), CascadeError("gone"), OSError(28, "No space left on device")):
        with pytest.raises((KeyboardInterrupt, CascadeError)):
            write_cache({"train": Breaks(error)}, tmp_path / "out", workers=2)
        assert set(tmp_path.iterdir()) == before
    with pytest.raises(CascadeError, match="smaller than 64 px"):
        prepare.run(config(photos, tmp_path / "deep" / "out", resolution=64))
    assert set(tmp_path.iterdir()) == before


def test_what_a_killed_run_left_is_replaced(photos, tmp_path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "train.u8").write_bytes(b"half")
    prepare.run(config(photos, tmp_path / "out"))
    assert not (tmp_path / ".out.partial").exists()
    assert len(CachedDataset(tmp_path / "out", 32, "val", verify=True)) == 4


def test_an_occupied_place_is_refused_before_any_work(photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").touch()
    with pytest.raises(CascadeError, match="out exists already"):
        prepare.run(config(tmp_path / "no such folder", tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    prepare.run(config(photos, tmp_path / "empty"))


def test_drawn_pictures_can_be_prepared_too(tmp_path):
    data = {"name": "procedural", "val_size": 7}
    drawn = OmegaConf.create(
        {"data": data, "resolution": 16, "out": str(tmp_path / "out"), "splits": ["val"], "workers": None}
    )
    prepare.run(drawn)
    assert len(CachedDataset(tmp_path / "out", 16, "val", verify=True)) == 7
    with pytest.raises(CascadeError, match="has no split 'train'; choose from val"):
        CachedDataset(tmp_path / "out", 16, "train")


def test_damaged_or_unfit_caches_are_refused(photos, tmp_path):
    root = tmp_path / "cache"
    prepare.run(config(photos, root))
    with pytest.raises(CascadeError, match="holds pictures of 32 px, not 64"):
        CachedDataset(root, 64)
    with pytest.raises(CascadeError, match="is not a cache"):
        CachedDataset(tmp_path, 32)
    raw = bytearray((root / "train.u8").read_bytes())
    raw[100] ^= 1
    (root / "train.u8").write_bytes(raw)
    CachedDataset(root, 32)
    with pytest.raises(CascadeError, match="its SHA-256 is not that"):
        CachedDataset(root, 32, verify=True)
    (root / "train.u8").write_bytes(raw[:-1])
    with pytest.raises(CascadeError, match="30719 bytes and should have 30720"):
        CachedDataset(root, 32)
    index = (root / "index.json").read_text()
    for broken in (index[:-5], "[]", "{}", index.replace('"schema": 1', '"schema": 2'), index.replace("0, 0", "0, 7")):
        (root / "index.json").write_text(broken)
        with pytest.raises(CascadeError, match=r"index.json (is damaged|has schema 2)"):
            CachedDataset(root, 32, "val")


@pytest.mark.parametrize("splits", [[], ["train", "train"]])
def test_splits_are_named_once(photos, tmp_path, splits):
    with pytest.raises(CascadeError, match="name each split once"):
        prepare.run(config(photos, tmp_path / "out", splits=splits))


def test_a_missing_root_is_asked_for(photos, tmp_path):
    with pytest.raises(CascadeError, match=r"data.root is not given"):
        prepare.run(config("???", tmp_path / "out"))


def test_two_commands_do_not_write_one_cache(photos, tmp_path):
    with beside(tmp_path / "out"), pytest.raises(CascadeError, match=r"is writing to .*out"):
        prepare.run(config(photos, tmp_path / "out"))
    prepare.run(config(photos, tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": -64}, "resolution=-64 must be at least 1"),
        ({"workers": 0}, "workers=0 must be at least 1"),
        ({"splits": ["train", "vall"]}, "unknown split 'vall'; did you mean 'val'?"),
        ({"data": {"small": "skp"}}, "did you mean 'skip'?"),
        ({"data": {"val_fraction": 1.5}}, "val_fraction=1.5 must be"),
    ],
)
def test_numbers_out_of_range_are_refused_before_any_work(photos, tmp_path, changes, message):
    with pytest.raises(CascadeError, match=re.escape(message)):
        prepare.run(config(photos, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_file_that_both_splits_leave_out_is_named_once(photos, tmp_path):
    root = tmp_path / "classes"
    shutil.copytree(photos / "train", root)
    shutil.copy(photos / "train" / "cat" / "0.png", root / "contact_sheet.png")
    prepare.run(config(root, tmp_path / "out", data={"val_fraction": 0.2}))
    assert (tmp_path / "out" / "bad_files.csv").read_text().count("contact_sheet.png") == 1
