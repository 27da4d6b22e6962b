"""A small random network of fixed seed: features for tests, and for comparisons that need no pretrained weights."""

import torch
from torch import Tensor, nn

from cascade.evaluation.features import NetworkFeatures
from cascade.evaluation.random_network import of_random_network
from cascade.evaluation.resize import Resize
from cascade.rng import randn

_WIDTH = 16


class _TinyNetwork(nn.Module):
    """Two strided convolutions, then mean and standard deviation of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, _WIDTH, 5, stride=2, padding=2)
        self.second = nn.Conv2d(_WIDTH, _WIDTH, 5, stride=2, padding=2)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
                parameter.copy_(randn("tiny features", name, shape=parameter.shape) * fan_in**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.second(torch.tanh(self.first(x))))
        return torch.cat([x.mean((2, 3)), x.std((2, 3), correction=0)], 1)


def tiny_features(
    *, resize: str = "bilinear_antialias", batch: int = 16, device: torch.device | str = "cpu"
) -> NetworkFeatures:
    """Return 32 features of a random convolutional network at 32 px.

    >>> tiny_features()(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape
    torch.Size([2, 32])
    """
    return of_random_network("tiny", _TinyNetwork(), 2 * _WIDTH, Resize(resize, 32), batch=batch, device=device)
