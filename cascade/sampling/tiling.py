"""Tiling: a denoiser asked for one part of a large picture at a time, so that memory does not grow with the picture."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cascade.diffusion import Condition, Denoiser, Posterior
from cascade.errors import CascadeError


@dataclass(frozen=True)
class Tiled:
    """x̂ = Σ_k w_k·x̂_k with Σ_k w_k = 1: the denoiser asked for each `tile` × `tile` part of x_t (B, C, H, W) by itself.

    A tile is shown `overlap` pixels of its neighbours on each side, as far as the picture goes. Its weight w_k falls
    from 1 to 0 across each seam as a half cosine, from `blend` pixels on its own side to `blend` pixels on the other.
    At the default, 1, a pixel is read from no tile that ends less than `overlap` pixels away: once `overlap` exceeds
    the network's receptive radius (`receptive_radius_for(factor)` behind a low-res picture) this is the full frame, to
    rounding. Where the network reaches farther than any overlap, blend = overlap hides its seams.

    `tile` and `overlap` are multiples of the low-res factor, and of the network's `multiple`, which alone makes tiles
    begin on the network's own grid. Mean and `variance_fraction` are put together; the covariance and the uncertainty
    of a whole picture are dropped. It knows no whole picture: dynamic thresholding sits outside it.

    Raises CascadeError for sizes that are none, and a low-res picture that they do not fit.

    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.zeros(12), torch.eye(12))  # of 2 × 2 pixels of 3 colours
    >>> x_t = torch.arange(48.0).reshape(1, 3, 4, 4)
    >>> posterior = Tiled(oracle, tile=2, overlap=0)(x_t, torch.zeros(1), Condition())
    >>> torch.allclose(posterior.mean, x_t * 0.5**0.5)
    True
    """

    denoiser: Denoiser
    tile: int
    overlap: int
    blend: int = 1

    def __post_init__(self) -> None:
        if self.tile < 1 or self.overlap < 0:
            raise CascadeError(f"a tile is at least 1 pixel and its overlap 0, not {self.tile} and {self.overlap}")
        if not 0 <= self.blend <= max(self.overlap, 1):
            raise CascadeError(f"tiles that overlap by {self.overlap} pixels blend over 0 to that, not {self.blend}")

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        """The posterior of x_t (B, C, H, W), put together from those of its tiles."""
        factor = self._factor(x_t, condition)
        height, width = x_t.shape[-2:]
        if max(height, width) <= self.tile:
            return self.denoiser(x_t, log_snr, condition)
        mean = fraction = None
        for rows in self._spans(height):
            for columns in self._spans(width):
                posterior = self.denoiser(
                    x_t[..., rows.seen, columns.seen], log_snr, _cropped(condition, rows.seen, columns.seen, factor)
                )
                weight = (rows.weight[:, None] * columns.weight).to(posterior.mean)
                mean = _added(mean, posterior.mean * weight, x_t.shape, rows.seen, columns.seen)
                if posterior.variance_fraction is not None:
                    part = posterior.variance_fraction * weight
                    fraction = _added(fraction, part, x_t.shape, rows.seen, columns.seen)
        assert mean is not None
        return Posterior(mean, variance_fraction=fraction)

    def _factor(self, x_t: Tensor, condition: Condition) -> int:
        if condition.low_res is None:
            return 1
        factor = x_t.shape[-1] // condition.low_res.shape[-1]
        for name in ("tile", "overlap"):
            if factor < 1 or getattr(self, name) % factor:
                raise CascadeError(f"{name}={getattr(self, name)} is no multiple of the low-res factor {factor}")
        return factor

    def _spans(self, side: int) -> "Iterator[_Span]":
        blend = min(self.blend, self.overlap)  # a neighbour adds nothing where it is not shown the picture
        for start in range(0, side, self.tile):
            stop = min(start + self.tile, side)
            seen = slice(max(0, start - self.overlap), min(stop + self.overlap, side))
            weight = torch.ones(seen.stop - seen.start, dtype=torch.float64)
            place = torch.arange(seen.start, seen.stop, dtype=torch.float64) + 0.5
            if start > 0:
                weight = weight * _ramp(place - start, blend)
            if stop < side:
                weight = weight * _ramp(stop - place, blend)
            yield _Span(seen, weight)


@dataclass(frozen=True)
class _Span:
    """A tile along one side of the picture: the pixels that it is shown, and the weight of each."""

    seen: slice
    weight: Tensor


def _ramp(inside: Tensor, blend: int) -> Tensor:
    """½ + ½·sin(π/2·d/blend) of the distance d inside a seam, 0 and 1 beyond ±blend: with the neighbour's it adds to 1.

    >>> _ramp(torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]), 2)
    tensor([0.0000, 0.1464, 0.5000, 0.8536, 1.0000])
    """
    if blend == 0:
        return (inside > 0).to(inside)
    return 0.5 + 0.5 * torch.sin(math.pi / 2 * (inside / blend).clamp(-1, 1))


def _cropped(condition: Condition, rows: slice, columns: slice, factor: int) -> Condition:
    if condition.low_res is None:
        return condition
    low = condition.low_res[..., _over(rows, factor), _over(columns, factor)]
    return replace(condition, low_res=low)


def _over(span: slice, factor: int) -> slice:
    return slice(span.start // factor, span.stop // factor)


def _added(total: Tensor | None, part: Tensor, shape: torch.Size, rows: slice, columns: slice) -> Tensor:
    if total is None:
        total = part.new_zeros(shape)
    total[..., rows, columns] += part
    return total
