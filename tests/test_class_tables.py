"""Wherever two class tables must be one, the refusal names the first classes missing and extra."""

from dataclasses import replace

import pytest

from cascade.artifact import check_chain
from cascade.data.cache import write_cache
from cascade.data.procedural import ProceduralDataset
from cascade.errors import CascadeError


def test_stages_of_a_cascade(small_configs):
    other = replace(small_configs[1], class_names=("dress", "shoe", "a", "b", "c", "d"))
    said = "different class tables: only stage 'tiny8' has hat, only stage 'sr16' has a, b, c, ... \\(4\\)"
    with pytest.raises(CascadeError, match=said):
        check_chain([small_configs[0], other])
    turned = replace(small_configs[1], class_names=("hat", "dress", "shoe"))
    with pytest.raises(CascadeError, match="in another order: 0 is dress in stage 'tiny8' and hat in stage 'sr16'"):
        check_chain([small_configs[0], turned])


def test_splits_of_a_cache(tmp_path):
    class Other(ProceduralDataset):
        class_names = (*ProceduralDataset.class_names[:-1], "sea")

    splits = {"train": ProceduralDataset(16, size=1), "val": Other(16, "val")}
    with pytest.raises(CascadeError, match="only split 'train' has mountain, only split 'val' has sea"):
        write_cache(splits, tmp_path / "cache")
