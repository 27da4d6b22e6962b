"""What an 8-bit picture costs under the probability flow of a stage, whose density is known (Song et al. 2021).

The flow makes pictures x̄ = x/α of real numbers, at the cleanest level λ of the sampling; an 8-bit picture is a bin of
D = C·H·W sides of Δ = 2/255 around it. With u uniform on [−½, ½) for each number, Jensen gives

    −ln P(x) = −ln ∫ p(x̄) dx̄ over the bin ≤ −E ln p(x + Δ·u) − D ln Δ

(uniform dequantisation: Theis et al. 2016; Song et al. 2021, section 4.3). Where low_res is augmented it is bounded
once more, as in `bits_per_dim`.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from cascade.diffusion import Condition, Denoiser, Elbo, alpha_sigma
from cascade.diffusion.likelihood import log_likelihood_terms
from cascade.errors import CascadeError
from cascade.evaluation.bits_per_dim import PictureDraws, ends

BIN = 2 / 255
"""The distance of two levels of an 8-bit picture in [−1, 1]."""
_LONGEST = 6.6
"""Above this step in λ Dormand and Prince's method errs more from step to step."""


@dataclass(frozen=True)
class FlowLikelihood:
    """−ln P(x) by the density of the flow: a bound on it with the exact trace, that bound without bias with probes.

    probes  Rademacher vectors for the trace, a picture's own (Hutchinson); None: the exact trace, by C·H·W backward
            passes for each call of the network
    steps   of the ODE, equal in λ with six calls of the network each; so many that a step is at most 6.6

    Between log_snr_min and log_snr_max; None: between the ends of the stage's sampling grid. Of the terms, prior is
    −ln of the density where the flow begins, diffusion the change of volume on the way, decoder that of the bin.

    >>> FlowLikelihood(probes=2).text
    'probability flow, 32 steps, 2 probes'
    """

    probes: int | None = 1
    steps: int = 32
    log_snr_min: float | None = None
    log_snr_max: float | None = None
    grid_steps = None
    kind = "flow"

    def __post_init__(self) -> None:
        for name in ("probes", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CascadeError(f"log_likelihood.{name}={value} must be at least 1")

    @property
    def text(self) -> str:
        """What it is, in words."""
        trace = "exact trace" if self.probes is None else f"{self.probes} probe{'s' if self.probes > 1 else ''}"
        return f"probability flow, {self.steps} steps, {trace}"

    def __call__(
        self, denoiser: Denoiser, x: Tensor, log_snrs: Tensor, condition: Condition, draws: PictureDraws
    ) -> Elbo:
        """Return the terms of each 8-bit picture of x (B, C, H, W) in [−1, 1]."""
        low, high = ends(log_snrs, self.log_snr_min, self.log_snr_max)
        if self.steps < (high - low) / _LONGEST:
            least = math.ceil((high - low) / _LONGEST)
            raise CascadeError(f"log_likelihood.steps={self.steps}: give at least {least} from {low:g} to {high:g}")
        alpha = alpha_sigma(high)[0].item()
        within = draws.dequantisation() - 0.5
        prior, volume = log_likelihood_terms(
            denoiser,
            alpha * (x + BIN * within),
            condition,
            self.probes,
            seeds=draws.probe_seeds(),
            log_snr_min=low,
            log_snr_max=high,
            steps=self.steps,
        )
        # p is that of x_t = α·x̄: a bin's side is α·Δ there.
        return Elbo(-prior, -volume, prior.new_full((len(x),), -x[0].numel() * math.log(alpha * BIN)))
