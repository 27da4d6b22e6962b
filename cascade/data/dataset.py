"""What every source of pictures offers, and nothing more."""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

UNLABELLED = -1
"""The label of a picture without a class: the null label of every network."""


@runtime_checkable
class PictureDataset(Protocol):
    """Square pictures of one resolution, each always the same, decoded or drawn when asked for.

    `image(i)` is uint8 (3, R, R), `label(i)` an index into `class_names`, or −1 in an unlabelled dataset, whose
    `class_names` is empty. `fingerprint` names the content: two datasets with the same one hold the same pictures in
    the same order. A dataset is picklable, so that loader workers can carry it.
    """

    @property
    def resolution(self) -> int: ...

    @property
    def class_names(self) -> list[str]: ...

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def image(self, i: int, /) -> "Tensor": ...

    def label(self, i: int, /) -> int: ...
