"""A random network of fixed seed: features that need no weights, with enough of them to judge large pictures by."""

import hashlib

import torch
from torch import Tensor, nn

from cascade.evaluation.features import NetworkFeatures
from cascade.evaluation.resize import Resize
from cascade.rng import randn

_SIZE = 128
_WIDTHS = (32, 32, 64, 64, 64)


class RandomNetwork(nn.Module):
    """Five strided 3×3 convolutions with ReLU; the mean of every channel of each, (B, 3, 128, 128) → (B, 256).

    Weights are normal with variance 2/fan-in (He et al. 2015), which keeps the size of the signal, and there is no
    bias. They are drawn by `cascade.rng` under the name ("random features", seed, layer), so a seed is a network on
    every machine.

    >>> RandomNetwork(seed=0)(torch.zeros(1, 3, 128, 128)).shape
    torch.Size([1, 256])
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        inputs = (3, *_WIDTHS)
        self.layers = nn.ModuleList(
            nn.Conv2d(old, new, 3, stride=2, padding=1, bias=False) for old, new in zip(inputs, _WIDTHS, strict=False)
        )
        with torch.no_grad():
            for number, layer in enumerate(self.layers):
                weight = randn("random features", seed, number, shape=layer.weight.shape)
                layer.weight.copy_(weight * (2 / layer.weight[0].numel()) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        means = []
        for layer in self.layers:
            x = torch.relu(layer(x))
            means.append(x.mean((2, 3)))
        return torch.cat(means, 1)


def random_features(
    *, seed: int = 0, resize: str = "bilinear_antialias", batch: int = 16, device: torch.device | str = "cpu"
) -> NetworkFeatures:
    """Return 256 features of the random network of that seed, at 128 px and inputs u/127.5 − 1, named random-SEED.

    They see colour and texture, but do not know what a picture shows.

    >>> random_features().name
    'random-0'
    """
    return of_random_network(
        f"random-{seed}", RandomNetwork(seed), sum(_WIDTHS), Resize(resize, _SIZE), batch=batch, device=device
    )


def of_random_network(
    name: str, network: nn.Module, dim: int, rule: Resize, *, batch: int, device: torch.device | str
) -> NetworkFeatures:
    """The features of a network that is its own weights: inputs u/127.5 − 1, and the SHA-256 of its parameters."""
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in network.parameters())).hexdigest()
    return NetworkFeatures(
        name=name,
        dim=dim,
        sha256=digest,
        resize=str(rule),
        network=network,
        prepare=lambda u: rule(u) / 127.5 - 1,
        batch=batch,
        device=device,
    )
