"""One stage ready to sample: a denoiser under its guidance and threshold, a sampler, a grid, and a fixed chunk size."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cascade.arithmetic import PLAIN, Arithmetic, named
from cascade.artifact import Stage, StageSampling, check_aug_level
from cascade.classifier import Classifier
from cascade.data.degradation import from_uint8, to_uint8
from cascade.diffusion import NULL_LABEL, Condition, Denoiser, Posterior, alpha_sigma
from cascade.distilled import refuse_distilled
from cascade.errors import CascadeError
from cascade.full_float32 import full_float32
from cascade.guidance_settings import Guide, guides_of, with_guides
from cascade.guides import as_function, check_guide, denoiser_of, load_guide
from cascade.plain_json import without_infinity
from cascade.registry import build, complete
from cascade.rng import ImageNoise
from cascade.sampling import KeepKnown, Sampler
from cascade.sampling.grid import cut

START_STEP = -1
"""The step that names the noise sampling starts from."""
AUGMENTATION_STEP = -2
"""The step that names the noise added to the low-res picture: once for a picture and stage, at low resolution."""

Request = tuple[int | None, int]
"""The class of a picture (None: no class) and its seed."""


def bounded(denoiser: Denoiser, sampling: StageSampling) -> Denoiser:
    """Return what a sampler asks: the guided denoiser, thresholded, and outside of that the known pixels kept.

    >>> sampling = StageSampling(sampler={}, grid={}, threshold={"name": "static"})
    >>> denoiser = bounded(lambda x_t, log_snr, condition: Posterior(3 * x_t), sampling)
    >>> denoiser(torch.tensor([[[[0.25, 0.5]]]]), torch.zeros(1), Condition()).mean
    tensor([[[[0.7500, 1.0000]]]])
    """
    thresholded = build("threshold", sampling.threshold, denoiser=denoiser)
    return KeepKnown(thresholded) if sampling.keep_known else thresholded


@dataclass(frozen=True, eq=False)
class StageSampler:
    """A stage and what it is sampled with, and the objects built from that. Made by `prepare`, before any compute.

    `until` is the level where it stops, for a stage behind it that is truncated (+inf: at the picture), `guides` what
    its guidance and its sampler ask, by kind and folder. The pictures are those of one `arithmetic`.
    """

    stage: Stage
    sampling: StageSampling
    denoiser: Denoiser
    sampler: Sampler
    log_snrs: Tensor
    device: torch.device
    until: float = math.inf
    guides: Mapping[Guide, Stage | Classifier] = field(default_factory=dict)
    arithmetic: Arithmetic = PLAIN

    @classmethod
    def prepare(
        cls,
        stage: Stage,
        sampling: StageSampling,
        device: torch.device,
        precision: str,
        *,
        until: float = math.inf,
        load: Callable[[str, str, torch.device], Stage | Classifier] = load_guide,
    ) -> "StageSampler":
        """Build everything; raise CascadeError for an untrained augmentation level or a setting that does not exist.

        `precision` is the name of an arithmetic; `load(kind, folder, device)` reads a guide.
        """
        check_aug_level(stage.config, sampling.aug_log_snr)
        if math.isfinite(until):
            refuse_distilled(stage.config, "a truncated stage behind one")
        arithmetic, tile = named(precision), sampling.tile
        try:
            guides = {guide: load(*guide, device) for guide in guides_of(sampling)}
            for guide in guides.values():
                check_guide(guide, stage.config, sampling)
            asked = with_guides(sampling, lambda *guide: as_function(guides[guide], device, arithmetic, tile))
            guided = build("guidance", asked.guidance, denoiser=denoiser_of(stage, device, arithmetic, tile))
            denoiser = bounded(guided, sampling)
            sampler, log_snrs = build("sampler", asked.sampler), cut(build("grid", sampling.grid), until)
        except CascadeError as error:
            raise CascadeError(f"stage '{stage.config.name}': {error}") from error
        return cls(stage, sampling, denoiser, sampler, log_snrs, device, until, guides, arithmetic)

    def within(self, arithmetic: Arithmetic) -> "StageSampler":
        """The same in another arithmetic; of the two, the one made last may run."""
        load = lambda kind, folder, _: self.guides[kind, folder]  # noqa: E731
        return self.prepare(self.stage, self.sampling, self.device, arithmetic.name, until=self.until, load=load)

    @property
    def name(self) -> str:
        """The name of the stage."""
        return self.stage.config.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that the stage, or else the classifier that guides it, knows; empty if none does."""
        tables = [guide.config.class_names for guide in self.guides.values() if isinstance(guide, Classifier)]
        return next((table for table in (self.stage.config.class_names, *tables) if table), ())

    @property
    def steps(self) -> int:
        """The number of steps of the grid."""
        return len(self.log_snrs) - 1

    @property
    def chunk(self) -> int:
        """The number of pictures in a call of the network."""
        return self.sampling.network_batch

    def record(self) -> dict[str, Any]:
        """What the pixels depend on in this stage, as plain JSON values ("inf" for +inf).

        A guide is named by the SHA-256 of its weights. `truncated`, `until`, `tile`, `condition` and `keep_known` are
        there where they matter, so that what was sampled before they existed is still the same.
        """
        guided = with_guides(self.sampling, lambda *guide: self.guides[guide].sha256)
        truncation = {"truncated": True} if self.sampling.truncated else {}
        stop = {"until": self.until} if math.isfinite(self.until) else {}
        config = self.stage.config
        given = {} if config.shown.chained else {"condition": complete("condition", config.condition)}
        kept = {"keep_known": True} if self.sampling.keep_known else {}
        tiles = {} if self.sampling.tile is None else {"tile": self.sampling.tile}
        return without_infinity(
            {
                "stage": self.name,
                **stop,
                "sampler": complete("sampler", guided.sampler),
                "steps": self.steps,
                "grid": complete("grid", self.sampling.grid),
                "guidance": complete("guidance", guided.guidance),
                "threshold": complete("threshold", self.sampling.threshold),
                "aug_log_snr": self.sampling.aug_log_snr,
                "network_batch": self.chunk,
                "sha256": self.stage.sha256,
                **truncation,
                **given,
                **kept,
                **tiles,
                "precision": self.arithmetic.name,
            }
        )

    @torch.no_grad()
    def run(
        self, requests: Sequence[Request], low_res: Tensor | None, on_step: Callable[[int], None] | None = None
    ) -> Tensor:
        """Sample one chunk: at most `chunk` requests, with (n, 3, h, w) in a super-resolution stage.

        What the stage before has finished is uint8; where that stopped at this one's `aug_log_snr` it is x_λ, float32.
        Returns uint8 (n, 3, R, R) on the CPU, x_λ in float32 where this stage stops at `until`; R is the stage's
        resolution, or larger by as much as the low-res pictures are (which only tiles allow). The chunk is padded by
        repeating the last picture, so that the network always meets the same batch size. `on_step(i)` is called as step
        i begins.
        """
        padded = self._padded(requests)
        side = self.stage.config.side_from(None if low_res is None else low_res.shape[-1])
        noise = ImageNoise([seed for _, seed in padded], self.name, (3, side, side), self.device)
        x = alpha_sigma(self.log_snrs[0])[1].item() * noise(START_STEP)
        denoiser = self.denoiser if on_step is None else _Watched(self.denoiser, self.log_snrs, on_step)
        with full_float32():  # one picture on every device, but for bf16 and the order of sums
            made = self.sampler(denoiser, x, self.log_snrs, self._condition(padded, low_res), noise)[: len(requests)]
        if not bool(torch.isfinite(made).all()):
            raise CascadeError(f"stage '{self.name}' made a picture that is not finite: its weights are broken")
        return made.cpu() if math.isfinite(self.until) else to_uint8(made).cpu()

    @torch.no_grad()
    def picture(self, requests: Sequence[Request], made: Tensor, low_res: Tensor | None) -> Tensor:
        """What `run` made as a picture to look at, uint8 (n, 3, R, R): itself, or x̂ of an x_λ, by one network call."""
        if made.dtype == torch.uint8:
            return made
        padded = self._padded(requests)
        x = _padded_like(made, padded).to(self.device)
        level = torch.full((len(padded),), self.until, device=self.device)
        with full_float32():
            return to_uint8(self.denoiser(x, level, self._condition(padded, low_res)).mean[: len(requests)]).cpu()

    def shown(self, requests: Sequence[Request], low_res: Tensor) -> Tensor:
        """What the network is shown of uint8 pictures (n, 3, h, w), before noise: (n, channels, h, w) in [−1, 1]."""
        show, seeds = self.stage.config.shown, [seed for _, seed in requests]
        pictures = zip(from_uint8(low_res), seeds, strict=False)  # requests are padded, pictures not yet
        return torch.stack([show(picture, "sample", seed, self.name, "condition") for picture, seed in pictures])

    def _padded(self, requests: Sequence[Request]) -> list[Request]:
        return [*requests, *[requests[-1]] * (self.chunk - len(requests))]

    def _condition(self, requests: Sequence[Request], low_res: Tensor | None) -> Condition:
        config, label = self.stage.config, None
        if self.class_names:
            label = torch.tensor([NULL_LABEL if label is None else label for label, _ in requests])
        if low_res is None or self.sampling.aug_log_snr is None:
            return Condition(label).to(self.device)
        level = torch.full((len(requests),), float(self.sampling.aug_log_snr))
        if low_res.dtype != torch.uint8:  # x_λ has its noise already
            return Condition(label, _padded_like(low_res, requests), level).to(self.device)
        clean = _padded_like(self.shown(requests, low_res), requests)
        noise = ImageNoise([seed for _, seed in requests], self.name, tuple(clean.shape[1:]))
        augmented = build("augmentation", config.augmentation).apply(clean, level, noise(AUGMENTATION_STEP))
        return Condition(label, augmented, level).to(self.device)


def _padded_like(pictures: Tensor, requests: Sequence[Request]) -> Tensor:
    return torch.cat([pictures, pictures[-1:].expand(len(requests) - len(pictures), -1, -1, -1)])


@dataclass(frozen=True)
class _Watched:
    """A denoiser that tells how far along the grid it is called; so the samplers need no callback."""

    denoiser: Denoiser
    log_snrs: Tensor
    on_step: Callable[[int], None]

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        # Rounded to float32 on its way here, a level may lie just below its own place in the grid.
        level = log_snr[0].cpu().double() + 1e-4
        # A corrector asks at the level that its step ends at, the last one too.
        begun = int((self.log_snrs <= level).sum()) - 1
        self.on_step(min(max(0, begun), len(self.log_snrs) - 2))
        return self.denoiser(x_t, log_snr, condition)
