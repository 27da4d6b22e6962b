"""The density of a picture under a denoiser, by the probability-flow ODE (Song et al. 2021)."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from cascade import rng
from cascade.diffusion.condition import Condition
from cascade.diffusion.denoiser import Denoiser
from cascade.diffusion.flow import flow_slope, runge_kutta_step
from cascade.diffusion.log_snr import alpha_sigma, per_image, working_dtype
from cascade.errors import CascadeError

_ORDER = 5  # for the same accuracy about half of order 4's slopes


def log_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    condition: Condition,
    probes: int | None = None,
    *,
    seeds: Sequence[rng.Name] | None = None,
    log_snr_min: float = -20.0,
    log_snr_max: float = 20.0,
    steps: int = 128,
) -> Tensor:
    """Return ln p(x), (B,) in nats: the density of x_t = αx₀ + σε at λ_max, in x_t, at the point x_t = x (B, ...).

        ln p_{λmax}(x) = ln N(x_{λmin}; α x̂, σ² I) − ∫ ∇·f dλ,  f = dx/dλ = (α/2)(x̂ − αx),  from λ_min to λ_max

    along the flow that leads to x. With an exact denoiser of N(m, Σ) that is ln N(x; αm, α²Σ + σ²I), with α and σ at
    `log_snr_max`; at 20 it is the density of the data themselves where these have one, while pictures of 8 bits or of
    lower dimension have none: diffuse them to a level first. The density at λ_min has x̂ there, which no longer depends
    on x, for the data's mean, and is right up to O(α²), 2·10⁻⁹ at −20. ODE: `steps` steps of Dormand and Prince's
    method of order 5, equal in λ, six slopes each; its state is float64, the denoiser is asked in x's dtype (at least
    float32), which is the answer's too.

    ∇·f is the exact trace with `probes` None, by D = C·H·W backward passes for each of the 6·steps slopes. Else it
    is the mean of vᵀ(∂f/∂x)v over so many Rademacher vectors v (Hutchinson), fixed along the path: unbiased for the
    same path, exact where the Jacobian is diagonal. Those of image i are a pure function of `seeds[i]`, the image's
    shape and `probes`; without seeds the seed is its place i in the batch. No two images share their vectors unless
    their seeds are the same; with seeds an image's answer does not depend on its batch.

    Song et al. 2021 (score SDE), section 4.3 and equation 39; Grathwohl et al. 2019 (FFJORD). Raises CascadeError
    unless λ_min < λ_max are finite, probes and steps at least 1, and there are as many seeds as images.

    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.zeros(2), torch.eye(2))
    >>> log_likelihood(oracle, torch.zeros(1, 2), Condition())  # −ln 2π
    tensor([-1.8379])
    """
    return sum(
        log_likelihood_terms(
            denoiser,
            x,
            condition,
            probes,
            seeds=seeds,
            log_snr_min=log_snr_min,
            log_snr_max=log_snr_max,
            steps=steps,
        )
    ).to(working_dtype(x))


def log_likelihood_terms(
    denoiser: Denoiser,
    x: Tensor,
    condition: Condition,
    probes: int | None,
    *,
    seeds: Sequence[rng.Name] | None,
    log_snr_min: float,
    log_snr_max: float,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Return the two terms of `log_likelihood`, (B,) float64: ln N(x_{λmin}; α x̂, σ² I) and −∫ ∇·f dλ.

    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> point = GaussianDenoiser(torch.zeros(2), torch.zeros(2, 2))
    >>> level = {"log_snr_min": -20.0, "log_snr_max": 0.0}
    >>> terms = log_likelihood_terms(point, torch.zeros(1, 2), Condition(), None, seeds=None, steps=8, **level)
    >>> [round(term.item(), 3) for term in terms]  # −ln 2π, and ln 2: each number shrinks from σ = 1 to √½
    [-1.838, 0.693]
    """
    _check(len(x), probes, seeds, log_snr_min=log_snr_min, log_snr_max=log_snr_max, steps=steps)
    # What is made in inference mode takes no part in autograd, so all is copied outside of it.
    with torch.inference_mode(False), torch.no_grad():
        x, condition = x.detach().clone(), condition.clone()
        dtype = working_dtype(x)
        vectors = None if probes is None else _rademacher(x, probes, range(len(x)) if seeds is None else seeds)

        def slope(state: Tensor, log_snr: float) -> Tensor:
            point = state[:, :-1].reshape(x.shape).to(dtype)
            rate, divergence = _rate_and_divergence(denoiser, point, log_snr, condition, vectors)
            return torch.cat([rate.flatten(1).double(), divergence[:, None]], 1)

        state = torch.cat([x.flatten(1).double(), x.new_zeros(len(x), 1, dtype=torch.float64)], 1)
        levels = torch.linspace(log_snr_max, log_snr_min, steps + 1, dtype=torch.float64).tolist()
        for start, end in pairwise(levels):
            state = runge_kutta_step(slope, state, start, end, _ORDER)
        start_point = state[:, :-1].reshape(x.shape).to(dtype)
        # The integral runs downwards in λ, so its sign is that of the formula's −∫.
        return _log_prior(denoiser, start_point, log_snr_min, condition), state[:, -1]


def _rate_and_divergence(
    denoiser: Denoiser, point: Tensor, log_snr: float, condition: Condition, vectors: Tensor | None
) -> tuple[Tensor, Tensor]:
    """f (B, ...) and ∇·f (B,) float64 at a point; `vectors` is (B, probes, D)."""
    with torch.enable_grad():
        point = point.detach().requires_grad_()
        rate = flow_slope(denoiser, point, log_snr, condition)
        flat = rate.flatten(1)
        count = flat.shape[1] if vectors is None else vectors.shape[1]
        divergence = torch.zeros(len(point), dtype=torch.float64, device=point.device)
        for i in range(count):
            # Images are independent of each other, so one backward pass serves the batch.
            projected = flat[:, i] if vectors is None else (flat * vectors[:, i]).sum(1)
            (gradient,) = torch.autograd.grad(projected.sum(), point, retain_graph=i + 1 < count)
            gradient = gradient.flatten(1).double()
            divergence += gradient[:, i] if vectors is None else (gradient * vectors[:, i]).sum(1) / count
    return rate.detach(), divergence


def _rademacher(x: Tensor, probes: int, seeds: Sequence[rng.Name]) -> Tensor:
    """Signs ±1 (B, probes, D), in x's working dtype: those of an image by its seed alone."""
    size = x[0].numel()
    uniform = torch.stack([rng.uniform("likelihood", seed, shape=(probes, size)) for seed in seeds])
    return torch.where(uniform < 0.5, -1.0, 1.0).to(device=x.device, dtype=working_dtype(x))


def _log_prior(denoiser: Denoiser, x: Tensor, log_snr: float, condition: Condition) -> Tensor:
    """ln N(x; αx̂, σ²I), (B,) float64."""
    alpha, sigma = (scale.item() for scale in alpha_sigma(log_snr))
    mean = denoiser(x, per_image(log_snr, x), condition).mean
    away = (x.double() - alpha * mean.double()).flatten(1) / sigma
    return -away.square().sum(1) / 2 - away.shape[1] * math.log(sigma * math.sqrt(2 * math.pi))


def _check(
    count: int,
    probes: int | None,
    seeds: Sequence[rng.Name] | None,
    *,
    log_snr_min: float,
    log_snr_max: float,
    steps: int,
) -> None:
    if not -math.inf < log_snr_min < log_snr_max < math.inf:
        raise CascadeError(f"log_snr_min={log_snr_min} must be below log_snr_max={log_snr_max}, and both finite")
    if steps < 1:
        raise CascadeError(f"steps={steps} must be at least 1")
    if probes is not None and probes < 1:
        raise CascadeError(f"probes={probes} must be at least 1; None is the exact trace")
    if seeds is not None and len(seeds) != count:
        raise CascadeError(f"{len(seeds)} seeds for {count} images: give one for each image")
