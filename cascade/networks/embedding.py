"""Embeddings of what a network is told beside the picture: noise level, label, geometric augmentation."""

import math

import torch
from torch import Tensor, nn

from cascade.errors import CascadeError


class NoiseFeatures(nn.Module):
    """Fourier features of a log-SNR λ, finite everywhere: cos and sin of 2π f u, f from 0.25 to 16, for two readings u.

    u = (2/π)·atan(e^{−λ/2}) ∈ [0, 1] is 0 for a clean picture (λ = +inf) and 1 for pure noise (λ = −inf);
    u = λ/40, with λ clamped to [−20, 20], tells the far ends apart, where the first is flat.

    >>> bool(NoiseFeatures()(torch.tensor([-torch.inf, 0.0, torch.inf])).isfinite().all())
    True
    """

    def __init__(self, frequencies: int = 32) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.out_features = 4 * frequencies

    def forward(self, log_snr: Tensor) -> Tensor:
        """(B,) → (B, out_features), at least float32."""
        log_snr = log_snr.to(torch.promote_types(log_snr.dtype, torch.float32))
        angle = torch.atan(torch.exp(-0.5 * log_snr)) * (2.0 / math.pi)
        line = log_snr.clamp(-20.0, 20.0) / 40.0
        # Made here, not kept as a buffer, so that a network cast to bf16 still reads exact frequencies.
        ramp = torch.linspace(0.0, 1.0, self.frequencies, dtype=log_snr.dtype, device=log_snr.device)
        phases = 2.0 * math.pi * 0.25 * 64.0**ramp * torch.stack([angle, line], dim=-1).unsqueeze(-1)
        return torch.cat([phases.cos(), phases.sin()], dim=-1).flatten(1)


class NoiseEmbedding(nn.Module):
    """λ (B,) → (B, dim): two linear layers on `NoiseFeatures`. In float32 even under autocast: bf16 would blur λ.

    >>> NoiseEmbedding(16)(torch.tensor([-20.0, float("inf")])).isfinite().all()
    tensor(True)
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.features = NoiseFeatures()
        self.layers = nn.Sequential(nn.Linear(self.features.out_features, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, log_snr: Tensor) -> Tensor:
        with torch.autocast(log_snr.device.type, enabled=False):
            return self.layers(self.features(log_snr).to(self.layers[0].weight.dtype))


class ConditionEmbedding(nn.Module):
    """Noise level, label, geometric augmentation and `extra` → one vector (B, dim), the sum of their embeddings.

    label: (B,) int, read modulo num_classes + 1, so −1 and num_classes both are the null class; None is null for all.
    augment: (B, augment_dim), linear without bias, so zeros (and None) are "not augmented"
    (Karras et al., EDM (2022), appendix F.2).

    >>> embedding, clock = ConditionEmbedding(8, num_classes=3), torch.zeros(2)
    >>> torch.equal(embedding(clock), embedding(clock, label=torch.tensor([-1, 3])))
    True
    """

    def __init__(self, dim: int, num_classes: int = 0, augment_dim: int = 0) -> None:
        super().__init__()
        self.num_classes, self.augment_dim = num_classes, augment_dim
        self.noise = NoiseEmbedding(dim)
        self.label = nn.Embedding(num_classes + 1, dim) if num_classes else None
        self.augment = nn.Linear(augment_dim, dim, bias=False) if augment_dim else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.5)

    def forward(
        self, log_snr: Tensor, label: Tensor | None = None, augment: Tensor | None = None, extra: Tensor | None = None
    ) -> Tensor:
        """Return (B, dim). Raises CascadeError for a label out of range or where the network knows none."""
        check_told(label, augment, self.num_classes, self.augment_dim)
        embedding = self.noise(log_snr)
        if self.label is not None:
            embedding = embedding + self.of_label(label, log_snr)
        if augment is not None and self.augment is not None:
            with torch.autocast(augment.device.type, enabled=False):
                embedding = embedding + self.augment(augment.to(embedding.dtype))
        return embedding if extra is None else embedding + extra

    def of_label(self, label: Tensor | None, log_snr: Tensor) -> Tensor:
        """The label's part of it, (B, dim), for as many as `log_snr` has, of a network with classes."""
        return self.label(label_row(label, log_snr, self.num_classes))


def check_told(label: Tensor | None, augment: Tensor | None, num_classes: int, augment_dim: int) -> None:
    """Refuse (CascadeError) a label where there are no classes, and other numbers of augmentation than are read.

    >>> check_told(torch.tensor([1]), None, num_classes=0, augment_dim=0)
    Traceback (most recent call last):
    cascade.errors.CascadeError: this network has no classes (num_classes=0), so label must be None
    """
    if label is not None and not num_classes:
        raise CascadeError("this network has no classes (num_classes=0), so label must be None")
    if augment is not None and not augment.shape[-1] == augment_dim > 0:
        raise CascadeError(f"augment has {augment.shape[-1]} numbers per image; this network takes {augment_dim}")


def label_row(label: Tensor | None, log_snr: Tensor, num_classes: int, null_label: bool = True) -> Tensor:
    """The row (B,) of each label in a table of num_classes + 1, whose last is "none": that of −1, num_classes and None.

    Raises CascadeError for a label out of range, and for "none" in a table without that row (`null_label=False`).

    >>> label_row(torch.tensor([1, -1]), torch.zeros(2), 3)
    tensor([1, 3])
    """
    if label is None:
        row = torch.full(log_snr.shape, num_classes, device=log_snr.device)
    else:
        odd = (label < -1) | (label > num_classes)
        if bool(odd.any()):
            raise CascadeError(f"no class {int(label[odd][0])}; classes are 0 to {num_classes - 1}, and -1 means none")
        row = label % (num_classes + 1)
    if not null_label and bool((row == num_classes).any()):
        raise CascadeError(
            "this network was trained with classes only: name a class, and leave guidance_scale at 1 "
            "(classifier guidance needs no class 'none')"
        )
    return row
