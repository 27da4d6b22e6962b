"""A reference is kept as mu and sigma, and a Fréchet distance to it is that to the pictures themselves."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from cascade.commands.command_line import main
from cascade.errors import CascadeError
from cascade.evaluation.figures import distances
from cascade.evaluation.known_statistics import read_statistics, statistics_bytes
from cascade.evaluation.tiny import tiny_features
from cascade.rng import randn, uniform

FEATURES = tiny_features()


def test_the_distance_is_that_of_the_features_themselves(tmp_path):
    ours, theirs = randn("ours", shape=(70, 32)), 2 * randn("theirs", shape=(80, 32)) + 1
    file = tmp_path / "theirs.npz"
    file.write_bytes(statistics_bytes(theirs, FEATURES))
    assert file.read_bytes() == statistics_bytes(theirs, FEATURES)
    known = read_statistics(file)
    known.check(FEATURES)
    (figure,), (line,) = known.frechet(ours, FEATURES)
    wanted = distances(ours, theirs, FEATURES, seed=0)[0][0]
    assert (figure.name, figure.value, figure.num_reference) == (wanted.name, wanted.value, 80)
    assert "holds a mean and a covariance, and no features" in line
    # What others write says no more than mu and sigma.
    bare = tmp_path / "bare.npz"
    np.savez(bare, mu=known.mean.numpy(), sigma=known.covariance.numpy())
    (figure,), _ = read_statistics(bare).frechet(ours, FEATURES)
    assert (figure.value, figure.num_reference) == (wanted.value, None)
    # Few pictures on either side are told.
    few = tmp_path / "few.npz"
    few.write_bytes(statistics_bytes(theirs[:40], FEATURES))
    assert "40 pictures are fewer than twice the 32" in read_statistics(few).frechet(ours, FEATURES)[1][0]
    assert "33 pictures are fewer than twice the 32" in known.frechet(ours[:33], FEATURES)[1][0]


def test_what_is_no_such_file_is_one_line(tmp_path):
    good = {"mu": np.zeros(32), "sigma": np.eye(32)}
    for name, content, line in (
        ("missing.npz", None, "does not exist"),
        ("text.npz", b"mu", "is no .npz of statistics"),
        ("other.npz", {"mu": np.zeros(3)}, "holds no 'mu' and 'sigma'"),
        ("shapes.npz", {**good, "sigma": np.eye(31)}, "do not fit"),
        ("nan.npz", {**good, "mu": np.full(32, np.nan)}, "NaN"),
        ("code.npz", {**good, "sigma": np.array([{}], dtype=object)}, "is no .npz of statistics"),
    ):
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        elif content is not None:
            np.savez(tmp_path / name, **content)
        with pytest.raises(CascadeError, match=line):
            read_statistics(tmp_path / name)
    np.savez(tmp_path / "dim.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(CascadeError, match="is of 3 features, and tiny has 32"):
        read_statistics(tmp_path / "dim.npz").check(FEATURES)
    np.savez(tmp_path / "rule.npz", **good, resize="bilinear_tf1 to 32 px")
    with pytest.raises(CascadeError, match="measured with resize 'bilinear_tf1 to 32 px'"):
        read_statistics(tmp_path / "rule.npz").check(FEATURES)


def test_evaluate_writes_and_takes_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder, number in (("made", 4), ("real", 5)):
        (tmp_path / folder).mkdir()
        for place in range(number):
            pixels = (255 * uniform(folder, place, shape=(12, 12, 3))).to(torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / folder / f"{place}.png")

    def evaluate(*words):
        return main(["evaluate", "features=tiny", "allow_few_images=true", "images=made", *words])

    assert evaluate("reference=real", "save_reference=real.npz", "out=one") == 0
    assert evaluate("reference=real", "save_reference=real.npz") == 0
    assert evaluate("reference=real.npz", "out=two") == 0
    assert "no other distance: real.npz holds a mean and a covariance" in capsys.readouterr().out
    one, two = (json.loads((tmp_path / out / "evaluation.json").read_text()) for out in ("one", "two"))
    (figure,) = two["figures"]
    wanted = one["figures"][0]
    assert (figure["name"], figure["value"]) == (wanted["name"], wanted["value"])
    assert (two["reference"]["statistics"], two["reference"]["count"]) == ("real.npz", 5)
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "text.npz").write_text("mine")
    np.savez(tmp_path / "other.npz", mu=np.zeros(3), sigma=np.eye(3))
    # Whatever is said of the command line and of what lies there is said before anything is measured.
    monkeypatch.setattr("cascade.commands.shared_chunks.SharedChunks.make", lambda *_, **__: pytest.fail("measured"))
    for words, line in (
        (["reference=none.npz"], "reference=none.npz does not exist"),
        (["reference=real.npz", "metrics=[patches]"], "patches compares pictures"),
        (["reference=real.npz", "save_reference=b.npz"], "is statistics already"),
        (["reference=real", "save_reference=b.txt"], "must be named FILE.npz"),
        (["reference=made", "save_reference=real.npz"], "real.npz is there already, and holds something else"),
        (["reference=real", "save_reference=/proc/a.npz"], "nothing can be written in /proc"),
        (["reference=real", "save_reference=folder.npz"], "save_reference=folder.npz is a folder"),
        (["reference=real", "save_reference=text.npz"], "is no .npz of statistics"),
        (["reference=real", "save_reference=other.npz"], "is of 3 features, and tiny has 32"),
        (["reference=real.npz", "out=one"], "out=one was made with reference="),
    ):
        assert evaluate(*words) == 2
        error = capsys.readouterr().err
        assert line in error
        assert error.count("\n") == 1
