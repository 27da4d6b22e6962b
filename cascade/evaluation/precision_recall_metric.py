"""Precision and recall as a torchmetrics metric, for whoever collects pictures batch by batch."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from cascade.errors import CascadeError
from cascade.evaluation.features import Features
from cascade.evaluation.precision_recall import PrecisionRecall, precision_recall


class PrecisionRecallMetric(Metric):
    """`precision_recall` of pictures that arrive in pieces, on one process or several.

    `update(images, real=True)` takes uint8 pictures (B, 3, H, W), and with `features=None` features (B, d). They are
    kept in float32 or better, whatever the metric is cast to; the network of `features` is no part of the module tree,
    so no `.train()`, `.half()` or state dict reaches it. The result does not depend on order or pieces, nor on which
    process has which pictures, be it none.

    >>> metric = PrecisionRecallMetric(k=1)
    >>> metric.update(torch.arange(8.0)[:, None], real=True)
    >>> metric.update(torch.arange(3.0)[:, None], real=False)
    >>> metric.compute()
    {'precision': tensor(1., dtype=torch.float64), 'recall': tensor(0.5000, dtype=torch.float64)}
    """

    is_differentiable = False
    full_state_update = False
    real: list[Tensor]
    fake: list[Tensor]

    def __init__(self, features: Features | None = None, k: int = 3, **settings: Any) -> None:
        super().__init__(**{"dist_sync_fn": _gathered, **settings})
        self._features, self._k = features, k
        self.add_state("real", default=[], dist_reduce_fx="cat")
        self.add_state("fake", default=[], dist_reduce_fx="cat")

    def update(self, images: Tensor, real: bool) -> None:
        """Add pictures, or features where there is no network; raises CascadeError for features that are not (B, d)."""
        rows = images if self._features is None else self._features(images)
        if rows.ndim != 2 or not rows.is_floating_point():
            raise CascadeError(f"expected features (B, d), not {rows.dtype} {tuple(rows.shape)}")
        rows = rows.detach().to(self.device, torch.promote_types(rows.dtype, torch.float32))
        (self.real if real else self.fake).append(rows)

    def compute(self) -> dict[str, Tensor]:
        """Return precision and recall, float64; raises CascadeError with k pictures or fewer on a side."""
        if not (len(self.real) and len(self.fake)):
            raise CascadeError("precision and recall need real and generated pictures")
        found: PrecisionRecall = precision_recall(dim_zero_cat(self.real), dim_zero_cat(self.fake), self._k)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found._asdict().items()}


def _gathered(rows: Tensor, group: Any = None) -> list[Tensor]:
    """The rows of all processes; one that has none, whose state torchmetrics makes up, learns their size and type."""
    own = (rows.shape[1], rows.dtype) if rows.ndim == 2 else None
    told: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(told, own, group=group)
    there = next((one for one in told if one is not None), None)
    if own is None and there is not None:
        rows = rows.new_zeros(0, there[0], dtype=there[1])
    return gather_all_tensors(rows, group)
