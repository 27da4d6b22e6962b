"""Training's random numbers: one stratum for each image, and the same numbers however the batch is split."""

import pytest
import torch

from stages.draws import Draws

WHOLE = tuple(range(12))


def draws(indices=WHOLE, seed=3, step=5) -> Draws:
    return Draws(seed, step, tuple(indices), len(WHOLE))


def everything(made: Draws) -> list[torch.Tensor]:
    masks = torch.stack([torch.rand(3, generator=generator) for generator in made.generators("dropout")])
    return [made.normal("eps", (2, 3)), made.uniform("u", (4,)), made.uniform("u"), made.stratified("log_snr"), masks]


@pytest.mark.parametrize("step", range(20))
def test_each_image_of_the_global_batch_has_a_stratum_of_its_own(step):
    u = draws(step=step).stratified("log_snr")
    assert sorted((u * 12).floor().int().tolist()) == list(WHOLE)
    assert ((u >= 0) & (u < 1)).all()


def test_places_inside_the_strata_are_uniform_and_not_shared():
    inside = torch.cat([draws(step=step).stratified("log_snr") * 12 % 1 for step in range(400)])
    assert inside.mean() == pytest.approx(0.5, abs=0.02)
    assert inside.var() == pytest.approx(1 / 12, abs=0.004)


def test_every_image_meets_every_stratum():
    strata = torch.stack([(draws(step=step).stratified("log_snr") * 12).floor() for step in range(400)])
    assert all(set(column.int().tolist()) == set(WHOLE) for column in strata.T)
    # Neighbours in the batch are not neighbours in λ: a fixed rotation of the strata would give ±1 or 11.
    assert len(set((strata[:, 1] - strata[:, 0]).int().tolist())) > 15


@pytest.mark.parametrize("pieces", [2, 3, 12])
def test_processes_and_micro_batches_draw_what_one_process_draws(pieces):
    parts = [everything(draws(piece.tolist())) for piece in torch.arange(12).chunk(pieces)]
    for whole, *split in zip(everything(draws()), *parts, strict=True):
        assert torch.equal(whole, torch.cat(split))


def test_an_image_draws_the_same_whatever_its_place_in_the_piece():
    order = [7, 0, 11, 3]
    for whole, some in zip(everything(draws()), everything(draws(order)), strict=True):
        assert torch.equal(whole[order], some)


@pytest.mark.parametrize("other", [draws(seed=4), draws(step=6)], ids=["run seed", "step"])
def test_another_run_or_step_draws_other_numbers(other):
    for one, two in zip(everything(draws()), everything(other), strict=True):
        assert (one == two).float().mean() < 0.2


def test_images_and_purposes_draw_other_numbers():
    eps = draws().normal("eps", (50,))
    assert len(eps.unique()) == 600
    assert not torch.equal(eps, draws().normal("augmentation", (50,)))
    assert not torch.equal(draws().stratified("log_snr"), draws().stratified("augmentation"))


def test_normals_are_standard_and_uniforms_lie_in_the_unit_interval():
    many = Draws(0, 0, tuple(range(64)), 64)
    normal, uniform = many.normal("eps", (1000,)), many.uniform("u", (1000,))
    assert normal.mean() == pytest.approx(0, abs=0.02)
    assert normal.var() == pytest.approx(1, abs=0.03)
    assert uniform.mean() == pytest.approx(0.5, abs=0.006)
    assert uniform.var() == pytest.approx(1 / 12, abs=0.002)
    assert ((uniform >= 0) & (uniform < 1)).all()
