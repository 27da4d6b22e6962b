"""A stage's denoiser as it is called in sampling: in its arithmetic and layout, on whole pictures or by tiles."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cascade.arithmetic import Arithmetic
from cascade.artifact import Stage
from cascade.diffusion import Denoiser
from cascade.errors import CascadeError
from cascade.machine import has_compiler
from cascade.networks.low_res import reach_of_upsampling
from cascade.sampling import Tiled


@dataclass(frozen=True)
class Autocast:
    """A denoiser or a classifier whose network runs in `dtype` where autocast says so; what it gives stays float32.

    >>> layer = torch.nn.Linear(2, 2)
    >>> Autocast(layer, "cpu", torch.bfloat16)(torch.zeros(1, 2)).dtype
    torch.bfloat16
    """

    function: Callable[..., Any]
    device_type: str
    dtype: torch.dtype

    def __call__(self, *given: Any) -> Any:
        """What the function itself gives."""
        with torch.autocast(self.device_type, self.dtype):
            return self.function(*given)


def stage_denoiser(stage: Stage, device: torch.device, arithmetic: Arithmetic, tile: int | None = None) -> Denoiser:
    """Return the stage's denoiser in `arithmetic`, by tiles of `tile` pixels (None: whole pictures).

    The layout is that of the weights themselves, so a stage runs in one at a time: in that of the last call here.
    Raises CascadeError for a tile that the network's grid does not allow, and for a compiled network where there is no
    compiler.
    """
    if arithmetic.compiled and not has_compiler(device):
        raise CascadeError(f"precision '{arithmetic.name}' needs a compiler (triton; g++ on a processor)")
    layout = torch.channels_last if arithmetic.channels_last else torch.contiguous_format
    denoiser: Denoiser = stage.denoiser.to(memory_format=layout)
    if arithmetic.compiled:
        denoiser = _compiled(stage.denoiser)
    if arithmetic.bf16:
        denoiser = Autocast(denoiser, device.type, torch.bfloat16)
    return denoiser if tile is None else Tiled(denoiser, tile, *overlap_and_blend(stage, tile))


def overlap_and_blend(stage: Stage, tile: int) -> tuple[int, int]:
    """How far the tiles of a stage overlap, and over how many pixels they blend.

    The least overlap at which they are the whole picture, blended over one pixel, where the network has a receptive
    radius; else a quarter of the tile, all of it blended. Raises CascadeError for a tile that its grid does not allow.
    """
    config, network = stage.config, stage.denoiser.network.network
    factor = config.factor or 1
    grid = math.lcm(getattr(network, "multiple", 1), factor)
    if tile % grid:
        raise CascadeError(f"tile={tile} must be a multiple of {grid}, the network's grid")
    radius = getattr(network, "receptive_radius", math.inf)
    if math.isinf(radius):
        overlap = grid * math.ceil(tile / 4 / grid)
        return overlap, overlap
    radius += 0 if factor == 1 else reach_of_upsampling(factor)
    return grid * (math.floor(radius / grid) + 1), 1


def _compiled(denoiser: nn.Module) -> nn.Module:
    """The same denoiser, the same weights, around its compiled network; the stage's own is left alone."""
    clone = copy.copy(denoiser)
    clone._modules = {**denoiser._modules, "network": torch.compile(denoiser.network, dynamic=False)}
    return clone
