"""Known pixels are kept exactly by every sampler, and an exact denoiser told them keeps them of itself."""

import pytest
import torch

from cascade import registry, rng
from cascade.data.condition_picture import mask_boxes
from cascade.data.degradation import from_uint8, to_uint8
from cascade.diffusion import Condition, Posterior
from cascade.errors import CascadeError
from cascade.sampling import KeepKnown
from cascade.sampling.grid import karras

PICTURES = (rng.uniform("known pictures", shape=(2, 3, 8, 8)) * 256).to(torch.uint8)
SHOWN = torch.stack([mask_boxes()(from_uint8(picture), i) for i, picture in enumerate(PICTURES)])
KNOWN = (SHOWN[:, 3:] == 1).expand(-1, 3, -1, -1)


def guess(x_t, log_snr, condition):
    """A denoiser that knows nothing of what is shown."""
    return Posterior(x_t.tanh(), variance_fraction=torch.full_like(x_t, 0.5))


def made(name: str, denoiser) -> torch.Tensor:
    noise = rng.ImageNoise([1, 2], "stage", (3, 8, 8))
    sampler = registry.build("sampler", {"name": name, **({"steps": 2, "step_size": 0.1} if "lang" in name else {})})
    return sampler(denoiser, noise(-1), karras(4), Condition(low_res=SHOWN), noise)


@pytest.mark.parametrize("name", sorted(set(registry.TABLE["sampler"]) - {"classifier_ancestral"}))
def test_every_sampler_keeps_them_to_the_bit(name):
    kept, free = made(name, KeepKnown(guess)), made(name, guess)
    assert torch.equal(to_uint8(kept)[KNOWN], PICTURES[KNOWN])
    assert not torch.equal(to_uint8(free)[KNOWN], PICTURES[KNOWN])
    assert (kept[~KNOWN] - from_uint8(PICTURES)[~KNOWN]).abs().mean() > 0.1


def test_all_else_of_the_posterior_stays():
    x_t, level = rng.randn("x", shape=(2, 3, 8, 8)), torch.zeros(2)
    plain, kept = (denoiser(x_t, level, Condition(low_res=SHOWN)) for denoiser in (guess, KeepKnown(guess)))
    assert torch.equal(kept.mean[~KNOWN], plain.mean[~KNOWN])
    assert torch.equal(kept.variance_fraction, plain.variance_fraction)


@pytest.mark.parametrize("shown", [None, SHOWN[:, :3], SHOWN[..., :4]])
def test_a_condition_without_a_mask_is_refused(shown):
    with pytest.raises(CascadeError, match="with their mask"):
        KeepKnown(guess)(torch.zeros(2, 3, 8, 8), torch.zeros(2), Condition(low_res=shown))
