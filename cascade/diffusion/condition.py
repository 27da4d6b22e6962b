"""What a denoiser is told besides the noisy image and its level."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NULL_LABEL = -1


@dataclass(frozen=True, eq=False)
class Condition:
    """The condition of a batch of B images; a field that a model does not have is None.

    label        (B,) int64. −1 and num_classes both mean "no class": whoever reads it takes it modulo num_classes + 1.
    low_res      (B, 3, h, w), the low-resolution picture, already augmented: α_a·low + σ_a·ε; or what else is shown of
                 a picture, with a mask of the pixels that are known as a fourth channel.
    aug_log_snr  (B,), the level of that augmentation as a log-SNR; +inf = clean.
    augment      (B, k), the geometric augmentation of a training image; None or zeros when sampling.

    >>> condition = Condition(label=torch.tensor([3, 5]))
    >>> condition.drop(torch.tensor([True, False])).label
    tensor([-1,  5])
    >>> condition.null().label
    tensor([-1, -1])
    """

    label: Tensor | None = None
    low_res: Tensor | None = None
    aug_log_snr: Tensor | None = None
    augment: Tensor | None = None

    def drop(self, mask: Tensor) -> "Condition":
        """Return the condition without the labels where `mask` (B,) bool is true; the other fields stay.

        This is the training half of classifier-free guidance (Ho & Salimans 2022, algorithm 1).
        """
        if self.label is None:
            return self
        return self._with_label(torch.where(mask.to(self.label.device), NULL_LABEL, self.label))

    def null(self) -> "Condition":
        """Return the condition without any label: the other branch of guidance. The low-res picture stays."""
        if self.label is None:
            return self
        return self._with_label(torch.full_like(self.label, NULL_LABEL))

    def take(self, index: Tensor | slice) -> "Condition":
        """Return the condition of the images `index` of the batch: a slice, or a tensor of indices or of booleans.

        >>> Condition(label=torch.tensor([3, 5, 7])).take(slice(1, 3)).label
        tensor([5, 7])
        """
        return self._map(lambda field: field[index])

    def to(self, device: torch.device | str) -> "Condition":
        """Return the condition with every field on `device`."""
        return self._map(lambda field: field.to(device))

    def clone(self) -> "Condition":
        """Return the condition with its fields copied: outside of inference mode autograd may keep the copies.

        >>> with torch.inference_mode():
        ...     condition = Condition(label=torch.tensor([3]))
        >>> condition.clone().label.is_inference()
        False
        """
        return self._map(lambda field: field.clone())

    def _with_label(self, label: Tensor) -> "Condition":
        return Condition(label, self.low_res, self.aug_log_snr, self.augment)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Condition":
        fields = (self.label, self.low_res, self.aug_log_snr, self.augment)
        return Condition(*(None if field is None else function(field) for field in fields))


UNCONDITIONED = Condition()
"""The condition that says nothing."""
