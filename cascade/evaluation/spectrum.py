"""How much detail of each size a picture has: its power over spatial frequency."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.errors import CascadeError


@dataclass(frozen=True)
class RadialSpectrum:
    """Mean power over rings of spatial frequency.

    `frequency` (K,) in cycles per pixel, from 1/side to √½ (the corners; ½ is Nyquist), `power` (K,) in squared levels
    of 255 for each frequency cell, `cells` (K,) how many cells lie in the ring, all float64; `count` pictures.

    >>> ramp = torch.arange(4.0, dtype=torch.float64)
    >>> spectrum = RadialSpectrum(frequency=ramp / 8, power=ramp, cells=torch.ones(4, dtype=torch.float64), count=1)
    >>> spectrum.band(above=0.2)
    2.0
    """

    frequency: Tensor
    power: Tensor
    cells: Tensor
    count: int

    def band(self, above: float) -> float:
        """Return the mean power of all cells whose frequency is above `above`·Nyquist."""
        inside = self.frequency > above / 2
        if not inside.any():
            raise CascadeError(f"no frequency of the picture lies above {above} of Nyquist")
        return ((self.power * self.cells)[inside].sum() / self.cells[inside].sum()).item()


class SpectrumSum:
    """The power of pictures that arrive in pieces; see `radial_power_spectrum`.

    >>> pieces = SpectrumSum()
    >>> for _ in range(2):
    ...     pieces.add(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    >>> pieces.spectrum().count
    2
    """

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._count = 0

    def add(self, images: Tensor) -> None:
        """Add uint8 pictures (B, 3, R, R)."""
        for image in images:  # one by one: neither memory nor the sum depends on the pieces
            power = _power(image[None])[0]
            if self._total is not None and self._total.shape != power.shape:
                raise CascadeError(f"pictures of {len(power)} and {len(self._total)} px have no common spectrum")
            self._total = power if self._total is None else self._total + power
        self._count += len(images)

    def spectrum(self) -> RadialSpectrum:
        """Return the mean over the pictures so far, averaged over rings."""
        if self._total is None:
            raise CascadeError("there are no pictures to take a spectrum of")
        side = len(self._total)
        cycles = torch.fft.fftfreq(side, d=1 / side, dtype=torch.float64)
        radius = torch.hypot(cycles[:, None], cycles[None]).flatten()
        ring = radius.round().long()
        cells = torch.bincount(ring).double()
        power = torch.zeros_like(cells).index_add_(0, ring, (self._total / self._count).flatten())
        mean_radius = torch.zeros_like(cells).index_add_(0, ring, radius) / cells
        # Ring 0 is the constant, which was taken out.
        return RadialSpectrum(mean_radius[1:] / side, (power / cells)[1:], cells[1:], self._count)


def radial_power_spectrum(images: Tensor | Iterable[Tensor]) -> RadialSpectrum:
    """Mean over pictures of |FFT(w·(y − ȳ))|²/Σw², averaged over rings one cycle per picture wide.

    `images` are uint8 (B, 3, R, R), or several such of one size. y is the mean of the three colours, in levels; w the
    separable Hann window, without which the jump from one border to the opposite one would pass for detail. White noise
    of variance v has power v at every frequency. Raises CascadeError for no pictures, other types, or pictures that are
    not square or below 8 px.

    >>> noise = torch.randint(0, 256, (64, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    >>> spectrum = radial_power_spectrum(noise)
    >>> round(spectrum.band(above=0.5) / (noise.double().var().item() / 3), 1)
    1.0
    """
    total = SpectrumSum()
    for batch in [images] if isinstance(images, Tensor) else images:
        total.add(batch)
    return total.spectrum()


def high_band_ratio(images: RadialSpectrum, reference: RadialSpectrum, above: float = 0.5) -> float:
    """Power of `images` over that of `reference`, in the band above `above`·Nyquist.

    1 is as much fine detail as the reference; below ½ looks soft, above 2 grainy. Behind a super-resolution stage of
    factor f the detail that the stage itself has to invent lies above 1/f.

    >>> one = RadialSpectrum(torch.tensor([0.1, 0.4]), torch.tensor([8.0, 2.0]), torch.tensor([4.0, 4.0]), 1)
    >>> high_band_ratio(one, one)
    1.0
    """
    power, real = images.band(above), reference.band(above)
    return power / real if real > 0 else math.inf


def _power(images: Tensor) -> Tensor:
    """Return the power (B, R, R) of uint8 pictures (B, 3, R, R)."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise CascadeError(f"expected uint8 pictures (B, 3, R, R), not {images.dtype} {tuple(images.shape)}")
    side = images.shape[-1]
    if images.shape[-2] != side or side < 8:
        raise CascadeError(f"a spectrum needs square pictures of at least 8 px, not {side}×{images.shape[-2]}")
    grey = images.cpu().double().mean(1)
    grey = grey - grey.mean((-1, -2), keepdim=True)
    hann = torch.hann_window(side, dtype=torch.float64)
    window = hann[:, None] * hann[None]
    return torch.fft.fft2(grey * window).abs().square() / window.square().sum()
