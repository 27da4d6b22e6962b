"""Training sees aligned crops and flips of both pictures, drawn by name; evaluation sees whole ones."""

import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from cascade import rng
from cascade.data.dataset import PictureDataset
from cascade.data.degradation import from_uint8, shrink
from cascade.data.order import RunOrder, SampleKey
from cascade.data.views import EvaluationView, TrainingView
from cascade.errors import CascadeError


class Noise:
    """Twelve pictures of 32 px, each pixel unlike the others, so that a crop can be found again."""

    resolution, class_names, fingerprint = 32, ["a", "b", "c"], "noise"

    def __len__(self):
        return 12

    def image(self, i):
        return (rng.uniform("noise", i, shape=(3, 32, 32)) * 256).to(torch.uint8)

    def label(self, i):
        return i % 3


def place_of(view: torch.Tensor, whole: torch.Tensor) -> list[tuple[int, int, bool]]:
    """Where (top, left, flipped) the view was cut out of the whole."""
    size, side = view.shape[-1], whole.shape[-1]
    return [
        (top, left, flipped)
        for flipped in (False, True)
        for top in range(side - size + 1)
        for left in range(side - size + 1)
        if torch.equal(view.flip(-1) if flipped else view, whole[:, top : top + size, left : left + size])
    ]


def test_low_res_crop_lies_under_the_high_res_crop():
    data, factor = Noise(), 4
    view = TrainingView(data, run_seed=1, crop=16, factor=factor)
    seen = set()
    for i in range(60):
        item = view[SampleKey(0, i, epoch=i // 12, sample=i % 12)]
        whole = from_uint8(data.image(i % 12))
        ((top, left, flipped),) = place_of(item["image"], whole)
        low = shrink(whole, 8)[:, top // 4 : top // 4 + 4, left // 4 : left // 4 + 4]
        assert top % factor == left % factor == 0
        assert torch.equal(item["low_res"], low.flip(-1) if flipped else low)
        seen.add((top, left, flipped))
    tops, lefts, flips = (set(values) for values in zip(*seen, strict=True))
    assert tops == lefts == {0, 4, 8, 12, 16}
    assert flips == {False, True}


def test_crops_begin_at_multiples_of_align_and_reach_every_place():
    data = Noise()
    for align, places in ((8, {0, 8, 16}), (1, set(range(17)))):
        view = TrainingView(data, run_seed=1, crop=16, align=align, flip=False)
        tops = {
            place_of(view[SampleKey(0, 0, epoch, 0)]["image"], from_uint8(data.image(0)))[0][0] for epoch in range(99)
        }
        assert tops == places


def test_crop_and_flip_are_pure_functions_of_run_seed_epoch_and_sample():
    def image(seed, step, index, epoch, sample):
        return TrainingView(Noise(), run_seed=seed, crop=8)[SampleKey(step, index, epoch, sample)]["image"]

    assert torch.equal(image(1, 0, 0, 2, 3), image(1, 9, 5, 2, 3))
    assert not torch.equal(image(1, 0, 0, 2, 3), image(1, 0, 0, 3, 3))
    assert not torch.equal(image(1, 0, 0, 2, 3), image(2, 0, 0, 2, 3))


def test_half_of_the_pictures_are_flipped():
    data = Noise()
    view = TrainingView(data, run_seed=0)
    plain = sum(
        torch.equal(view[SampleKey(0, 0, epoch, sample)]["image"], from_uint8(data.image(sample)))
        for epoch in range(20)
        for sample in range(12)
    )
    assert 90 < plain < 150  # 240 fair coins: 120 ± 4 standard deviations
    still = TrainingView(data, run_seed=0, flip=False)
    assert all(
        torch.equal(still[SampleKey(0, 0, 0, sample)]["image"], from_uint8(data.image(sample))) for sample in range(12)
    )


def test_evaluation_sees_whole_pictures_or_their_centre():
    data = Noise()
    whole = EvaluationView(data, factor=4)[7]
    assert torch.equal(whole["image"], from_uint8(data.image(7)))
    assert torch.equal(whole["low_res"], shrink(whole["image"], 8))
    assert (whole["label"].item(), whole["step"].item(), whole["index"].item()) == (1, 0, 7)
    centre = EvaluationView(data, factor=4, crop=16)[7]
    assert torch.equal(centre["image"], whole["image"][:, 8:24, 8:24])
    assert torch.equal(centre["low_res"], whole["low_res"][:, 2:6, 2:6])
    assert "low_res" not in EvaluationView(data)[0]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_batches_of_the_promised_types(workers):
    view = TrainingView(Noise(), run_seed=1, crop=16, factor=2)
    order = RunOrder(1, size=12, batch=5)
    batch = next(iter(DataLoader(view, batch_sampler=order, num_workers=workers)))
    keys = next(iter(order))
    assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items()} == {
        "image": ((5, 3, 16, 16), torch.float32),
        "low_res": ((5, 3, 8, 8), torch.float32),
        "label": ((5,), torch.int64),
        "step": ((5,), torch.int64),
        "index": ((5,), torch.int64),
    }
    assert batch["label"].tolist() == [key.sample % 3 for key in keys]
    assert torch.equal(batch["image"], torch.stack([view[key]["image"] for key in keys]))


def test_views_survive_pickling():
    view = pickle.loads(pickle.dumps(TrainingView(Noise(), run_seed=1)))
    assert torch.equal(view[SampleKey(0, 0, 0, 0)]["image"], TrainingView(Noise(), 1)[SampleKey(0, 0, 0, 0)]["image"])


def test_the_stand_in_is_a_dataset():
    assert isinstance(Noise(), PictureDataset)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"crop": 33}, "crop=33 does not fit pictures of 32 px"),
        ({"crop": 18, "factor": 4}, "multiples of the factor 4"),
        ({"factor": 5}, "multiples of the factor 5"),
        ({"crop": 16, "factor": 4, "align": 6}, "align=6 is not a multiple"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(sizes, message):
    with pytest.raises(CascadeError, match=message):
        TrainingView(Noise(), run_seed=0, **sizes)
