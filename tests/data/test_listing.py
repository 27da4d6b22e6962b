"""Which pictures, which class, which split: decided by the paths alone."""

import os
import shutil
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from cascade.data import listing as listing_module
from cascade.data.listing import list_pictures
from cascade.errors import CascadeError


def plant(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(root / path)
    return root


def paths(listing):
    return [found.path for found in listing.pictures]


def test_split_folders_with_classes(tmp_path):
    plant(tmp_path, "train/b/1.png", "train/a/2.png", "train/a/1.png", "val/a/9.png", "test/c/1.png")
    train, val, both = (list_pictures(tmp_path, split) for split in ("train", "val", "all"))
    assert paths(train) == ["train/a/1.png", "train/a/2.png", "train/b/1.png"]
    assert paths(val) == ["val/a/9.png"]
    assert paths(both) == paths(train) + paths(val)
    assert train.class_names == val.class_names == ["a", "b"]
    assert [found.category for found in train.pictures] == ["a", "a", "b"]


def test_a_split_by_path_is_a_partition_that_others_do_not_disturb(tmp_path):
    names = [f"{name}/{i}.png" for name in ("a", "b") for i in range(60)]
    plant(tmp_path, *names)
    train, val = (set(paths(list_pictures(tmp_path, split, val_fraction=0.2))) for split in ("train", "val"))
    assert train | val == set(names)
    assert not train & val
    assert 12 <= len(val) <= 38  # 24 expected, ± 3 standard deviations
    plant(tmp_path, *(f"c/{i}.png" for i in range(40)))
    assert val <= set(paths(list_pictures(tmp_path, "val", val_fraction=0.2)))
    assert train <= set(paths(list_pictures(tmp_path, "train", val_fraction=0.2)))


def test_few_pictures_still_give_one_for_validation(tmp_path):
    plant(tmp_path, *(f"{i}.png" for i in range(4)))
    assert len(list_pictures(tmp_path, "val", val_fraction=1e-6).pictures) == 1
    assert len(list_pictures(tmp_path, "train", val_fraction=1e-6).pictures) == 3
    assert len(list_pictures(tmp_path, "train", val_fraction=0).pictures) == 4
    with pytest.raises(CascadeError, match="no validation pictures"):
        list_pictures(tmp_path, "val", val_fraction=0)


def test_flat_folders_and_ignored_classes_are_unlabelled(tmp_path):
    plant(tmp_path / "flat", "2.png", "1.png")
    flat = list_pictures(tmp_path / "flat", "all")
    assert (paths(flat), flat.class_names) == (["1.png", "2.png"], [])
    plant(tmp_path / "deep", "a/1.png", "b/c/2.png", "3.png")
    deep = list_pictures(tmp_path / "deep", "all", labelled=False)
    assert (paths(deep), deep.class_names) == (["3.png", "a/1.png", "b/c/2.png"], [])
    assert {found.category for found in deep.pictures} == {None}


def test_a_lonely_train_folder_is_split_and_is_no_class(tmp_path):
    plant(tmp_path, *(f"train/{name}/{i}.png" for name in "ab" for i in range(5)))
    assert list_pictures(tmp_path, "train").class_names == ["a", "b"]
    assert len(list_pictures(tmp_path, "val").pictures) >= 1


def test_a_class_may_be_called_train_inside_a_train_folder(tmp_path):
    plant(tmp_path, "train/bus/1.png", "train/train/1.png")
    assert list_pictures(tmp_path, "all").class_names == ["bus", "train"]


@pytest.mark.parametrize(
    ("there", "taken"), [(["test"], "test"), (["test", "valid"], "valid"), (["validation"], "validation")]
)
def test_the_validation_folder_may_have_another_name(tmp_path, there, taken):
    plant(tmp_path, "train/a/1.png", "train/b/1.png", *(f"{name}/b/{name}.png" for name in there))
    val = list_pictures(tmp_path, "val")
    assert (paths(val), val.class_names) == ([f"{taken}/b/{taken}.png"], ["a", "b"])
    assert paths(list_pictures(tmp_path, "train")) == ["train/a/1.png", "train/b/1.png"]


def test_a_train_folder_beside_others_is_refused(tmp_path):
    plant(tmp_path, "bus/1.png", "train/1.png")
    with pytest.raises(CascadeError, match="train beside 'bus' and none for validation: name that one val"):
        list_pictures(tmp_path, "all")


def test_a_split_that_leaves_nothing_to_train_on_is_refused(tmp_path):
    plant(tmp_path, *(f"{i}.png" for i in range(3)))
    with pytest.raises(CascadeError, match=r"val_fraction=0\.99\d* takes all 3 pictures"):
        list_pictures(tmp_path, "train", val_fraction=0.999999)


def test_classes_are_deep_sorted_and_unicode(tmp_path):
    decomposed = unicodedata.normalize("NFD", "été")
    plant(tmp_path, "zèbre/sub/sub/1.png", f"{decomposed}/1.png", "B/1.png", "a b (c)/1.png", "犬/1.png")
    listing = list_pictures(tmp_path, "all")
    assert listing.class_names == sorted(["B", "a b (c)", "zèbre", "été", "犬"])
    assert listing.pictures[-2].category == "été"
    assert (tmp_path / listing.pictures[-2].path).is_file()


def test_hidden_files_and_other_files_are_passed_over(tmp_path):
    plant(tmp_path, "a/1.png", "a/._1.png", ".thumbs/1.png", "a/.git/1.png", "__MACOSX/a/1.png")
    for name in ("README", "a/notes.txt", "a/.DS_Store", "labels.csv"):
        (tmp_path / name).write_text("text")
    (tmp_path / "empty").mkdir()
    listing = list_pictures(tmp_path, "all")
    assert (paths(listing), listing.class_names, listing.left_out) == (["a/1.png"], ["a"], [])


def test_links_are_followed_but_not_in_circles(tmp_path):
    plant(tmp_path / "elsewhere", "1.png", "deep/2.png")
    root = plant(tmp_path / "root", "a/3.png")
    (root / "a" / "up").symlink_to(root)
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "c").symlink_to(tmp_path / "elsewhere")
    expected = ["a/3.png", "b/1.png", "b/deep/2.png", "c/1.png", "c/deep/2.png"]
    assert [path for path in paths(list_pictures(root, "all")) if "/up/" not in path] == expected
    assert len(paths(list_pictures(root, "all"))) < 20


def test_pictures_beside_class_folders_are_left_out_or_refused(tmp_path):
    plant(tmp_path, "a/1.png", "b/1.png", "sheet.png")
    listing = list_pictures(tmp_path, "all")
    assert paths(listing) == ["a/1.png", "b/1.png"]
    assert listing.left_out == [("sheet.png", "beside the class folders, so without a class")]
    plant(tmp_path, *(f"{i}.png" for i in range(5)))
    with pytest.raises(CascadeError, match=r"6 pictures beside folders with only 2.*data\.labelled=false"):
        list_pictures(tmp_path, "all")


def test_a_class_whose_name_is_no_text_is_refused(tmp_path):
    """A stage could be trained with it, and no picture of it written."""
    name = os.fsdecode(b"caf\xe9")
    plant(tmp_path, "hat/1.png", f"{name}/2.png")
    with pytest.raises(CascadeError, match=r"class folder 'caf\ufffd' in .* is not UTF-8: rename it"):
        list_pictures(tmp_path, "all")
    assert paths(list_pictures(tmp_path, "all", labelled=False)) == [f"{name}/2.png", "hat/1.png"]


def refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty" / "a").mkdir(parents=True)
    plant(tmp_path / "one", "1.png")
    plant(tmp_path / "more", "train/a/1.png", "val/a/1.png", "val/b/1.png")
    plant(tmp_path / "mixed", "train/a/1.png", "val/1.png")
    plant(tmp_path / "no_val", "train/a/1.png")
    (tmp_path / "no_val" / "val").mkdir()
    yield "gone", "train", "gone does not exist"
    yield "file", "train", "file is a file"
    yield "empty", "train", "empty holds no picture"
    yield "one", "train", "one picture, which cannot be split"
    yield "more", "train", "class 'b' of .*val is not in .*train"
    yield "mixed", "train", "train has class folders and .*val has none"
    yield "no_val", "val", "val holds no picture"
    yield "one", "trian", "unknown split 'trian'; did you mean 'train'"


def test_what_cannot_be_a_dataset_is_refused_in_one_line(tmp_path):
    for folder, split, message in refused(tmp_path):
        with pytest.raises(CascadeError, match=message) as caught:
            list_pictures(tmp_path / folder, split)
        assert "\n" not in str(caught.value)
    with pytest.raises(CascadeError, match="val_fraction=1"):
        list_pictures(tmp_path / "one", "all", val_fraction=1)
    assert len(list_pictures(tmp_path / "no_val", "train").pictures) == 1


def test_a_folder_that_goes_away_while_it_is_listed_is_passed_over(tmp_path, monkeypatch):
    plant(tmp_path, "a/1.png", "b/1.png")
    visible, asked = listing_module._visible, []

    def going(folder):
        found = visible(folder)
        asked.append(folder)
        if asked.count(tmp_path) == 2:  # the second time, to go into what was found
            shutil.rmtree(tmp_path / "b", ignore_errors=True)
        return found

    monkeypatch.setattr(listing_module, "_visible", going)
    assert paths(list_pictures(tmp_path, "all")) == ["a/1.png"]
