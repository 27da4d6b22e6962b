"""A classifier of noisy pictures: what its network is told of the noise level, and the loss that trains it."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from cascade.diffusion.log_snr import diffuse, per_image, working_dtype
from cascade.diffusion.schedule import DiscreteBetas


class NoisyClassifier(nn.Module):
    """log-odds of the classes of x_t at λ: logits(x_t, λ), of which softmax makes p(c | x_t).

    The network is told λ itself; or with `betas` the step i(λ) of that ladder (`DiscreteBetas.step`), and with
    `rescale` i·1000/T, as the published classifiers are, which share the table of the network they guide. Dhariwal &
    Nichol 2021, section 4.

    >>> import torch
    >>> told = lambda x, clock: clock[:, None]
    >>> level = DiscreteBetas("cosine", 1000).log_snrs[[250]].float()
    >>> NoisyClassifier(told, DiscreteBetas("cosine", 1000))(torch.zeros(1, 3, 2, 2), level)
    tensor([[250.]])
    """

    def __init__(
        self, network: Callable[[Tensor, Tensor], Tensor], betas: DiscreteBetas | None = None, rescale: bool = False
    ) -> None:
        super().__init__()
        self.network, self.betas = network, betas
        self.scale = 1.0 if betas is None or not rescale else 1000 / betas.steps

    def forward(self, x_t: Tensor, log_snr: Tensor) -> Tensor:
        """Return the logits (B, K), at least float32, of x_t (B, C, H, W) at λ (B,)."""
        level = per_image(log_snr, x_t)
        clock = level if self.betas is None else self.betas.step(level) * self.scale
        logits = self.network(x_t, clock)
        return logits.to(working_dtype(logits))


def cross_entropy(
    classifier: Callable[[Tensor, Tensor], Tensor], x: Tensor, log_snr: Tensor, eps: Tensor, label: Tensor
) -> tuple[Tensor, Tensor]:
    """Return −ln p(label | x_t) in nats (B,) at x_t = αx + σε, and the logits (B, K) it is of.

    x and eps (B, C, H, W), log_snr (B,), label (B,) int64 in [0, K).

    >>> import math, torch
    >>> even = lambda x_t, log_snr: torch.zeros(1, 4)
    >>> x = torch.zeros(1, 3, 2, 2)
    >>> loss, _ = cross_entropy(even, x, torch.zeros(1), x, torch.tensor([2]))
    >>> bool(loss.isclose(torch.tensor(math.log(4))))
    True
    """
    logits = classifier(diffuse(x, eps, log_snr), log_snr)
    return F.cross_entropy(logits, label, reduction="none"), logits
