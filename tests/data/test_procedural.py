"""The procedural pictures: the same at every resolution, with more to see at each, and their classes far apart."""

import pickle

import pytest
import torch
import torch.nn.functional as F

from cascade.data import procedural
from cascade.data.degradation import from_uint8, shrink
from cascade.data.procedural import SPLITS, ProceduralDataset
from cascade.data.source import open_dataset
from cascade.errors import CascadeError

CLASSES = ProceduralDataset(8).class_names


@pytest.fixture(scope="module")
def pyramid():
    """One picture of each class at 64, 256 and 1024 px, on a scale of 255 levels."""
    return {
        (name, size): ProceduralDataset(size, "val").image(6 + label).float()
        for label, name in enumerate(CLASSES)
        for size in (64, 256, 1024)
    }


def levels(picture, size):
    """`picture` shrunk by the one function of training, on a scale of 255 levels."""
    return (shrink(picture / 127.5 - 1, size) + 1) * 127.5


def blown_up(picture, size):
    return F.interpolate(picture[None], size=(size, size), mode="bicubic")[0]


def octave_power(picture, least):
    """Mean square (levels²) of the part of `picture` with `least` to 2·`least` cycles per picture."""
    size = picture.shape[-1]
    waves = torch.fft.fftfreq(size, 1 / size)
    radius = torch.hypot(waves[:, None], waves)
    spectrum = torch.fft.fft2(picture).abs().square().mean(0) / size**4
    return float(spectrum[(radius >= least) & (radius < 2 * least)].sum())


def thumbnails(split, count):
    dataset = ProceduralDataset(16, split)
    pictures = torch.stack([shrink(from_uint8(dataset.image(i)), 8) for i in range(count)])
    return pictures, torch.tensor([dataset.label(i) for i in range(count)])


def test_same_index_same_bits_on_any_number_of_threads():
    threads = torch.get_num_threads()
    try:
        pictures = []
        for count in (1, 2):
            torch.set_num_threads(count)
            dataset = pickle.loads(pickle.dumps(ProceduralDataset(160)))
            pictures.append(torch.stack([dataset.image(i) for i in range(6)]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(pictures[0], pictures[1])


@pytest.mark.parametrize("label", range(6), ids=CLASSES)
def test_strips_join_without_a_seam(label, monkeypatch):
    whole = ProceduralDataset(192).image(label).int()
    monkeypatch.setattr(procedural, "_STRIP", 192 * 17)
    assert (ProceduralDataset(192).image(label).int() - whole).abs().max() <= 1


@pytest.mark.parametrize("name", CLASSES)
def test_resolutions_agree(name, pyramid):
    for size, limit in ((64, 6.0), (256, 8.0)):
        error = (levels(pyramid[name, 1024], size) - pyramid[name, size]).square().mean().sqrt()
        assert error < limit, f"{size} px: {error:.2f} levels"


@pytest.mark.parametrize("size", [256, 1024])
@pytest.mark.parametrize("name", CLASSES)
def test_every_stage_has_something_to_add(name, size):
    dataset = ProceduralDataset(size, "val")
    pictures = [dataset.image(6 * k + CLASSES.index(name)).float() for k in range(3)]
    lows = [blown_up(levels(picture, size // 4), size) for picture in pictures]
    there, from_below = (sum(octave_power(x, size // 4) for x in kind) / 3 for kind in (pictures, lows))
    assert there > 1.0, "less than one level of detail"
    assert there > 4 * from_below
    for picture, low in zip(pictures, lows, strict=True):
        assert (picture - low).square().mean().sqrt() > 2.0


def test_classes_are_far_apart_in_colour_and_in_outline():
    (train, train_labels), (val, val_labels) = thumbnails("train", 120), thumbnails("val", 120)

    def in_grey(pictures):
        grey = pictures.mean(1)
        return (grey - grey.mean((1, 2), keepdim=True)) / grey.std((1, 2), keepdim=True)

    for features, least in ((lambda p: p, 0.99), (lambda p: p.mean((2, 3)), 0.95), (in_grey, 0.9)):
        seen, new = features(train).flatten(1), features(val).flatten(1)
        centroids = torch.stack([seen[train_labels == label].mean(0) for label in range(6)])
        right = (torch.cdist(new, centroids).argmin(1) == val_labels).float().mean()
        assert right >= least, f"{right:.3f} < {least}"


def test_pictures_and_splits_never_meet():
    pictures = torch.cat([thumbnails(split, 60)[0] for split in SPLITS]).flatten(1)
    distance = torch.cdist(pictures, pictures) + 1e3 * torch.eye(len(pictures))
    assert distance.min() > 0.1


def test_labels_and_lengths():
    dataset = ProceduralDataset(8, "val", val_size=7)
    assert [dataset.label(i) for i in range(7)] == [0, 1, 2, 3, 4, 5, 0]
    assert len(dataset) == 7
    assert [len(ProceduralDataset(8, split)) for split in SPLITS] == [6000, 600]
    for i in (-1, 7):
        with pytest.raises(IndexError):
            dataset.image(i)


def test_fingerprint_names_the_pictures(monkeypatch):
    arguments = [(64,), (256,), (64, "val"), (64, "train", 60)]
    prints = [ProceduralDataset(*given).fingerprint for given in arguments]
    assert len(set(prints)) == len(arguments)
    assert ProceduralDataset(64, "train", 6000, val_size=1).fingerprint == prints[0]
    monkeypatch.setattr(procedural, "VERSION", procedural.VERSION + 1)
    assert ProceduralDataset(64).fingerprint not in prints


def test_a_changed_picture_needs_a_new_version():
    # Mean colour of pictures 0..5. When this fails on purpose, raise VERSION with it: stages record the fingerprint.
    assert procedural.VERSION == 3
    pictures = torch.stack([ProceduralDataset(16).image(i).float().mean((1, 2)) for i in range(6)])
    torch.testing.assert_close(pictures, torch.tensor(MEAN_COLOURS), atol=2.0, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [((64, "valid"), "'val'"), ((4,), "8..8192"), ((64, "train", 0), "1 or more")],
)
def test_wrong_parameters_are_one_clear_line(arguments, hint):
    with pytest.raises(CascadeError, match=hint):
        ProceduralDataset(*arguments)


MEAN_COLOURS = [
    [71.4, 48.8, 69.2],
    [146.7, 162.9, 127.6],
    [109.1, 174.5, 163.8],
    [200.5, 207.5, 166.7],
    [170.8, 113.6, 126.8],
    [106.0, 138.3, 157.3],
]


def test_few_pictures_have_few_for_validation_unless_more_are_wanted() -> None:
    assert len(open_dataset({"name": "procedural", "size": 48, "val_size": None}, 16, "val")) == 6
    assert len(open_dataset({"name": "procedural", "size": 48, "val_size": 600}, 16, "val")) == 600
    assert len(open_dataset({"name": "procedural"}, 16, "val")) == 600  # as ever


def test_a_picture_is_drawn_in_one_thread_and_is_the_same_however_many_there_are(monkeypatch) -> None:
    before, seen = torch.get_num_threads(), []
    drawn = procedural.Canvas.rows
    monkeypatch.setattr(
        procedural.Canvas, "rows", lambda *args: (seen.append(torch.get_num_threads()), drawn(*args))[1]
    )
    pictures = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        pictures.append(ProceduralDataset(128, size=1).image(0))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert torch.equal(*pictures)
    assert set(seen) == {1}
