"""Exact denoisers: the posterior of Gaussian data and of a mixture of Gaussians, in closed form.

They prove samplers, guidance, losses and likelihoods right without training anything, and let a user see what a sampler
does. Images (B, ...) are flattened to D numbers; the arithmetic is float64, the answers have x_t's dtype.
"""

import torch
from torch import Tensor

from cascade.diffusion.condition import UNCONDITIONED, Condition
from cascade.diffusion.denoiser import Posterior
from cascade.diffusion.log_snr import per_image


class MixtureDenoiser:
    """Data x ~ Σ_k w_k·N(m_k, S_k); given x_t = α·x + σ·ε everything about p(x | x_t) is known.

        r_k ∝ w_k·N(x_t; α·m_k, α²S_k + σ²)
        μ_k = m_k + α·S_k(α²S_k + σ²)⁻¹(x_t − α·m_k),  C_k = σ²·S_k(α²S_k + σ²)⁻¹
        mean = Σ r_k·μ_k,  covariance = Σ r_k·(C_k + (μ_k − mean)(μ_k − mean)ᵀ)

    weights (K,) positive, normalised here; means (K, D); covariances (K, D, D), symmetric, may be singular. A label k
    conditions on component k; −1, K or None stand for the whole mixture.

    >>> oracle = MixtureDenoiser(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1, 1))
    >>> oracle(torch.zeros(1, 1), torch.zeros(1), Condition()).mean
    tensor([[0.]])
    >>> oracle(torch.zeros(1, 1), torch.zeros(1), Condition(label=torch.tensor([1]))).mean
    tensor([[1.]])
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        if means.ndim != 2 or weights.shape != means.shape[:1] or covariances.shape != (*means.shape, means.shape[1]):
            raise ValueError(
                "need weights (K,), means (K, D), covariances (K, D, D), not "
                f"{tuple(weights.shape)}, {tuple(means.shape)}, {tuple(covariances.shape)}"
            )
        if not bool((weights >= 0).all()) or not 0 < float(weights.sum()) < float("inf"):
            raise ValueError("weights must not be negative, and their sum must be positive")
        if not torch.allclose(covariances, covariances.mT, rtol=1e-5, atol=1e-8):
            raise ValueError("covariances must be symmetric")
        weights, means, covariances = weights.double(), means.double(), covariances.double()
        variances, self._axes = torch.linalg.eigh(covariances)
        if bool((variances < -1e-5 * variances.abs().amax().clamp(min=1e-30)).any()):
            raise ValueError("covariances must have no negative eigenvalue")
        self._variances = variances.clamp(min=0)
        self._means = means
        self._log_weights = (weights / weights.sum()).log()

    @property
    def num_classes(self) -> int:
        """K, the number of components."""
        return self._means.shape[0]

    def __call__(self, x_t: Tensor, log_snr: Tensor, condition: Condition) -> Posterior:
        """Return mean (of x_t's shape and dtype) and covariance (B, D, D) at λ (B,)."""
        x, level = self._read(x_t, log_snr)
        alpha, variance, noise, rotated = self._components(x, level)
        axes = self._axes.to(x)
        share = self._variances.to(x) / variance
        means = self._means.to(x) + torch.einsum("kij,bkj->bki", axes, alpha * share * rotated)
        responsibility = self._log_joint(x, level, condition).softmax(1)
        mean = torch.einsum("bk,bki->bi", responsibility, means)
        within = torch.einsum("bk,kij,bkj,klj->bil", responsibility, axes, noise * share, axes)
        away = means - mean[:, None]
        covariance = within + torch.einsum("bk,bki,bkj->bij", responsibility, away, away)
        return Posterior(mean.reshape(x_t.shape).to(x_t.dtype), covariance.to(x_t.dtype))

    def log_prob(self, x_t: Tensor, log_snr: Tensor, condition: Condition = UNCONDITIONED) -> Tensor:
        """Return ln p(x_t), or ln p(x_t | label) where there is a label, (B,) in nats."""
        x, level = self._read(x_t, log_snr)
        return self._log_joint(x, level, condition).logsumexp(1).to(x_t.dtype)

    def log_class(self, x_t: Tensor, log_snr: Tensor) -> Tensor:
        """Return ln p(k | x_t), (B, K): the exact classifier for classifier guidance."""
        x, level = self._read(x_t, log_snr)
        return self._log_joint(x, level, UNCONDITIONED).log_softmax(1).to(x_t.dtype)

    def _read(self, x_t: Tensor, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        x = x_t.flatten(1).double()
        if x.shape[1] != self._means.shape[1]:
            raise ValueError(f"the oracle knows {self._means.shape[1]} numbers for each image, x_t has {x.shape[1]}")
        return x, per_image(log_snr, x)

    def _components(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # α (B,1,1), the eigenvalues of α²S_k + σ² (B,K,D), σ² (B,1,1), and x_t − α·m_k along the eigenvectors (B,K,D).
        level = level[:, None, None]
        signal, noise = level.sigmoid(), (-level).sigmoid()
        alpha = signal.sqrt()
        away = x[:, None] - alpha * self._means.to(x)
        rotated = torch.einsum("kij,bki->bkj", self._axes.to(x), away)
        return alpha, signal * self._variances.to(x) + noise, noise, rotated

    def _log_joint(self, x: Tensor, level: Tensor, condition: Condition) -> Tensor:
        # ln w_k + ln N(x_t; α·m_k, α²S_k + σ²), (B, K).
        _, variance, _, rotated = self._components(x, level)
        log_normal = -0.5 * (rotated.square() / variance + (2 * torch.pi * variance).log()).sum(2)
        return self._log_prior(x, condition) + log_normal

    def _log_prior(self, x: Tensor, condition: Condition) -> Tensor:
        prior = self._log_weights.to(x).expand(x.shape[0], -1)
        if condition.label is None:
            return prior
        count = self.num_classes
        label = condition.label.to(x.device)
        if bool(((label < -1) | (label > count)).any()):
            raise ValueError(f"labels must lie between -1 and {count} (both mean none), not {label.tolist()}")
        one = torch.arange(count, device=x.device) == label[:, None]
        certain = torch.zeros_like(prior).masked_fill(~one, -torch.inf)
        return torch.where((label % (count + 1) == count)[:, None], prior, certain)


class GaussianDenoiser(MixtureDenoiser):
    """Data x ~ N(m, S): the mixture of one component, whose denoiser is an affine map of x_t.

        mean = m + α·S(α²S + σ²)⁻¹(x_t − α·m),  covariance = σ²·S(α²S + σ²)⁻¹

    mean (D,), covariance (D, D). Labels are ignored.

    >>> oracle = GaussianDenoiser(torch.zeros(1), torch.eye(1))
    >>> oracle(torch.ones(1, 1), torch.zeros(1), Condition()).mean
    tensor([[0.7071]])
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        super().__init__(torch.ones_like(mean[:1]), mean[None], covariance[None])

    def _log_prior(self, x: Tensor, condition: Condition) -> Tensor:  # noqa: ARG002
        return torch.zeros(x.shape[0], 1, dtype=x.dtype, device=x.device)
