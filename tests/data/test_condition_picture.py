"""What a stage is shown of a picture: Pillow's greys, masks that are their names', known pixels as they are."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from cascade import rng
from cascade.data.condition_picture import Grayscale, LowRes, Masked, mask_boxes, mask_centre, mask_half
from cascade.data.degradation import from_uint8, to_uint8
from cascade.data.order import SampleKey
from cascade.data.procedural import ProceduralDataset
from cascade.data.views import EvaluationView, TrainingView
from cascade.errors import CascadeError

MASKS = [mask_centre(0.5), mask_half(), mask_boxes()]


def picture(side: int = 16) -> torch.Tensor:
    return from_uint8((rng.uniform("picture", shape=(3, side, side)) * 256).to(torch.uint8))


def test_the_picture_itself_is_left_alone():
    x = picture()
    assert LowRes()(x, "a") is x


def test_greys_are_pillows():
    x = picture(32)
    theirs = np.asarray(Image.fromarray(to_uint8(x).permute(1, 2, 0).numpy()).convert("L")).astype(int)
    ours = to_uint8(Grayscale()(x))
    assert (ours == ours[:1]).all()
    assert abs(ours[0].numpy().astype(int) - theirs).max() <= 1  # Pillow's weights are of 16 bits
    assert abs(ours[0].numpy().astype(int) - theirs).mean() < 0.05


def test_greys_of_greys_are_the_same_bits():
    x = Grayscale()(picture())
    every = from_uint8(torch.arange(256, dtype=torch.uint8)).view(1, 16, 16).expand(3, 16, 16)
    for grey in (x, every):
        assert torch.equal(Grayscale()(grey), grey)


@pytest.mark.parametrize("masked", MASKS)
def test_known_pixels_are_shown_as_they_are_and_hidden_ones_not_at_all(masked: Masked):
    x = picture()
    shown = masked(x, "a", 1)
    known = masked.known(16, 16, "a", 1)
    assert 0 < known.sum() < known.numel()
    assert torch.equal(shown[3] == 1, known)
    assert torch.equal(shown[:3, known], x[:, known])
    assert (shown[:, ~known] == 0).all()
    other = x.clone()
    other[:, ~known] = 1.0
    assert torch.equal(masked(other, "a", 1), shown)


@pytest.mark.parametrize("masked", MASKS[1:])
def test_a_mask_is_its_names_and_other_names_have_others(masked: Masked):
    masks = [masked.known(16, 16, "a", i) for i in range(12)]
    assert all(torch.equal(mask, masked.known(16, 16, "a", i)) for i, mask in enumerate(masks))
    assert len({mask.numpy().tobytes() for mask in masks}) > (3 if masked is MASKS[2] else 2)


def test_a_half_is_each_of_four():
    masks = {mask_half().known(4, 6, "a", i).numpy().tobytes() for i in range(40)}
    rows, columns = torch.arange(4)[:, None].expand(4, 6), torch.arange(6).expand(4, 6)
    assert masks == {m.numpy().tobytes() for m in (rows < 2, rows >= 2, columns < 3, columns >= 3)}


def test_a_square_lies_in_the_middle():
    known = mask_centre(0.5).known(8, 8)
    assert torch.equal(~known, torch.nn.functional.pad(torch.ones(4, 4), (2, 2, 2, 2)).bool())


def test_boxes_are_as_many_and_as_large_as_they_say():
    one = mask_boxes(1, 1, 0.25, 0.5)
    heights, tops = set(), set()
    for i in range(200):
        hidden = (~one.known(16, 16, i)).nonzero()
        (top, left), (bottom, right) = hidden.min(0).values, hidden.max(0).values
        assert len(hidden) == (bottom - top + 1) * (right - left + 1)  # a box
        heights.add(int(bottom - top + 1))
        tops.add(int(top))
    assert heights == {4, 5, 6, 7, 8}
    assert (min(tops), max(tops)) == (0, 12)  # every place is drawn
    shares = [float((~mask_boxes(n, n, 0.3, 0.3).known(20, 20, i)).float().mean()) for n in (1, 3) for i in range(50)]
    assert shares[:50] == pytest.approx([0.09] * 50)
    assert 0.15 < sum(shares[50:]) / 50 < 0.27


def test_training_shows_the_crop_masked_by_its_place_in_the_run_and_evaluation_by_its_number():
    data, masked = ProceduralDataset(32, size=4), mask_boxes()
    view = TrainingView(data, run_seed=5, crop=16, factor=1, condition=masked)
    key = SampleKey(step=9, index=1, epoch=2, sample=3)
    item = pickle.loads(pickle.dumps(view))[key]
    assert torch.equal(item["low_res"], masked(item["image"], 5, "condition", 2, 3))
    shown = EvaluationView(data, factor=1, condition=masked)[3]
    assert torch.equal(shown["low_res"], masked(shown["image"], "condition", 3))
    grey = EvaluationView(data, factor=4, condition=Grayscale())[3]["low_res"]
    assert torch.equal(grey, Grayscale()(EvaluationView(data, factor=4)[3]["low_res"]))


def test_what_does_not_fit_is_refused_in_a_line():
    for condition, sizes, noised, message in (
        (mask_half(), (64, 16), False, "must be stage.resolution=64"),
        (mask_half(), (64, 64), True, "say augmentation=none"),
        (LowRes(), (64, 64), False, "condition=grayscale"),
    ):
        with pytest.raises(CascadeError, match=message):
            condition.check(*sizes, noised=noised)
    Grayscale().check(64, 16, noised=True)
    with pytest.raises(ValueError, match="1 <= least <= most <= 1000 boxes, not 1 and 1001"):
        mask_boxes(most=1001)
    with pytest.raises(ValueError, match="1 <= least <= most"):
        mask_boxes(3, 2)
    with pytest.raises(ValueError, match="above share_max"):
        mask_boxes(share_min=0.6)
    with pytest.raises(ValueError, match="share is a part"):
        mask_centre(0.0)
