"""What was imported against tensors that the published code made with the same weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cascade.diffusion import Condition
from cascade.diffusion.noisy_classifier import NoisyClassifier
from cascade.diffusion.schedule import DiscreteBetas
from cascade.errors import CascadeError
from cascade.sampling import DDIM, Ancestral, LabelLogProb, Sampler, StaticThreshold
from cascade.sampling.classifier_guidance import class_gradient

OUTPUT_BOUND, TRAJECTORY_BOUND = 1e-4, 1e-3


@dataclass(frozen=True)
class Compared:
    """One tensor: what it is, the largest absolute error (None: the reference lacks it), and the bound it is held to.

    >>> Compared("x̂ at step 250", error=2e-6, bound=1e-5).fits
    True
    """

    name: str
    error: float | None
    bound: float

    @property
    def fits(self) -> bool:
        """Whether the error, if there is one, is within the bound (NaN is not)."""
        return self.error is None or self.error <= self.bound


def read_reference(path: Path) -> dict[str, Tensor]:
    """Read the tensors of the published code. Raises CascadeError for a damaged file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise CascadeError(f"'{path}' cannot be read: {error}") from error


@torch.no_grad()
def compare_denoiser(denoiser: nn.Module, betas: DiscreteBetas, tensors: Mapping[str, Tensor]) -> list[Compared]:
    """Compare a denoiser of step numbers: its network's output, and the trajectories there are.

    `output` at x_t, timestep, label and low_res (where there are any); `ddpm_*`: ancestral steps from ddpm_x_T with the
    noise ddpm_step_noise; `ddim_*`: DDIM, η = 0; both over *_timestep_map with x̂ clipped.
    """
    network: Any = denoiser.network
    label, low_res = tensors.get("label"), tensors.get("low_res")
    made = network(_named(tensors, "x_t"), _named(tensors, "timestep").float(), label=label, low_res=low_res)
    results = [_compared("output", made, _named(tensors, "output"), OUTPUT_BOUND)]
    learned = getattr(denoiser, "learn_variance", False)
    samplers: dict[str, Sampler] = {"ddpm": Ancestral("learned" if learned else "large"), "ddim": DDIM()}
    for name, sampler in samplers.items():
        if f"{name}_x_T" not in tensors:
            results.append(Compared(f"{name} trajectory", None, TRAJECTORY_BOUND))
            continue
        levels = betas.log_snrs[_steps(tensors, f"{name}_timestep_map", betas)].flip(0)
        grid = torch.cat([levels, levels.new_tensor([torch.inf])])
        noise = _named(tensors, "ddpm_step_noise") if name == "ddpm" else None
        if noise is not None and len(noise) < len(levels) - 1:
            raise CascadeError(f"the reference ddpm_step_noise is of {len(noise)} steps, not {len(levels) - 1} or more")
        x_0 = sampler(
            StaticThreshold(denoiser),
            tensors[f"{name}_x_T"],
            grid,
            Condition(label, low_res),
            lambda step, draw=0, noise=noise: noise[step],  # noqa: ARG005
        )
        results.append(_compared(f"{name} trajectory", x_0, _named(tensors, f"{name}_x_0"), TRAJECTORY_BOUND))
    return results


def compare_classifier(classifier: NoisyClassifier, tensors: Mapping[str, Tensor]) -> list[Compared]:
    """Compare a classifier of step numbers: its logits, and the gradient of log p(label | x_t) by x_t.

    Both at x_t, timestep and label, asked as guidance asks: at the log-SNR of the step. The gradient's error is
    measured against its own largest entry, for it is small.
    """
    if classifier.betas is None:
        raise CascadeError("reference tensors are of steps, and this classifier is told the log-SNR")
    x_t, label = _named(tensors, "x_t"), _named(tensors, "label")
    log_snr = classifier.betas.log_snrs[_steps(tensors, "timestep", classifier.betas)].to(x_t)
    with torch.no_grad():
        logits = classifier(x_t, log_snr)
    gradient = class_gradient(LabelLogProb(classifier), x_t, log_snr, Condition(label))
    expected = _named(tensors, "gradient")
    largest = expected.abs().max()
    return [
        _compared("logits", logits, _named(tensors, "logits"), OUTPUT_BOUND),
        _compared("gradient over its largest entry", gradient / largest, expected / largest, OUTPUT_BOUND),
    ]


def _named(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise CascadeError(f"the reference tensors hold no '{name}'")
    return tensors[name]


def _steps(tensors: Mapping[str, Tensor], name: str, betas: DiscreteBetas) -> Tensor:
    """Numbers of the ladder's steps; CascadeError for others."""
    steps = _named(tensors, name).long()
    if bool(((steps < 0) | (steps >= betas.steps)).any()):
        raise CascadeError(f"the reference {name} names steps beyond 0 to {betas.steps - 1}, those of the flags")
    return steps


def _compared(name: str, made: Tensor, expected: Tensor, bound: float) -> Compared:
    if made.shape != expected.shape:
        raise CascadeError(f"the reference {name} is {tuple(expected.shape)}, and the stage's {tuple(made.shape)}")
    return Compared(name, (made - expected).abs().max().item(), bound)
