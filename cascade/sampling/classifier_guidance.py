"""Guidance by a classifier of noisy pictures (Dhariwal & Nichol 2021, "ADM"), in both of the paper's forms.

The score form is a denoiser around a denoiser and serves every sampler; the mean-shift form belongs to ancestral
sampling, so it is a sampler. Both ask `log_prob(x_t, log_snr, condition) -> (B,)`, ln p(c | x_t) of the condition's
label in nats, for its gradient; `LabelLogProb` makes one of a classifier's logits.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from cascade.diffusion import Condition, Denoiser, Posterior
from cascade.diffusion.log_snr import over
from cascade.sampling.ancestral import Ancestral, Variance
from cascade.sampling.guidance import Unconditional, check_scale
from cascade.sampling.transition import Noise, transitions


class LogProb(Protocol):
    """ln p(c | x_t) (B,) in nats, differentiable in x_t (B, ...); what does not depend on x_t does not matter."""

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Tensor: ...


@dataclass(frozen=True)
class LabelLogProb:
    """ln p(c | x_t) = log softmax(logits)[c] for the condition's label c; 0, which guides nowhere, for no class.

    `logits(x_t, log_snr)` is (B, K): a classifier network, or an oracle's `log_class`. Without labels it is not called.

    >>> from cascade.diffusion.oracle import MixtureDenoiser
    >>> oracle = MixtureDenoiser(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1, 1))
    >>> log_prob = LabelLogProb(oracle.log_class)
    >>> log_prob(torch.zeros(2, 1), torch.zeros(2), Condition(label=torch.tensor([1, -1]))).exp()
    tensor([0.5000, 1.0000])
    """

    logits: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        """The log-probability of each image's label, (B,)."""
        if condition.label is None:
            return x_t.new_zeros(len(x_t))
        log_probs = self.logits(x_t, log_snr).log_softmax(1)
        classes = log_probs.shape[1]
        label = condition.label % (classes + 1)
        named = label < classes
        return torch.where(named, log_probs.gather(1, label.clamp_max(classes - 1)[:, None])[:, 0], 0.0)


@dataclass(frozen=True)
class ClassifierGuidance:
    """x̂' = x̂ + (σ²/α)·s·∇ ln p(c | x_t): the score of p(x_t)·p(c | x_t)^s, at `scale` s.

    On ε̂ it subtracts σ·s·∇, on v̂ it subtracts (σ/α)·s·∇, to the score it adds s·∇. With the exact classifier, scale 1
    and an unconditional denoiser it is the exact conditional denoiser; around a conditional one it is ADM-G's
    sharpening. To guide what a network knows without classes, wrap it in `Unconditional`. ClassifierGuidance with scale
    0 reduces to the denoiser, without a call of the classifier; where `log_prob` does not depend on x_t its mean is the
    denoiser's. But for scale 0 the covariance is dropped, and the rest of the posterior is the denoiser's.

    Dhariwal & Nichol 2021, equation 14 and algorithm 2. There x̂ is clipped before guiding: nest a StaticThreshold for
    that. Raises CascadeError unless the scale is finite.

    >>> from cascade.diffusion.oracle import MixtureDenoiser
    >>> from cascade.sampling import Unconditional
    >>> oracle = MixtureDenoiser(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1, 1))
    >>> guided = ClassifierGuidance(Unconditional(oracle), LabelLogProb(oracle.log_class), scale=1.0)
    >>> guided(torch.zeros(1, 1), torch.zeros(1), Condition(label=torch.tensor([1]))).mean.round(decimals=4)
    tensor([[1.]])
    """

    denoiser: Denoiser
    log_prob: LogProb
    scale: float

    def __post_init__(self) -> None:
        check_scale(self.scale)

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        """The guided posterior."""
        posterior = self.denoiser(x_t, log_snr, condition)
        if self.scale == 0:
            return posterior
        level = over(log_snr, x_t)
        # σ²/α = sigmoid(−λ)/√sigmoid(λ).
        step = self.scale * (-level).sigmoid() / level.sigmoid().sqrt()
        return replace(
            posterior,
            mean=posterior.mean + step * class_gradient(self.log_prob, x_t, log_snr, condition),
            covariance=None,
        )


@dataclass(frozen=True)
class ClassifierAncestral:
    """Ancestral sampling whose mean is shifted: x_s ~ N(μ + s·Σ·∇ ln p(c | x_t), Σ), μ and Σ those of Ancestral.

    The gradient is taken at x_t. The shift is exact where ln p(c | x) is linear in x; in the limit of short steps it
    agrees with ancestral sampling under `ClassifierGuidance`, whose shift is (αs/αt)·Σ_large·s·∇. ClassifierAncestral
    with scale 0 reduces to Ancestral, without a call of the classifier. `variance` is Ancestral's. A step into λ = +inf
    returns x̂, unshifted.

    Dhariwal & Nichol 2021, algorithm 1. Raises CascadeError unless the scale is finite, and what Ancestral raises.

    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle, x = GaussianDenoiser(torch.ones(1), torch.zeros(1, 1)), torch.zeros(1, 1)
    >>> sampler = ClassifierAncestral(lambda x, log_snr, condition: x.sum(1), scale=2.0, variance="large")
    >>> grid = torch.tensor([-9.0, 0.0], dtype=torch.float64)
    >>> sampler(oracle, x, grid, Condition(label=torch.tensor([0])), lambda step, draw=0: torch.zeros(1, 1))
    tensor([[2.7065]])
    """

    log_prob: LogProb
    scale: float
    variance: Variance = "small"

    def __post_init__(self) -> None:
        check_scale(self.scale)
        Ancestral(self.variance)

    def __call__(self, denoiser: Denoiser, x: Tensor, log_snrs: Tensor, condition: Condition, randn: Noise) -> Tensor:
        """Sample; one call of the denoiser, one of the classifier and its gradient, and one draw for each step."""
        ancestral = Ancestral(self.variance)
        for step in transitions(log_snrs):
            posterior = step.t.denoise(denoiser, x, condition)
            if step.ends_clean:
                return posterior.mean
            noise = randn(step.index)
            if self.scale != 0:
                gradient = class_gradient(self.log_prob, x, step.t.of_each(x), condition)
                # √Σ z + sΣ∇ = √Σ (z + s√Σ∇): the root is symmetric.
                noise = noise + self.scale * ancestral.scaled(gradient, step, posterior)
            x = ancestral.mean(x, step, posterior) + ancestral.scaled(noise, step, posterior)
        return x


def classifier_guidance(
    denoiser: Denoiser, classifier: LogProb, scale: float = 1.0, conditional: bool = True
) -> ClassifierGuidance:
    """ClassifierGuidance of a denoiser, as `guidance=classifier` builds it; in a config `classifier` is a folder.

    `conditional`: the denoiser is told the class too (ADM-G); without, the classifier alone makes the class.

    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.zeros(1), torch.eye(1))
    >>> guided = classifier_guidance(oracle, lambda x, log_snr, condition: x.sum(1), scale=2.0, conditional=False)
    >>> guided.scale, guided.denoiser == Unconditional(oracle)
    (2.0, True)
    """
    return ClassifierGuidance(denoiser if conditional else Unconditional(denoiser), classifier, scale)


def classifier_around(
    denoiser: Denoiser,  # noqa: ARG001 -- a guidance is built around one; `guided` is already
    guided: Denoiser,
    classifier: LogProb,
    classifier_scale: float = 1.0,
) -> ClassifierGuidance:
    """ClassifierGuidance around another guidance, as `guidance=classifier_around` builds it.

    The score of p(x_t)·p(c | x_t)^(s + classifier_scale), s being the scale of a classifier-free `guided`: with exact
    models it is that guidance at the sum of both scales, and a trained classifier mends what the network's own opinion
    of its classes gets wrong. In a config `guided` is that guidance, and `guidance_scale` is its scale.

    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> from cascade.sampling.guidance import ClassifierFree
    >>> oracle = GaussianDenoiser(torch.zeros(1), torch.eye(1))
    >>> around = classifier_around(oracle, ClassifierFree(oracle, 2.0), lambda x, log_snr, condition: x.sum(1), 3.0)
    >>> around.denoiser.scale, around.scale
    (2.0, 3.0)
    """
    return ClassifierGuidance(guided, classifier, classifier_scale)


def classifier_ancestral(classifier: LogProb, scale: float = 1.0, variance: Variance = "small") -> ClassifierAncestral:
    """ClassifierAncestral, as `sampler=classifier_ancestral` builds it; in a config `classifier` is a folder.

    >>> classifier_ancestral(lambda x, log_snr, condition: x.sum(1), scale=2.0).variance
    'small'
    """
    return ClassifierAncestral(classifier, scale, variance)


def class_gradient(log_prob: LogProb, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
    """Return ∇ ln p(c | x_t) by x_t, of x_t's shape (B, ...); also where gradients are switched off around it, in
    whichever way.

    >>> class_gradient(lambda x, log_snr, condition: -x.square().sum(1), torch.ones(1, 2), torch.zeros(1), Condition())
    tensor([[-2., -2.]])
    """
    # What is made in inference mode takes no part in autograd, so all is copied outside of it.
    with torch.inference_mode(False), torch.enable_grad():
        x = x_t.detach().clone().requires_grad_()
        value = log_prob(x, log_snr.clone(), condition.clone()).sum()
        if not value.requires_grad:  # of no class it says the same of every x_t
            return torch.zeros_like(x_t)
        return torch.autograd.grad(value, x, materialize_grads=True)[0]
