"""Everything that is measured on a set of pictures while they pass by, and the figures of two such sets."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.errors import CascadeError
from cascade.evaluation.colour import low_res_consistency, pooled_rms
from cascade.evaluation.features import Features
from cascade.evaluation.figures import Figure
from cascade.evaluation.spectrum import RadialSpectrum, SpectrumSum, high_band_ratio

_DETAIL = 0.5  # of Nyquist: above it lies the fine detail of a picture


@dataclass(frozen=True)
class Measurement:
    """Features (N, d) of N square pictures of `side` px, their spectrum, and how they agree with low-res inputs.

    `rms` (N,) and `shift` (N, 3) are those of `Consistency`, `low_res` is the side of the inputs; all three are None
    where the pictures were not made from others.

    >>> spectrum = SpectrumSum()
    >>> spectrum.add(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    >>> Measurement(torch.zeros(2, 32), spectrum.spectrum(), side=8).low_res is None
    True
    """

    features: Tensor
    spectrum: RadialSpectrum
    side: int
    low_res: int | None = None
    rms: Tensor | None = None
    shift: Tensor | None = None


def measure(
    pictures: Iterable[tuple[Tensor, Tensor | None]],
    features: Features,
    done: Callable[[int], object] = lambda _: None,
    batch: int = 16,
) -> Measurement:
    """Measure uint8 pictures (3, R, R), each with the low-res one it was made from or None, in bounded memory.

    `done(n)` is called as the first n are through. `batch` pictures are held at once; what is measured does not depend
    on it, for the features' own network meets batches of a fixed size, and all else is done picture by picture.
    Raises CascadeError for no pictures, or pictures of several sizes.
    """
    rows, spectrum, consistencies = [], SpectrumSum(), []
    side = low_side = None
    count = 0
    for held in _batches(pictures, batch):
        images = torch.stack([image for image, _ in held])
        side = images.shape[-1]
        rows.append(features(images))
        spectrum.add(images)
        for image, low in held:
            if low is not None:
                low_side = low.shape[-1]
                consistencies.append(low_res_consistency(image[None], low[None]))
        count += len(held)
        done(count)
    if side is None:
        raise CascadeError("there are no pictures to measure")
    if not consistencies:
        return Measurement(torch.cat(rows), spectrum.spectrum(), side)
    rms, shift = (torch.cat([getattr(c, name) for c in consistencies]) for name in ("rms", "shift"))
    return Measurement(torch.cat(rows), spectrum.spectrum(), side, low_side, rms, shift)


def pixel_figures(generated: Measurement, reference: Measurement) -> list[Figure]:
    """Return what is measured on pixels: power of fine detail against the reference, agreement with the low-res input.

    Fine detail is what lies above half of Nyquist; behind a super-resolution stage also what lies above the Nyquist
    frequency of its input, which is all that the stage adds.
    """
    ours, theirs = generated.spectrum, reference.spectrum
    bands = {"high-band power ratio": _DETAIL}
    if generated.low_res is not None and generated.low_res / generated.side < _DETAIL:
        bands["added-band power ratio"] = generated.low_res / generated.side
    figures = [
        Figure(
            f"{name} (>{above:g} Nyquist)",
            high_band_ratio(ours, theirs, above),
            num_images=ours.count,
            num_reference=theirs.count,
            resize=f"measured at {generated.side} px",
        )
        for name, above in bands.items()
    ]
    if generated.rms is not None and generated.shift is not None:
        common = {
            "num_images": len(generated.rms),
            "resize": f"training's shrinking to {generated.low_res} px",
        }
        rms = torch.tensor(pooled_rms(generated.rms), dtype=torch.float64)
        figures.append(Figure("low-res RMS", rms.item(), unit="levels", **common))
        figures.append(Figure("low-res PSNR", (20 * torch.log10(255 / rms)).item(), unit="dB", **common))
        for colour, values in zip(("red", "green", "blue"), generated.shift.unbind(1), strict=True):
            error = values.std().item() / len(values) ** 0.5 if len(values) > 1 else None
            figures.append(
                Figure(f"colour shift {colour}", values.mean().item(), standard_error=error, unit="levels", **common)
            )
    return figures


def _batches(
    pictures: Iterable[tuple[Tensor, Tensor | None]], size: int
) -> Iterable[list[tuple[Tensor, Tensor | None]]]:
    batch: list[tuple[Tensor, Tensor | None]] = []
    for picture in pictures:
        if batch and picture[0].shape != batch[0][0].shape:
            one, other = (f"{p[0].shape[-1]}×{p[0].shape[-2]}" for p in (batch[0], picture))
            raise CascadeError(f"pictures of {one} and of {other} px cannot be measured together")
        batch.append(picture)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
