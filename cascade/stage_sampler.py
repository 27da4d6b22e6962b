"""One stage ready to sample: a denoiser under its guidance and threshold, a sampler, a grid, and a fixed chunk size."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cascade.artifact import Stage, StageSampling, check_aug_level
from cascade.data.degradation import from_uint8, to_uint8
from cascade.diffusion import NULL_LABEL, Condition, Denoiser, Posterior, alpha_sigma
from cascade.errors import CascadeError
from cascade.registry import build, complete
from cascade.rng import ImageNoise
from cascade.sampling import Sampler

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
    """A stage and what it is sampled with, and the objects built from that. Made by `prepare`, before any compute."""

    stage: Stage
    sampling: StageSampling
    denoiser: Denoiser
    sampler: Sampler
    log_snrs: Tensor
    device: torch.device

    @classmethod
    def prepare(cls, stage: Stage, sampling: StageSampling, device: torch.device, precision: str) -> "StageSampler":
        """Build everything; raise CascadeError for an untrained augmentation level or a setting that does not exist."""
        check_aug_level(stage.config, sampling.aug_log_snr)
        dtype = PRECISIONS[precision]
        network = stage.denoiser
        if dtype is not None:
            # Convolutions in bf16 are fastest in this layout.
            network = Autocast(stage.denoiser.to(memory_format=torch.channels_last), device.type, dtype)
        try:
            guided = build("guidance", sampling.guidance, denoiser=network)
            denoiser = build("threshold", sampling.threshold, denoiser=guided)
            sampler, log_snrs = build("sampler", sampling.sampler), build("grid", sampling.grid)
        except CascadeError as error:
            raise CascadeError(f"stage '{stage.config.name}': {error}") from error
        return cls(stage, sampling, denoiser, sampler, log_snrs, device)

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
        """What the pixels depend on in this stage, as plain JSON values ("inf" for +inf)."""
        return _plain(
            {
                "stage": self.name,
                "sampler": complete("sampler", self.sampling.sampler),
                "steps": self.steps,
                "grid": complete("grid", self.sampling.grid),
                "guidance": complete("guidance", self.sampling.guidance),
                "threshold": complete("threshold", self.sampling.threshold),
                "aug_log_snr": self.sampling.aug_log_snr,
                "network_batch": self.chunk,
                "sha256": self.stage.sha256,
            }
        )

    @torch.no_grad()
    def run(
        self, requests: Sequence[Request], low_res: Tensor | None, on_step: Callable[[int], None] | None = None
    ) -> Tensor:
        """Sample one chunk: at most `chunk` requests, with uint8 (n, 3, h, w) in a super-resolution stage.

        Returns uint8 (n, 3, R, R) on the CPU. The chunk is padded by repeating the last picture, so that the network
        always meets the same batch size. `on_step(i)` is called as step i begins.
        """
        padded = [*requests, *[requests[-1]] * (self.chunk - len(requests))]
        side = self.stage.config.resolution
        noise = ImageNoise([seed for _, seed in padded], self.name, (3, side, side), self.device)
        x = alpha_sigma(self.log_snrs[0])[1].item() * noise(START_STEP)
        denoiser = self.denoiser if on_step is None else _Watched(self.denoiser, self.log_snrs, on_step)
        made = self.sampler(denoiser, x, self.log_snrs, self._condition(padded, low_res), noise)[: len(requests)]
        if not bool(torch.isfinite(made).all()):
            raise CascadeError(f"stage '{self.name}' made a picture that is not finite: its weights are broken")
        return to_uint8(made).cpu()

    def _condition(self, requests: Sequence[Request], low_res: Tensor | None) -> Condition:
        config, label = self.stage.config, None
        if config.class_names:
            label = torch.tensor([NULL_LABEL if label is None else label for label, _ in requests])
        if low_res is None or self.sampling.aug_log_snr is None:
            return Condition(label).to(self.device)
        clean = from_uint8(low_res)
        clean = torch.cat([clean, clean[-1:].expand(len(requests) - len(clean), -1, -1, -1)])
        level = torch.full((len(requests),), float(self.sampling.aug_log_snr))
        noise = ImageNoise([seed for _, seed in requests], self.name, tuple(clean.shape[1:]))
        augmented = build("augmentation", config.augmentation).apply(clean, level, noise(AUGMENTATION_STEP))
        return Condition(label, augmented, level).to(self.device)


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


def _plain(value: Any) -> Any:
    """JSON has no infinity: "inf" and "-inf" stand for it."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value
