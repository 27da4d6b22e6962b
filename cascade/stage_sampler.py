"""One stage ready to sample: a denoiser under its guidance and threshold, a sampler, a grid, and a fixed chunk size."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cascade.artifact import Stage, StageConfig, StageSampling, check_aug_level, load_stage
from cascade.data.degradation import from_uint8, to_uint8
from cascade.diffusion import NULL_LABEL, Condition, Denoiser, Posterior, alpha_sigma
from cascade.errors import CascadeError
from cascade.guidance_settings import weak_stages, with_weak
from cascade.plain_json import without_infinity
from cascade.registry import build, complete
from cascade.rng import ImageNoise
from cascade.sampling import Sampler, Unconditional
from cascade.sampling.grid import cut

START_STEP = -1
"""The step that names the noise sampling starts from."""
AUGMENTATION_STEP = -2
"""The step that names the noise added to the low-res picture: once for a picture and stage, at low resolution."""

PRECISIONS: dict[str, torch.dtype | None] = {"auto": None, "fp32": None, "bf16": torch.bfloat16}
"""The names of the precisions → the dtype of autocast (None: plain float32)."""

Request = tuple[int | None, int]
"""The class of a picture (None: no class) and its seed."""


@dataclass(frozen=True, eq=False)
class StageSampler:
    """A stage and what it is sampled with, and the objects built from that. Made by `prepare`, before any compute.

    `until` is the level where it stops, for a stage behind it that is truncated (+inf: at the picture), `weak` the
    stages that guide it, by the folder that its guidance names.
    """

    stage: Stage
    sampling: StageSampling
    denoiser: Denoiser
    sampler: Sampler
    log_snrs: Tensor
    device: torch.device
    until: float = math.inf
    weak: Mapping[str, Stage] = field(default_factory=dict)

    @classmethod
    def prepare(
        cls,
        stage: Stage,
        sampling: StageSampling,
        device: torch.device,
        precision: str,
        *,
        until: float = math.inf,
        load: Callable[[str, torch.device], Stage] = load_stage,
    ) -> "StageSampler":
        """Build everything; raise CascadeError for an untrained augmentation level or a setting that does not exist.

        `load` reads a stage that guides this one from the folder that its guidance names.
        """
        check_aug_level(stage.config, sampling.aug_log_snr)
        dtype = PRECISIONS[precision]
        try:
            weak = {folder: load(folder, device) for folder in weak_stages(sampling.guidance)}
            for guide in weak.values():
                _check_guide(guide.config, stage.config, sampling.aug_log_snr)
            asked = with_weak(sampling.guidance, lambda folder: _guide(weak[folder], device, dtype))
            guided = build("guidance", asked, denoiser=_network(stage, device, dtype))
            denoiser = build("threshold", sampling.threshold, denoiser=guided)
            sampler, log_snrs = build("sampler", sampling.sampler), cut(build("grid", sampling.grid), until)
        except CascadeError as error:
            raise CascadeError(f"stage '{stage.config.name}': {error}") from error
        return cls(stage, sampling, denoiser, sampler, log_snrs, device, until, weak)

    @property
    def name(self) -> str:
        """The name of the stage."""
        return self.stage.config.name

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

        A stage that guides is named by the SHA-256 of its weights. `truncated` and `until` are there where they matter,
        so that what was sampled before they existed is still the same.
        """
        guidance = with_weak(complete("guidance", self.sampling.guidance), lambda folder: self.weak[folder].sha256)
        truncation = {"truncated": True} if self.sampling.truncated else {}
        stop = {"until": self.until} if math.isfinite(self.until) else {}
        return without_infinity(
            {
                "stage": self.name,
                **stop,
                "sampler": complete("sampler", self.sampling.sampler),
                "steps": self.steps,
                "grid": complete("grid", self.sampling.grid),
                "guidance": guidance,
                "threshold": complete("threshold", self.sampling.threshold),
                "aug_log_snr": self.sampling.aug_log_snr,
                "network_batch": self.chunk,
                "sha256": self.stage.sha256,
                **truncation,
            }
        )

    @torch.no_grad()
    def run(
        self, requests: Sequence[Request], low_res: Tensor | None, on_step: Callable[[int], None] | None = None
    ) -> Tensor:
        """Sample one chunk: at most `chunk` requests, with (n, 3, h, w) in a super-resolution stage.

        What the stage before has finished is uint8; where that stopped at this one's `aug_log_snr` it is x_λ, float32.
        Returns uint8 (n, 3, R, R) on the CPU, x_λ in float32 where this stage stops at `until`. The chunk is padded by
        repeating the last picture, so that the network always meets the same batch size. `on_step(i)` is called as step
        i begins.
        """
        padded = self._padded(requests)
        side = self.stage.config.resolution
        noise = ImageNoise([seed for _, seed in padded], self.name, (3, side, side), self.device)
        x = alpha_sigma(self.log_snrs[0])[1].item() * noise(START_STEP)
        denoiser = self.denoiser if on_step is None else _Watched(self.denoiser, self.log_snrs, on_step)
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
        return to_uint8(self.denoiser(x, level, self._condition(padded, low_res)).mean[: len(requests)]).cpu()

    def _padded(self, requests: Sequence[Request]) -> list[Request]:
        return [*requests, *[requests[-1]] * (self.chunk - len(requests))]

    def _condition(self, requests: Sequence[Request], low_res: Tensor | None) -> Condition:
        config, label = self.stage.config, None
        if config.class_names:
            label = torch.tensor([NULL_LABEL if label is None else label for label, _ in requests])
        if low_res is None or self.sampling.aug_log_snr is None:
            return Condition(label).to(self.device)
        level = torch.full((len(requests),), float(self.sampling.aug_log_snr))
        if low_res.dtype != torch.uint8:  # x_λ has its noise already
            return Condition(label, _padded_like(low_res, requests), level).to(self.device)
        clean = _padded_like(from_uint8(low_res), requests)
        noise = ImageNoise([seed for _, seed in requests], self.name, tuple(clean.shape[1:]))
        augmented = build("augmentation", config.augmentation).apply(clean, level, noise(AUGMENTATION_STEP))
        return Condition(label, augmented, level).to(self.device)


def _padded_like(pictures: Tensor, requests: Sequence[Request]) -> Tensor:
    return torch.cat([pictures, pictures[-1:].expand(len(requests) - len(pictures), -1, -1, -1)])


def _network(stage: Stage, device: torch.device, dtype: torch.dtype | None) -> Denoiser:
    if dtype is None:
        return stage.denoiser
    # Convolutions in bf16 are fastest in this layout.
    return Autocast(stage.denoiser.to(memory_format=torch.channels_last), device.type, dtype)


def _guide(stage: Stage, device: torch.device, dtype: torch.dtype | None) -> Denoiser:
    network = _network(stage, device, dtype)
    return network if stage.config.class_names else Unconditional(network)


def _check_guide(guide: StageConfig, config: StageConfig, aug_log_snr: float | None) -> None:
    """Refuse a stage that cannot answer what `config`'s is asked."""
    if (guide.resolution, guide.low_resolution) != (config.resolution, config.low_resolution):
        raise CascadeError(f"the weak stage '{guide.name}' is {_sizes(guide)}, not {_sizes(config)}")
    if guide.class_names and config.class_names and guide.class_names != config.class_names:
        raise CascadeError(f"the weak stage '{guide.name}' has another class table")
    check_aug_level(guide, aug_log_snr)


def _sizes(config: StageConfig) -> str:
    before = "" if config.low_resolution is None else f"{config.low_resolution} -> "
    return f"{before}{config.resolution} px"


@dataclass(frozen=True)
class Autocast:
    """A denoiser whose network runs in `dtype` where torch's autocast says so; its posterior is float32 as ever."""

    denoiser: Denoiser
    device_type: str
    dtype: torch.dtype

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        """The posterior of the denoiser itself."""
        with torch.autocast(self.device_type, self.dtype):
            return self.denoiser(x_t, log_snr, condition)


@dataclass(frozen=True)
class _Watched:
    """A denoiser that tells how far along the grid it is called; so the samplers need no callback."""

    denoiser: Denoiser
    log_snrs: Tensor
    on_step: Callable[[int], None]

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        # Rounded to float32 on its way here, a level may lie just below its own place in the grid.
        level = log_snr[0].cpu().double() + 1e-4
        self.on_step(max(0, int((self.log_snrs <= level).sum()) - 1))
        return self.denoiser(x_t, log_snr, condition)
