"""Known pixels stay what they are: a denoiser of pictures of which a part is given."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cascade.diffusion import Condition, Denoiser, Posterior
from cascade.errors import CascadeError


@dataclass(frozen=True)
class KeepKnown:
    """x̂ = m·y + (1 − m)·x̂₀, where the condition z = [m·y, m] shows the pixels y: E[x | x_t, y] has them exactly.

    A sampler whose last level is +inf returns x̂, so it returns them. The mask is the fourth channel of `low_res`
    (B, 4, H, W). It sits outside of guidance and thresholding, which would change what is known.

    Raises CascadeError for a condition without a mask, or of another size than x_t.

    >>> shown = torch.tensor([[0.5, 0.0], [0.5, 0.0], [0.5, 0.0], [1.0, 0.0]]).view(1, 4, 1, 2)
    >>> guess = lambda x_t, log_snr, condition: Posterior(torch.full_like(x_t, -1.0))
    >>> KeepKnown(guess)(torch.zeros(1, 3, 1, 2), torch.zeros(1), Condition(low_res=shown)).mean[0, 0]
    tensor([[ 0.5000, -1.0000]])
    """

    denoiser: Denoiser

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        """The posterior with the known pixels in its mean."""
        shown = condition.low_res
        if shown is None or shown.shape[1] != x_t.shape[1] + 1 or shown.shape[-2:] != x_t.shape[-2:]:
            raise CascadeError("known pixels are kept of a picture that is shown with their mask, at its own size")
        picture, known = shown.to(x_t).split([x_t.shape[1], 1], dim=1)
        posterior = self.denoiser(x_t, log_snr, condition)
        return replace(posterior, mean=torch.where(known > 0.5, picture.to(posterior.mean), posterior.mean))
