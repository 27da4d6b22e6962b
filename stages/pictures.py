"""Sample pictures during training: what a person looks at to see whether a run goes well."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from cascade.artifact import Stage, StageConfig
from cascade.data.dataset import PictureDataset
from cascade.data.degradation import from_uint8, shrink, to_uint8
from cascade.files import write_whole_with
from cascade.progress import Bars
from cascade.stage_sampler import StageSampler
from stages.after_step import AfterStep
from stages.diffusion_stage import DiffusionStage

_NAME = "sample pictures"


class SamplePictures(AfterStep):
    """Every `every_steps` steps: `samples/STEP.png`, sampled with the averaged weights by the stage's own settings.

    A base stage shows one picture of each class in turn. An image-conditional stage shows rows of three: what it is
    shown of a validation picture, its sample, the picture itself. `described_at(step)` says how it is sampled then.
    """

    def __init__(
        self,
        described: StageConfig,
        dataset: PictureDataset,
        folder: Path,
        *,
        count: int,
        every_steps: int,
        precision: str,
        bars: Bars,
        described_at: Callable[[int], StageConfig],
    ) -> None:
        self.described, self.described_at = described, described_at
        self.dataset = dataset
        self.folder = folder
        self.count = count if described.low_resolution is None else min(count, len(dataset))
        self.every_steps = every_steps
        self.precision = precision
        self.bars = bars

    def after_step(self, trainer: Trainer, stage: DiffusionStage, step: int) -> None:
        """Draw when it is time. The first process does, the others wait for it at their next step."""
        if step % self.every_steps == 0 and trainer.is_global_zero:
            self._draw(trainer, stage)

    def _draw(self, trainer: Trainer, stage: DiffusionStage) -> None:
        """Sample and write the sheet."""
        from PIL import Image
        from torchvision.utils import make_grid

        current = Stage(self.described_at(trainer.global_step), stage.average, self.folder, sha256="")
        sampler = StageSampler.prepare(current, current.config.sampling, stage.device, self.precision)
        pictures = self._rows(sampler)
        self.bars.end(_NAME)
        columns = (
            3 if self.described.low_resolution else max(1, min(len(pictures), len(self.described.class_names) or 8))
        )
        sheet = make_grid(pictures, nrow=columns, padding=2, pad_value=255).permute(1, 2, 0).numpy()
        image = Image.fromarray(sheet)
        write_whole_with(self.folder / "samples" / f"{trainer.global_step:08}.png", image.save)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("samples", [image], step=trainer.global_step)

    def _rows(self, sampler: StageSampler) -> list[Tensor]:
        classes = len(self.described.class_names)
        if self.described.low_resolution is None:
            requests = [(i % classes if classes else None, i) for i in range(self.count)]
            parts = enumerate(_chunks(requests, sampler.chunk))
            return [made for i, part in parts for made in sampler.run(part, None, self._shown(sampler, i))]
        rows: list[Tensor] = []
        for number, part in enumerate(_chunks(range(self.count), sampler.chunk)):
            real = torch.stack([self.dataset.image(i) for i in part])
            low = to_uint8(shrink(from_uint8(real), self.described.low_resolution))
            labels = [self.dataset.label(i) if classes else None for i in part]
            requests = list(zip(labels, part, strict=True))
            made = sampler.run(requests, low, self._shown(sampler, number))
            low = to_uint8(sampler.shown(requests, low)[:, :3])
            factor = self.described.resolution // self.described.low_resolution
            blown_up = low.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
            rows += [picture for triple in zip(blown_up, made, real, strict=True) for picture in triple]
        return rows

    def _shown(self, sampler: StageSampler, chunk: int) -> Callable[[int], None]:
        def at(step: int) -> None:
            total = math.ceil(self.count / sampler.chunk) * sampler.steps
            self.bars.at(_NAME, chunk * sampler.steps + step, total, "steps")

        return at


def _chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
