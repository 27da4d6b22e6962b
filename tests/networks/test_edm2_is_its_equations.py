"""EDM2's whole network against its equations walked over the weights: arXiv 2312.02696v2, figure 22."""

import math

import pytest
import torch
import torch.nn.functional as F

from cascade.diffusion import Condition, EDMPreconditioning
from cascade.networks.edm2 import EDM2UNet
from cascade.networks.low_res import BaseNetwork
from cascade.rng import randn, uniform

pytestmark = pytest.mark.usefixtures("one_thread")


def unit(x: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """Of unit magnitude: the root of the mean square over `dims` is 1 (up to EDM2's ε)."""
    return x / (x.square().mean(dims, keepdim=True).sqrt() + 1e-4)


def plus(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """Equation 88."""
    return ((1 - t) * a + t * b) / ((1 - t) ** 2 + t**2) ** 0.5


class Walk:
    """The network as sentences over a state dict: no module, no option that is not in an equation."""

    def __init__(self, state, head: int, label_balance: float, concat_balance: float) -> None:
        self.state, self.head = state, head
        self.label_balance, self.concat_balance = label_balance, concat_balance

    def layer(self, name: str, x: torch.Tensor, gain: torch.Tensor | float = 1.0) -> torch.Tensor:
        """Equations 47 and 66."""
        weight = unit(self.state[f"{name}.weight"], tuple(range(1, self.state[f"{name}.weight"].ndim)))
        weight = gain * weight / weight[0].numel() ** 0.5
        if weight.ndim == 2:
            return torch.einsum("oi,bi->bo", weight, x)
        return F.conv2d(x, weight, padding="same")

    @staticmethod
    def silu(x: torch.Tensor) -> torch.Tensor:
        """Equation 81."""
        return x * x.sigmoid() / 0.596

    def block(self, name: str, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """Figure 22: encoder and decoder blocks, with and without attention."""
        if name.endswith("down"):
            x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
        if name.endswith("up"):
            x = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
        skip = lambda x: self.layer(f"{name}.conv_skip", x) if f"{name}.conv_skip.weight" in self.state else x  # noqa: E731
        encodes = name.startswith("enc")
        x = unit(skip(x), (1,)) if encodes else x
        scale = 1 + self.layer(f"{name}.emb_linear", told, self.state[f"{name}.emb_gain"])
        y = self.layer(f"{name}.conv_res0", self.silu(x)) * scale[:, :, None, None]
        x = plus(x if encodes else skip(x), self.layer(f"{name}.conv_res1", self.silu(y)), 0.3)
        if f"{name}.attn_qkv.weight" in self.state:
            batch, channels, height, width = x.shape
            qkv = self.layer(f"{name}.attn_qkv", x).reshape(batch, channels // self.head, self.head, 3, -1)
            q, k, v = (unit(qkv[:, :, :, i], (2,)) for i in range(3))
            looks = (torch.einsum("bhcq,bhck->bhqk", q, k) / self.head**0.5).softmax(-1)
            mixed = torch.einsum("bhqk,bhck->bhcq", looks, v).reshape(batch, channels, height, width)
            x = plus(x, self.layer(f"{name}.attn_proj", mixed), 0.3)
        return x

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, label: torch.Tensor, rows: int) -> torch.Tensor:
        """F of equations 4 to 8 at c_noise = ln(σ)/4."""
        angles = sigma.log()[:, None] / 4 * self.state["emb_fourier.freqs"] + self.state["emb_fourier.phases"]
        told = self.layer("emb_noise", 2**0.5 * angles.cos())  # equation 75
        if rows:
            named = self.layer("emb_label", torch.eye(rows, dtype=x.dtype)[label] * rows**0.5)
            told = plus(told, named, self.label_balance)
        told = self.silu(told)
        names = list(dict.fromkeys(".".join(key.split(".")[:2]) for key in self.state if key[:3] in ("enc", "dec")))
        x, skips = torch.cat([x, torch.ones_like(x[:, :1])], 1), []
        for name in names:
            if name.endswith("conv"):
                x = self.layer(name, x)
            else:
                if name.startswith("dec") and "block" in name:
                    x = self.joined(x, skips.pop())
                x = self.block(name, x, told)
            if name.startswith("enc"):
                skips.append(x)
        return self.layer("out_conv", x, self.state["out_gain"])

    def joined(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Equation 103."""
        t, (n, m) = self.concat_balance, (a.shape[1], b.shape[1])
        whole = ((n + m) / ((1 - t) ** 2 + t**2)) ** 0.5
        return torch.cat([whole * (1 - t) / n**0.5 * a, whole * t / m**0.5 * b], 1)


CASES = [
    {"channel_mult": (1, 2), "blocks": 1, "attention": (2,), "head_channels": 16},
    {"channel_mult": (1, 2, 3), "blocks": 2, "attention": (2, 4), "head_channels": 8, "num_classes": 3},
    {"channel_mult": (1, 1), "blocks": 1, "attention": (1,), "head_channels": 8, "num_classes": 2,
     "label_balance": 0.3, "concat_balance": 0.7, "null_label": False},
]  # fmt: skip


@pytest.mark.parametrize("options", CASES)
def test_the_denoiser_is_its_equations(options):
    network = EDM2UNet(channels=16, size=8, **options).double().eval()
    state = {
        key: (1.5 * randn("edm2", key, shape=value.shape) if value.ndim else 0.4 + uniform("edm2", key)).double()
        for key, value in network.state_dict().items()
    }
    network.load_state_dict(state)
    classes = options.get("num_classes", 0)
    sigma = torch.tensor([0.02, 0.7, 30.0], dtype=torch.float64)
    none = classes if options.get("null_label", True) else 0  # "none" is a row of its own, the last, if there is one
    label = torch.tensor([0, 1, none]) if classes else None
    noisy = randn("edm2", "x", shape=(3, 3, 8, 8)).double() * (0.25 + sigma**2).sqrt()[:, None, None, None]
    walk = Walk(state, options["head_channels"], options.get("label_balance", 0.5), options.get("concat_balance", 0.5))
    level = -2 * sigma.log()
    s, data = sigma[:, None, None, None], 0.5
    raw = walk(noisy / (data**2 + s**2).sqrt(), sigma, label, len(network.emb_label.weight[0]) if classes else 0)
    assert raw.std() > 0.1
    denoised = data**2 / (s**2 + data**2) * noisy + s * data / (s**2 + data**2).sqrt() * raw
    alpha = (1 / (1 + sigma**2)).sqrt()[:, None, None, None]
    made = EDMPreconditioning(BaseNetwork(network), sigma_data=data)(alpha * noisy, level, Condition(label)).mean
    assert (made - denoised).abs().max() < 1e-9 * math.ceil(float(denoised.abs().max()))
