"""A cascade installed with the package goes by its name, and a folder of that name comes first."""

import shutil

import pytest

from cascade import artifact
from cascade.artifact import find_cascade, load_cascade_config, load_chain
from cascade.errors import CascadeError


@pytest.fixture
def shipped(small_cascade, tmp_path, monkeypatch):
    """`tiny`, installed with the package, seen from an empty working folder."""
    shutil.copytree(small_cascade, tmp_path / "package/tiny")
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(artifact, "PRETRAINED", tmp_path / "package")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "package/tiny"


def test_the_name_is_the_folder_in_the_package(shipped, small_cascade):
    assert find_cascade("tiny") == shipped
    assert load_chain("tiny") == load_chain(small_cascade)


def test_a_folder_of_that_name_comes_first(shipped, tmp_path):
    shutil.copytree(shipped, tmp_path / "here/tiny")
    assert find_cascade("tiny").resolve() == tmp_path / "here/tiny"
    assert find_cascade(tmp_path / "tiny") == tmp_path / "tiny"


@pytest.mark.usefixtures("shipped")
def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(CascadeError, match="no cascade at 'tyny': no such folder; installed with the package: tiny"):
        load_cascade_config("tyny")
