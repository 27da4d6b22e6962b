"""The loss over several scales: the error is also measured in shrunken pictures, where little of it is noise."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import avg_pool2d

from cascade.diffusion.condition import Condition
from cascade.diffusion.denoiser import Denoiser
from cascade.diffusion.loss import diffusion_loss, mean_square
from cascade.diffusion.weighting import Weighting
from cascade.errors import CascadeError


@dataclass(frozen=True)
class MultiScaleLoss:
    """Simple diffusion's multiscale loss (Hoogeboom et al. 2023, section 3.2): Σ_s (d/s)·L^{s×s}.

        L^{s×s} = ratio(λ)·‖D_s[ε] − D_s[ε̂]‖²/(C·s²),  s = d, d/2, d/4, ... ≥ `smallest`

    d is the side of the (cropped) picture and D_s the mean over blocks of (d/s)² pixels. The paper weighs by 1/s; times
    d, the plain loss is the first term, so learning rates and the clipping of gradients keep their meaning. A picture
    of less than 2·`smallest` has only that term. The exact denoiser is the minimum of every term.

    >>> import torch
    >>> loss = MultiScaleLoss(smallest=1)
    >>> loss.square(torch.tensor([[[[1.0, -1.0], [1.0, -1.0]]], [[[1.0, 1.0], [1.0, 1.0]]]]))
    tensor([1., 3.])
    """

    smallest: int = 32

    def __post_init__(self) -> None:
        if self.smallest < 1:
            raise ValueError(f"smallest is the side of a picture, at least 1, not {self.smallest}")

    def __call__(  # noqa: PLR0917
        self, denoiser: Denoiser, x: Tensor, log_snr: Tensor, eps: Tensor, condition: Condition, weighting: Weighting
    ) -> Tensor:
        """Return the weighted loss of each image x (B, C, H, W), (B,)."""
        return diffusion_loss(denoiser, x, log_snr, eps, condition, weighting, self.square)

    def square(self, error: Tensor) -> Tensor:
        """Return Σ_s (d/s)·(mean square of the error shrunken to side s), (B,), of an error (B, C, H, W)."""
        if error.ndim != 4:
            raise CascadeError(f"the multi-scale loss is of pictures (B, C, H, W), not of shape {tuple(error.shape)}")
        total, factor = mean_square(error), 2
        sides = error.shape[-2:]
        while all(side % factor == 0 and side // factor >= self.smallest for side in sides):
            error = avg_pool2d(error, 2)
            total, factor = total + factor * mean_square(error), 2 * factor
        return total
