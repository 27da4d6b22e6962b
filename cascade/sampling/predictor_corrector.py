"""Predictor-corrector sampling (Song et al. 2021): a step of the reverse SDE, then Langevin steps at the new level."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.diffusion import Condition, Denoiser
from cascade.errors import CascadeError
from cascade.sampling.ancestral import Ancestral
from cascade.sampling.langevin import langevin_step
from cascade.sampling.transition import Noise, Sampler, transitions


@dataclass(frozen=True)
class PredictorCorrector:
    """A step of the predictor to level s, then `corrector_steps` of Langevin dynamics there at the SNR r = `snr`.

        x ← x + ε g + √(2ε) z,  g = (αx̂ − x)/σ²,  ε = 2(r‖z‖/‖g‖)²

    The norms are those of each image, not means over the batch as in the paper's code, so that an image does not depend
    on its batch. In ρ = ε/σ² = 2r²‖z‖²/‖ε̂‖² this is a Langevin step, and the rule is the same in x and in x/α; ρ is
    near 2r², 0.05 by default, and is held at 1, where a step reaches αx̂, for an image that has almost no noise left.
    The paper's factor α_i = 1 − β_i (algorithm 5) tends to 1 on fine grids and is left out, as in algorithm 4.
    The corrector leaves the marginal at its level alone but for a bias that falls as r⁴, and as r²/D in D dimensions.

    The predictor is any sampler that draws at most once in a step; it is asked for one step at a time, so what it
    remembers of earlier ones is lost. The paper's are Ancestral("small"), the default, and EulerMaruyama(). A step into
    λ = +inf returns x̂ and is not corrected. Step i draws randn(i) and corrector k of it randn(i, draw=k), k ≥ 1. With
    no corrector steps, or r = 0, it reduces to its predictor.

    Song et al. 2021 (score SDE), algorithms 1, 3 and 4. Raises CascadeError for what is no such predictor and for
    negative numbers.

    >>> from cascade.diffusion.oracle import GaussianDenoiser
    >>> oracle = GaussianDenoiser(torch.ones(2), torch.zeros(2, 2))
    >>> grid = torch.tensor([-9.0, 0.0, torch.inf], dtype=torch.float64)
    >>> sampler = PredictorCorrector(Ancestral("large"), corrector_steps=2)
    >>> sampler(oracle, torch.randn(1, 2), grid, Condition(), lambda step, draw=0: torch.randn(1, 2))
    tensor([[1., 1.]])
    """

    predictor: Sampler = Ancestral("small")  # noqa: RUF009  (frozen)
    corrector_steps: int = 1
    snr: float = 0.16

    def __post_init__(self) -> None:
        if not callable(self.predictor):
            raise CascadeError(f"a predictor is a sampler, in a config {{name: ancestral}}, not {self.predictor!r}")
        steps = self.corrector_steps
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
            raise CascadeError(f"corrector_steps={steps} must be a whole number, at least 0")
        if not 0 <= self.snr < math.inf:
            raise CascadeError(f"snr={self.snr} must be at least 0 and finite")

    def __call__(self, denoiser: Denoiser, x: Tensor, log_snrs: Tensor, condition: Condition, randn: Noise) -> Tensor:
        """Sample; 1 + `corrector_steps` network calls and draws of noise for each step but one into λ = +inf."""
        for step in transitions(log_snrs):
            pair = log_snrs[step.index : step.index + 2]
            x = self.predictor(denoiser, x, pair, condition, _Once(step.index, randn))
            corrections = 0 if step.ends_clean else self.corrector_steps
            for draw in range(1, 1 + corrections):
                mean, noise = step.s.denoise(denoiser, x, condition).mean, randn(step.index, draw)
                x = langevin_step(x, mean, step.s, self._rate(step.s.eps(x, mean), noise), noise)
        return x

    def _rate(self, eps: Tensor, noise: Tensor) -> Tensor:
        """ρ = 2r²‖z‖²/‖ε̂‖² for each image, (B, 1, ..., 1)."""
        over_picture = tuple(range(1, eps.ndim))
        signal = torch.linalg.vector_norm(noise, dim=over_picture, keepdim=True)
        gradient = torch.linalg.vector_norm(eps, dim=over_picture, keepdim=True)
        # Without noise left ‖ε̂‖ = 0: the least positive number keeps 0/0 from becoming NaN.
        ratio = self.snr * signal / gradient.clamp_min(torch.finfo(eps.dtype).tiny)
        return (2 * ratio.square()).clamp_max(1)


@dataclass(frozen=True)
class _Once:
    """The noise of a predictor whose only step is step `index`; the other draws are the corrector's."""

    index: int
    randn: Noise

    def __call__(self, step: int, draw: int = 0) -> Tensor:  # noqa: ARG002
        if draw:
            raise CascadeError("a predictor draws at most once in a step: take ancestral, euler_maruyama, ddim, ...")
        return self.randn(self.index)
