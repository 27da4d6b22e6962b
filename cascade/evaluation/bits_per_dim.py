"""Bits per dimension: an upper bound on what real 8-bit pictures cost under each stage of a cascade, and under all.

By the chain rule a cascade gives the pictures x_64, x_256, x_1024 of all its sizes together

    −ln P(x_64, x_256, x_1024) = −ln P(x_64) − ln P(x_256 | x_64) − ln P(x_1024 | x_256)

nats, and each term is bounded by the ELBO of its stage, told the real smaller picture. With conditioning augmentation
P(x | y) = E_z P(x | z) over the augmented y, so E_z[−ln P(x | z)] bounds −ln P(x | y) (Jensen). And P(x_1024) is the
sum of P(x_64, x_256, x_1024) over all smaller pictures, so what bounds the −ln of one term bounds −ln P(x_1024).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from cascade import rng
from cascade.data.degradation import from_uint8
from cascade.diffusion import (
    NULL_LABEL,
    Augmentation,
    Condition,
    Denoiser,
    Elbo,
    LinearLogSNRSchedule,
    ScheduleNoise,
    continuous_elbo,
    discrete_elbo,
)
from cascade.diffusion.reverse import Variance, check_variance
from cascade.errors import CascadeError
from cascade.evaluation.figures import Figure
from cascade.full_float32 import full_float32

PARTS = ("prior", "diffusion", "decoder")


class Bound(Protocol):
    """What pictures x (B, 3, R, R) cost in nats; `log_snrs` is the grid on which their stage is sampled."""

    kind: str
    """How the figure is named."""

    @property
    def grid_steps(self) -> int | None:
        """The steps that the grid is to have; None: its own."""
        ...

    @property
    def text(self) -> str:
        """What it is, in words."""
        ...

    def __call__(
        self, denoiser: Denoiser, x: Tensor, log_snrs: Tensor, condition: Condition, draws: "PictureDraws"
    ) -> Elbo: ...


@dataclass(frozen=True)
class DiscreteBound:
    """The bound of ancestral sampling, on the stage's own grid or with another number of steps (`discrete_elbo`).

    >>> DiscreteBound(steps=0)
    Traceback (most recent call last):
    cascade.errors.CascadeError: bound.steps=0 must be at least 1
    """

    steps: int | None = None
    variance: Variance = "small"
    kind = "bound"

    def __post_init__(self) -> None:
        check_variance(self.variance)
        if self.steps is not None and self.steps < 1:
            raise CascadeError(f"bound.steps={self.steps} must be at least 1")

    @property
    def grid_steps(self) -> int | None:
        """The steps that the grid is to have; None: its own."""
        return self.steps

    @property
    def text(self) -> str:
        """What it is, in words."""
        return f"{'its own' if self.steps is None else self.steps} steps, variance {self.variance}"

    def __call__(
        self, denoiser: Denoiser, x: Tensor, log_snrs: Tensor, condition: Condition, draws: "PictureDraws"
    ) -> Elbo:
        """Return the terms of each picture."""
        return discrete_elbo(denoiser, x, log_snrs, condition, draws, variance=self.variance)


@dataclass(frozen=True)
class ContinuousBound:
    """The bound for infinitely many steps (`continuous_elbo`), by `points` stratified levels, uniform in λ.

    Between log_snr_min and log_snr_max; None: between the ends of the stage's sampling grid.

    >>> ContinuousBound(log_snr_min=-13.3, log_snr_max=13.3).points
    32
    """

    points: int = 32
    log_snr_min: float | None = None
    log_snr_max: float | None = None
    grid_steps = None
    kind = "bound"

    def __post_init__(self) -> None:
        if self.points < 1:
            raise CascadeError(f"bound.points={self.points} must be at least 1")

    @property
    def text(self) -> str:
        """What it is, in words."""
        return f"continuous time, {self.points} levels"

    def __call__(
        self, denoiser: Denoiser, x: Tensor, log_snrs: Tensor, condition: Condition, draws: "PictureDraws"
    ) -> Elbo:
        """Return the terms of each picture."""
        noise = ScheduleNoise(LinearLogSNRSchedule(*ends(log_snrs, self.log_snr_min, self.log_snr_max)))
        return continuous_elbo(denoiser, x, noise, condition, draws, points=self.points)


def ends(log_snrs: Tensor, log_snr_min: float | None, log_snr_max: float | None) -> tuple[float, float]:
    """Return the levels that are given, where they are None the first and the last finite level of the grid.

    Raises CascadeError unless they are in order.

    >>> ends(torch.tensor([-9.0, 0.0, 11.0, math.inf]), None, 5.0)
    (-9.0, 5.0)
    """
    finite = log_snrs[log_snrs.isfinite()]
    low = float(finite[0]) if log_snr_min is None else log_snr_min
    high = float(finite[-1]) if log_snr_max is None else log_snr_max
    if not low < high:
        raise CascadeError(f"the bound runs from a log-SNR to a larger one, not from {low:g} to {high:g}")
    return low, high


@dataclass(frozen=True, eq=False)
class Example:
    """A real picture, uint8 (3, R, R), its class (None: none), and the real smaller one of a super-resolution stage.

    `index` is its place in the data: it names the picture's noise, whatever else is measured with it.

    >>> Example(7, torch.zeros(3, 8, 8, dtype=torch.uint8), label=2).low_res is None
    True
    """

    index: int
    image: Tensor
    label: int | None = None
    low_res: Tensor | None = None


@dataclass(frozen=True, eq=False)
class JudgedStage:
    """A stage whose pictures are judged: its denoiser, bare of guidance and thresholding, and what that is told.

    `log_snrs` is its sampling grid, `chunk` the fixed number of pictures in a call; `aug_log_snr` None: a base stage.

    >>> from cascade.diffusion import DiagonalGaussian, NoAugmentation
    >>> grid = torch.tensor([-9.0, 0.0, 9.0, math.inf], dtype=torch.float64)
    >>> stage = JudgedStage("base", DiagonalGaussian(0.2), grid, labelled=False, chunk=2, augmentation=NoAugmentation())
    >>> pictures = [Example(i, torch.full((3, 4, 4), 128, dtype=torch.uint8)) for i in range(3)]
    >>> stage.nats(DiscreteBound(), pictures, seed=0).total.shape
    torch.Size([3])
    """

    name: str
    denoiser: Denoiser
    log_snrs: Tensor
    labelled: bool
    chunk: int
    augmentation: Augmentation
    aug_log_snr: float | None = None
    device: torch.device | str = "cpu"

    @torch.no_grad()
    def nats(
        self, bound: Bound, examples: Iterable[Example], seed: int, done: Callable[[int], object] = lambda _: None
    ) -> Elbo:
        """Return the terms of N pictures, (N,) float64 each on the CPU; `done(n)` is called as n are through.

        The noise of a picture is named by (seed, stage, picture, term) and chunks are padded to one size, so its figure
        does not depend on the others.
        """
        found: list[Elbo] = []
        count = 0
        for chunk in _chunks(examples, self.chunk):
            padded = [*chunk, *[chunk[-1]] * (self.chunk - len(chunk))]
            draws = PictureDraws(seed, self.name, [one.index for one in padded], padded[0].image.shape, self.device)
            x = from_uint8(torch.stack([one.image for one in padded])).to(self.device)
            with full_float32():
                terms = bound(self.denoiser, x, self.log_snrs, self._condition(padded, draws), draws)
            found.append(Elbo(*(part[: len(chunk)].cpu() for part in (terms.prior, terms.diffusion, terms.decoder))))
            count += len(chunk)
            done(count)
        if not found:
            raise CascadeError("there are no pictures to judge")
        every = joined(found)
        if not bool(every.total.isfinite().all()):
            raise CascadeError(f"stage '{self.name}' gives a picture no finite number of nats: its weights are broken")
        return every

    def _condition(self, examples: Sequence[Example], draws: "PictureDraws") -> Condition:
        label = None
        if self.labelled:
            label = torch.tensor([NULL_LABEL if one.label is None else one.label for one in examples])
        if self.aug_log_snr is None:
            return Condition(label).to(self.device)
        low_res = from_uint8(torch.stack([one.low_res for one in examples if one.low_res is not None]))
        level = torch.full((len(low_res),), float(self.aug_log_snr))
        told = self.augmentation.apply(low_res, level, draws.augmentation(low_res.shape[1:]))
        return Condition(label, told, level).to(self.device)


@dataclass(frozen=True)
class PictureDraws:
    """Random numbers that are functions of (seed, stage, picture, term): those of a picture, in whatever batch.

    >>> alone, both = (PictureDraws(0, "sr", pictures, (1,)) for pictures in ([7], [3, 7]))
    >>> torch.equal(alone.normal(4)[0], both.normal(4)[1])
    True
    """

    seed: int
    stage: str
    pictures: Sequence[int]
    shape: Sequence[int]
    device: torch.device | str = "cpu"

    def normal(self, term: int) -> Tensor:
        """Standard normal (B, *shape)."""
        return self._stacked(rng.randn, "noise", term, self.shape)

    def uniform(self, term: int) -> Tensor:
        """Uniform on [0, 1), (B,)."""
        return self._stacked(rng.uniform, "level", term, ())

    def augmentation(self, shape: Sequence[int]) -> Tensor:
        """Standard normal (B, *shape), for the smaller pictures; on the CPU."""
        return self._stacked(rng.randn, "augmentation", 0, shape).cpu()

    def dequantisation(self) -> Tensor:
        """Uniform on [0, 1), (B, *shape): where in its bin a number of 8 bits lies."""
        return self._stacked(rng.uniform, "dequantisation", 0, self.shape)

    def probe_seeds(self) -> list[str]:
        """A name for each picture's probes of a trace."""
        return [f"bits_per_dim/{self.seed}/{self.stage}/{picture}" for picture in self.pictures]

    def _stacked(self, draw: Callable[..., Tensor], purpose: str, term: int, shape: Sequence[int]) -> Tensor:
        names = [("bits_per_dim", self.seed, self.stage, picture, purpose, term) for picture in self.pictures]
        return torch.stack([draw(*name, shape=tuple(shape)) for name in names]).to(self.device)


def joined(pieces: Sequence[Elbo]) -> Elbo:
    """The terms of all pictures, from those of pieces in their order.

    >>> joined([Elbo(*torch.ones(3, n)) for n in (2, 1)]).total
    tensor([3., 3., 3.])
    """
    return Elbo(*(torch.cat([getattr(piece, part) for piece in pieces]) for part in PARTS))


def elbo_bytes(terms: Elbo) -> bytes:
    """The terms of some pictures as safetensors; `elbo_from` reads them."""
    return safetensors.torch.save({part: getattr(terms, part).contiguous() for part in PARTS})


def elbo_from(data: bytes) -> Elbo:
    """Read what `elbo_bytes` has made; raises CascadeError for anything else.

    >>> elbo_from(elbo_bytes(Elbo(*torch.ones(3, 2)))).total
    tensor([3., 3.])
    """
    try:
        return Elbo(**safetensors.torch.load(data))
    except (SafetensorError, ValueError, TypeError) as error:
        raise CascadeError("it holds no terms of a bound") from error


def bits_figures(stages: Mapping[str, tuple[Elbo, int]], notes: Mapping[str, str], kind: str = "bound") -> list[Figure]:
    """Return for each stage, and for all together, bits per dimension and nats with their standard errors.

    `stages` are name → (terms of the same N pictures, side of the stage's pictures) in order; `notes` name → what is
    bounded, in words. The sum counts the numbers of the largest picture. The error is that of the mean over pictures.
    `kind` stands behind each name.

    >>> terms = Elbo(torch.zeros(2), torch.tensor([1.0, 3.0]), torch.zeros(2))
    >>> [(figure.name, round(figure.value, 4)) for figure in bits_figures({"base": (terms, 1)}, {"base": ""})]
    [('bits/dim base (bound)', 0.9618), ('nats base (bound)', 2.0)]
    """
    rows = [(name, terms, side, notes[name]) for name, (terms, side) in stages.items()]
    if len(rows) > 1:
        largest = rows[-1][2]
        parts = (sum(getattr(terms, part) for terms, _ in stages.values()) for part in PARTS)
        rows.append(("all stages", Elbo(*parts), largest, notes["all stages"]))
    return [figure for name, terms, side, note in rows for figure in _pair(name, kind, terms, side, note)]


def _pair(name: str, kind: str, terms: Elbo, side: int, note: str) -> list[Figure]:
    nats = terms.total
    error = nats.std().item() / math.sqrt(len(nats)) if len(nats) > 1 else None
    figures = []
    for unit, scale in (("bits/dim", 1 / (3 * side**2 * math.log(2))), ("nats", 1.0)):
        parts = {part: getattr(terms, part).mean().item() * scale for part in PARTS}
        figures.append(
            Figure(
                f"{unit} {name} ({kind})",
                nats.mean().item() * scale,
                num_images=len(nats),
                resize=note,
                standard_error=None if error is None else error * scale,
                unit=unit,
                details=parts,
            )
        )
    return figures


def _chunks(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    rest = iter(examples)
    while chunk := list(islice(rest, size)):
        yield chunk
