"""A network that is told step numbers: at the ladder's levels they are whole, and the rest is eps-prediction."""

import pytest
import torch

from cascade.diffusion import Condition, EpsPreconditioning
from cascade.diffusion.schedule import CosineSchedule, DiscreteBetas
from cascade.diffusion.step_preconditioning import StepEpsPreconditioning


class Told(torch.nn.Module):
    """Keeps what it is told, and answers with a function of it."""

    def forward(self, x, clock, **_condition):
        self.clock = clock
        return torch.tanh(x + 0.001 * clock[:, None])


@pytest.mark.parametrize(
    ("kind", "steps", "rescale"), [("linear", 1000, False), ("cosine", 1000, True), ("linear", 250, True)]
)
def test_the_clock_is_the_step(kind, steps, rescale):
    ladder = DiscreteBetas(kind, steps)
    chosen = torch.tensor([0, 1, steps // 3, steps - 1])
    network = Told()
    denoiser = StepEpsPreconditioning(network, ladder, rescale)
    x_t = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    # Levels come in float32, in which neighbouring steps of the clean end must stay apart.
    level = ladder.log_snrs[chosen].float()
    posterior = denoiser(x_t, level, Condition())
    expected = chosen * (1000 / steps if rescale else 1)
    assert torch.equal(network.clock, expected.float())
    given = EpsPreconditioning(lambda x, _, **__: torch.tanh(x + 0.001 * expected[:, None].float()))
    assert torch.equal(posterior.mean, given(x_t, level, Condition()).mean)


def test_between_two_steps_the_clock_is_linear_in_log_snr():
    ladder = DiscreteBetas("linear", 1000)
    low, high = ladder.log_snrs[401], ladder.log_snrs[400]
    network = Told()
    StepEpsPreconditioning(network, ladder)(torch.zeros(1, 1).double(), (0.25 * high + 0.75 * low)[None], Condition())
    assert network.clock.item() == pytest.approx(400.75, abs=1e-6)


def test_it_needs_a_ladder():
    with pytest.raises(ValueError, match="betas must be discrete_betas, not CosineSchedule"):
        StepEpsPreconditioning(Told(), CosineSchedule())
