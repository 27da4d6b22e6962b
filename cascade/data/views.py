"""Views of a dataset: what training and evaluation see of its pictures."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cascade import rng
from cascade.data.condition_picture import ConditionPicture, LowRes
from cascade.data.dataset import PictureDataset
from cascade.data.degradation import from_uint8, shrink_crop
from cascade.data.order import SampleKey
from cascade.errors import CascadeError


class TrainingView(Dataset[dict[str, Tensor]]):
    """Random aligned crops and flips of a dataset, indexed by `SampleKey`.

    view[key] is a dict: `image` float32 (3, c, c) in [−1, 1]; with `factor` f also `low_res` float32 (3, c/f, c/f), cut
    from the shrunk whole picture on 8-bit levels, or what `condition` shows of that; `label`, `step`, `index` int64. c
    is `crop`, or the resolution. Crops begin at multiples of `align` (default: the factor, or 1). A flip turns both
    pictures. Crop, flip and a mask are pure functions of (run seed, epoch, sample).

    Raises CascadeError if the sizes do not divide.

    >>> from cascade.data.procedural import ProceduralDataset
    >>> view = TrainingView(ProceduralDataset(32, size=4), run_seed=0, crop=16, factor=4)
    >>> shown = view[SampleKey(step=0, index=0, epoch=0, sample=2)]
    >>> shown["image"].shape, shown["low_res"].shape, int(shown["label"])
    (torch.Size([3, 16, 16]), torch.Size([3, 4, 4]), 2)
    """

    def __init__(
        self,
        dataset: PictureDataset,
        run_seed: int,
        *,
        crop: int | None = None,
        factor: int | None = None,
        flip: bool = True,
        align: int | None = None,
        condition: ConditionPicture | None = None,
    ) -> None:
        self.dataset, self.run_seed, self.flip = dataset, run_seed, flip
        self.condition = condition or LowRes()
        self.crop, self.factor = _checked(dataset.resolution, crop, factor)
        self.align = align if align is not None else self.factor or 1
        if self.align < 1 or self.align % (self.factor or 1):
            raise CascadeError(f"align={self.align} is not a multiple of the factor {self.factor}")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> dict[str, Tensor]:
        draws = rng.uniform(self.run_seed, "view", key.epoch, key.sample, shape=(3,)).tolist()
        places = (self.dataset.resolution - self.crop) // self.align + 1
        top, left = (int(draw * places) * self.align for draw in draws[:2])
        views = _cut(self.dataset.image(key.sample), top, left, self.crop, self.factor)
        if self.flip and draws[2] < 0.5:
            views = {name: view.flip(-1) for name, view in views.items()}
        views = _shown(views, self.condition, self.run_seed, "condition", key.epoch, key.sample)
        return views | _numbers(self.dataset.label(key.sample), key.step, key.index)


class EvaluationView(Dataset[dict[str, Tensor]]):
    """Whole pictures, or centre crops, of a dataset in its order, indexed by number; the same dict as in training.

    `index` is the number of the picture in the dataset, and names its mask; `step` is 0.

    >>> from cascade.data.procedural import ProceduralDataset
    >>> shown = EvaluationView(ProceduralDataset(32, "val", val_size=4))[3]
    >>> shown["image"].shape, int(shown["index"])
    (torch.Size([3, 32, 32]), 3)
    """

    def __init__(
        self,
        dataset: PictureDataset,
        factor: int | None = None,
        crop: int | None = None,
        condition: ConditionPicture | None = None,
    ) -> None:
        self.dataset = dataset
        self.condition = condition or LowRes()
        self.crop, self.factor = _checked(dataset.resolution, crop, factor)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        align = self.factor or 1
        corner = (self.dataset.resolution - self.crop) // (2 * align) * align
        views = _cut(self.dataset.image(index), corner, corner, self.crop, self.factor)
        views = _shown(views, self.condition, "condition", index)
        return views | _numbers(self.dataset.label(index), 0, index)


def _cut(image: Tensor, top: int, left: int, crop: int, factor: int | None) -> dict[str, Tensor]:
    views = {"image": from_uint8(image[:, top : top + crop, left : left + crop])}
    if factor is not None:
        views["low_res"] = shrink_crop(image, factor, top // factor, left // factor, crop // factor)
    return views


def _shown(views: dict[str, Tensor], condition: ConditionPicture, *names: rng.Name) -> dict[str, Tensor]:
    return views | ({"low_res": condition(views["low_res"], *names)} if "low_res" in views else {})


def _numbers(label: int, step: int, index: int) -> dict[str, Tensor]:
    return {name: torch.tensor(n) for name, n in (("label", label), ("step", step), ("index", index))}


def _checked(resolution: int, crop: int | None, factor: int | None) -> tuple[int, int | None]:
    crop = resolution if crop is None else crop
    if not 0 < crop <= resolution:
        raise CascadeError(f"crop={crop} does not fit pictures of {resolution} px")
    if factor is not None and (factor < 1 or resolution % factor or crop % factor):
        raise CascadeError(f"resolution {resolution} and crop {crop} must be multiples of the factor {factor}")
    return crop, factor
