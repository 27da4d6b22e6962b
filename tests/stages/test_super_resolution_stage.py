"""What a super-resolution stage shows its denoiser: low-res pictures that are blurred and noised as it is told."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from cascade.diffusion.augmentation import CLEAN, GaussianAugmentation
from stages.super_resolution_stage import SuperResolutionStage

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Lightning's advice on workers, and its use of what torch has deprecated.
    pytest.mark.filterwarnings("ignore::UserWarning:lightning.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]


@pytest.fixture
def sr(scale, recipe, shown) -> Callable[..., object]:
    """sr(augmentation, made): what the denoiser is shown of one batch."""
    return lambda augmentation, made: shown(
        SuperResolutionStage(scale(), recipe(len(made["image"])), augmentation), made
    )


def noise_in(call, low_res: Tensor) -> Tensor:
    """The ε in α_a·low + σ_a·ε at the levels that the network is told."""
    level = call.condition.aug_log_snr
    alpha, sigma = (sign.sigmoid().sqrt()[:, None, None, None] for sign in (level, -level))
    return (call.condition.low_res - alpha * low_res) / sigma


def test_the_level_told_is_the_level_applied(batch, sr):
    made = batch(indices=range(6), side=32, factor=2)
    one, two = (sr(GaussianAugmentation(*ends, ends[0]), made) for ends in ((-1.0, 1.0), (2.0, 6.0)))
    eps, again = (noise_in(call, made["low_res"]) for call in (one, two))
    assert len(one.condition.aug_log_snr.unique()) == 6
    assert torch.allclose(eps, again, atol=1e-5)
    assert eps.mean((1, 2, 3)) == pytest.approx(torch.zeros(6), abs=0.18)
    assert eps.var((1, 2, 3)) == pytest.approx(torch.ones(6), abs=0.26)


def test_noise_of_the_small_picture_is_not_that_of_the_large_one(batch, sr):
    made = batch(indices=range(4), side=16, factor=1)
    call = sr(GaussianAugmentation(-1.0, 1.0, 0.0), made)
    alpha, sigma = (sign.sigmoid().sqrt()[:, None, None, None] for sign in (call.log_snr, -call.log_snr))
    large = ((call.x_t - alpha * made["image"]) / sigma)[call.log_snr < 5]
    small = noise_in(call, made["low_res"])[call.log_snr < 5]
    assert abs(float(torch.corrcoef(torch.stack([large.flatten(), small.flatten()]))[0, 1])) < 0.12


def test_levels_are_uniform_over_the_range_and_not_tied_to_the_noise_level(batch, recipe, sr):
    call = sr(GaussianAugmentation(-2.0, 6.0, 0.0), batch(indices=range(2000), side=2, factor=2))
    told, level = call.condition.aug_log_snr, call.log_snr
    assert told.mean() == pytest.approx(2.0, abs=0.25)
    assert told.var() == pytest.approx(64 / 12, rel=0.1)
    ranks = recipe().noise.schedule.t(level)
    assert abs(float(torch.corrcoef(torch.stack([told, ranks]))[0, 1])) < 0.1


def test_pictures_are_blurred_before_they_are_noised(batch, sr):
    made = batch(indices=range(6), side=32, factor=2)
    sharp = GaussianAugmentation(-1.0, 3.0, 0.0)
    blurred = replace(sharp, blur_probability=1.0, blur_sigma_min=0.5, blur_sigma_max=0.5)
    soft = sharp.blur(made["low_res"], torch.full((6,), 0.5))
    assert not torch.allclose(soft, made["low_res"], atol=0.1)
    eps, again = noise_in(sr(sharp, made), made["low_res"]), noise_in(sr(blurred, made), soft)
    assert torch.allclose(eps, again, atol=1e-5)


@dataclass(frozen=True)
class Watched(GaussianAugmentation):
    """Remembers the blurs it is asked for."""

    sigmas: list[Tensor] = field(default_factory=list)

    def blur(self, low_res: Tensor, sigma: Tensor) -> Tensor:
        self.sigmas.append(sigma)
        return super().blur(low_res, sigma)


def test_blurs_have_their_share_and_their_sigmas_do_not_depend_on_it(batch, sr):
    watched = Watched(0.0, 6.0, 0.0, blur_probability=0.3)
    sr(watched, batch(indices=range(2000), side=2, factor=1))
    (sigma,) = watched.sigmas
    assert (sigma > 0).double().mean() == pytest.approx(0.3, abs=0.04)
    assert sigma[sigma > 0].mean() == pytest.approx(0.5, abs=0.01)
    assert (sigma[sigma > 0].min(), sigma.max()) == (pytest.approx(0.4, abs=0.01), pytest.approx(0.6, abs=0.01))


def test_clean_images_are_shown_their_low_res_picture_bit_for_bit(batch, sr):
    made = batch(indices=range(200), side=4, factor=2)
    told = sr(GaussianAugmentation(0.0, 6.0, 3.0, include_clean=0.4), made).condition
    clean = told.aug_log_snr == CLEAN
    assert clean.double().mean() == pytest.approx(0.4, abs=0.12)
    assert torch.equal(told.low_res[clean], made["low_res"][clean])
    assert not (told.low_res[~clean] == made["low_res"][~clean]).any()
