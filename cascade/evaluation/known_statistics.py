"""Mean and covariance of features in a file, as FID statistics are exchanged: `.npz` with `mu` and `sigma`."""

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cascade.errors import CascadeError
from cascade.evaluation.features import Features
from cascade.evaluation.figures import Figure, frechet_figure
from cascade.evaluation.statistics import Statistics, statistics_of
from cascade.files import expanded, sha256_of

_LARGEST = 1 << 31  # bytes of a matrix; a file that claims more is none of these
_KEYS = ("mu", "sigma", "count", "features", "weights", "resize")


@dataclass(frozen=True)
class KnownStatistics:
    """Mean (d,) and covariance (d, d), float64, of features that somebody has measured; None: it is not said.

    A Fréchet distance can be computed from them, and nothing else.

    >>> KnownStatistics(Path("a.npz"), torch.zeros(2), torch.eye(2), sha256="").count is None
    True
    """

    path: Path
    mean: Tensor
    covariance: Tensor
    sha256: str
    count: int | None = None
    features: str | None = None
    weights: str | None = None
    resize: str | None = None

    def check(self, features: Features) -> None:
        """Raise CascadeError if they are of other features than these, as far as they say."""
        if len(self.mean) != features.dim:
            raise CascadeError(f"{self.path} is of {len(self.mean)} features, and {features.name} has {features.dim}")
        for what, own, other in (
            ("features", self.features, features.name),
            ("weights", self.weights, features.sha256),
            ("resize", self.resize, features.resize),
        ):
            if own is not None and own != other:
                raise CascadeError(f"{self.path} was measured with {what} '{own}', and here it is '{other}'")

    def record(self) -> dict[str, Any]:
        """What the report says of them."""
        return {"statistics": str(self.path), "fingerprint": self.sha256, "count": self.count}

    def frechet(
        self, generated: Tensor, features: Features, *, allow_few_images: bool = False
    ) -> tuple[list[Figure], list[str]]:
        """The Fréchet distance of features (N, d) to them, and a line for each figure that is left out."""
        theirs = Statistics(self.mean, self.covariance, len(generated) if self.count is None else self.count)
        figure, line = frechet_figure(statistics_of(generated), theirs, features, allow_few_images=allow_few_images)
        rest = f"no other distance: {self.path} holds a mean and a covariance, and no features or pictures"
        figures = [] if figure is None else [replace(figure, num_reference=self.count)]
        return figures, [*([] if line is None else [line]), rest]


def statistics_bytes(features_of_pictures: Tensor, features: Features) -> bytes:
    """Mean and covariance of features (N, d) as `.npz`, with what they are of: the same bytes each time.

    Keys are those of pytorch-fid and torch-fidelity, `mu` and `sigma`; beside them `count`, and name, `weights` (their
    SHA-256) and `resize` of the features.
    """
    found = statistics_of(features_of_pictures)
    file = io.BytesIO()
    np.savez(
        file,
        mu=found.mean.numpy(),
        sigma=found.covariance.numpy(),
        count=np.int64(found.count),
        features=np.str_(features.name),
        weights=np.str_(features.sha256),
        resize=np.str_(features.resize),
    )
    return file.getvalue()


def read_statistics(path: str | Path) -> KnownStatistics:
    """Read a file of statistics, ours or anybody's; no code in it is run. Raises CascadeError for anything else."""
    path = expanded(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            if not {"mu", "sigma"} <= set(file.files):
                raise CascadeError(f"{path} holds no 'mu' and 'sigma'")
            sizes = [file.zip.getinfo(f"{key}.npy").file_size for key in _KEYS if key in file.files]
            if max(sizes) > _LARGEST:
                raise CascadeError(f"{path} is too large to hold a covariance")
            mean, covariance = (torch.from_numpy(file[key].astype(np.float64)) for key in ("mu", "sigma"))
            said = {key: str(file[key]) for key in ("features", "weights", "resize") if key in file.files}
            count = int(file["count"]) if "count" in file.files else None
    except FileNotFoundError as error:
        raise CascadeError(f"{path} does not exist") from error
    except CascadeError:
        raise
    except Exception as error:  # whatever numpy and zipfile raise for a file that is none of theirs
        raise CascadeError(f"{path} is no .npz of statistics ('mu' and 'sigma')") from error
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise CascadeError(f"{path}: mu {tuple(mean.shape)} and sigma {tuple(covariance.shape)} do not fit")
    if not (torch.isfinite(mean).all() and torch.isfinite(covariance).all()):
        raise CascadeError(f"{path} holds NaN or infinity")
    return KnownStatistics(path, mean, covariance, sha256_of(path), count, **said)
