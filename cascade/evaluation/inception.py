"""Inception's features, those of the FID: torch-fidelity's network, the weights read and checked by us."""

import http.client
import urllib.request
from pathlib import Path

import torch
from torch import Tensor, nn

from cascade.errors import CascadeError
from cascade.evaluation.efficientnet import read_state
from cascade.evaluation.features import NetworkFeatures
from cascade.evaluation.resize import Resize
from cascade.files import expanded, sha256_of, write_whole_with

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
PUBLISHED_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_SIZE, _DIM = 299, 2048
# torch-fidelity's and pytorch-fid's names of the same file.
_CACHED = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")
_TIMEOUT_SECONDS = 10


class WeightsMissingError(CascadeError):
    """The published weights are neither at the given path nor in the cache, and cannot be downloaded.

    >>> issubclass(WeightsMissingError, CascadeError)
    True
    """


def inception_features(
    *,
    weights: str | None = None,
    download: bool = True,
    resize: str = "bilinear_tf1",
    batch: int = 16,
    device: torch.device | str = "cpu",
    sha256: str = PUBLISHED_SHA256,
) -> NetworkFeatures:
    """Return the 2048 pooled features of the Inception network of the published FIDs, inputs (u − 128)/128.

    Weights come from the path `weights`, else from torch.hub's cache, else from a download into it. Their hash must be
    `sha256`; features of other than the published weights are named after their hash, so that no distance on them
    passes for an FID. `resize`: bilinear_tf1 is that of published figures, bilinear_antialias torchmetrics' default.
    Raises WeightsMissingError (with how to get them) or CascadeError.
    """
    rule = Resize(resize, _SIZE)
    path = expanded(weights) if weights is not None else _cached_or_downloaded(download)
    network = InceptionPool3()
    state = read_state(path, sha256)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CascadeError(f"'{path}' holds weights of another network than torch-fidelity's Inception") from error
    name = "inception" if sha256 == PUBLISHED_SHA256 else f"inception-{sha256[:8]}"
    return NetworkFeatures(
        name=name,
        dim=_DIM,
        sha256=sha256,
        resize=str(rule),
        network=network,
        prepare=lambda u: (rule(u) - 128) / 128,
        batch=batch,
        device=device,
    )


class InceptionPool3(nn.Module):
    """TensorFlow's Inception of 2015-12-05 up to its last pooling, (B, 3, 299, 299) → (B, 2048).

    Put together from torch-fidelity's blocks with its names of weights. Its own class reads its weights file with
    code execution allowed, in its constructor, and so is not used.

    >>> with torch.device("meta"):
    ...     InceptionPool3()(torch.zeros(2, 3, 299, 299)).shape
    torch.Size([2, 2048])
    """

    def __init__(self) -> None:
        super().__init__()
        from torch_fidelity import feature_extractor_inceptionv3 as blocks

        conv = blocks.BasicConv2d
        self.Conv2d_1a_3x3 = conv(3, 32, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = conv(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = conv(32, 64, kernel_size=3, padding=1)
        self.MaxPool_1 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.Conv2d_3b_1x1 = conv(64, 80, kernel_size=1)
        self.Conv2d_4a_3x3 = conv(80, 192, kernel_size=3)
        self.MaxPool_2 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.Mixed_5b = blocks.InceptionA(192, pool_features=32)
        self.Mixed_5c = blocks.InceptionA(256, pool_features=64)
        self.Mixed_5d = blocks.InceptionA(288, pool_features=64)
        self.Mixed_6a = blocks.InceptionB(288)
        self.Mixed_6b = blocks.InceptionC(768, channels_7x7=128)
        self.Mixed_6c = blocks.InceptionC(768, channels_7x7=160)
        self.Mixed_6d = blocks.InceptionC(768, channels_7x7=160)
        self.Mixed_6e = blocks.InceptionC(768, channels_7x7=192)
        self.Mixed_7a = blocks.InceptionD(768)
        self.Mixed_7b = blocks.InceptionE_1(1280)
        self.Mixed_7c = blocks.InceptionE_2(2048)
        self._path = tuple(self._modules)
        self.fc = nn.Linear(_DIM, 1008)  # in the weights file, but not on the way to the features

    def forward(self, x: Tensor) -> Tensor:
        for name in self._path:
            x = self._modules[name](x)
        return x.mean((2, 3))


def _cached_or_downloaded(download: bool) -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name in _CACHED:
        if (folder / name).is_file():
            return folder / name
    target = folder / _CACHED[0]
    if download:
        try:
            write_whole_with(target, _download)
            return target
        except (OSError, http.client.HTTPException) as error:
            reason = f"the download failed ({getattr(error, 'reason', error)})"
    else:
        reason = "download=false"
    raise WeightsMissingError(f"no Inception weights ({reason}): save {URL} as {target}, or give features.weights=FILE")


def _download(target: Path) -> None:
    with urllib.request.urlopen(URL, timeout=_TIMEOUT_SECONDS) as source, target.open("wb") as file:
        while block := source.read(1 << 20):
            file.write(block)
    if sha256_of(target) != PUBLISHED_SHA256:
        raise OSError("the file that came is not the published one")
