"""Precision and recall: bounds, symmetry, and the definition computed with all distances at once."""

import threading
from importlib import import_module

import pytest
import torch

from cascade.errors import CascadeError
from cascade.evaluation import precision_recall
from cascade.rng import randn


def brute_force(real, fake, k):
    def inside(points, centres):
        among = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
        radius = among.sort(1).values[:, k]  # place 0 is the point itself
        return (torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist") <= radius).any(1)

    return inside(fake, real).double().mean().item(), inside(real, fake).double().mean().item()


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("block", [1, 7, 64, 1024])
def test_equals_brute_force_at_any_block(k, block, monkeypatch):
    # The package's attribute of this name is the function.
    monkeypatch.setattr(import_module("cascade.evaluation.precision_recall"), "_BLOCK", block)
    real = randn("pr", "real", 3, shape=(60, 5)).double()
    fake = 0.7 * randn("pr", "fake", 3, shape=(45, 5)).double() + 0.8
    found = precision_recall(real, fake, k)
    assert tuple(found) == pytest.approx(brute_force(real, fake, k))
    assert 0 < found.precision < 1
    assert 0 < found.recall < 1


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_a_set_covers_itself_even_with_pictures_that_occur_many_times(offset):
    x = randn("pr", "self", shape=(30, 64)).repeat(3, 1) + offset
    assert precision_recall(x, x, k=1) == (1.0, 1.0)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    assert precision_recall(x, x[order], k=2) == (1.0, 1.0)


def test_far_sets_share_nothing():
    x = randn("pr", "far", shape=(50, 8))
    assert precision_recall(x, x + 100, k=3) == (0.0, 0.0)


def test_one_mode_of_two_is_precise_but_recalls_half():
    one, other = randn("pr", "one", shape=(50, 4)), randn("pr", "other", shape=(50, 4)) + 100
    both = torch.cat([one, other])
    assert precision_recall(both, one, k=3) == (1.0, 0.5)
    assert precision_recall(one, both, k=3) == (0.5, 1.0)  # the two change places with the sets


def test_neighbours_must_exist():
    x = torch.zeros(5, 2)
    for k in (0, 5):
        with pytest.raises(CascadeError, match=f"k = {k} neighbours"):
            precision_recall(x, x, k)
    with pytest.raises(CascadeError, match="NaN"):
        precision_recall(x * torch.nan, x, 1)


def test_the_metric_is_the_function_of_all_pieces_in_any_order():
    from cascade.evaluation.precision_recall_metric import PrecisionRecallMetric

    real, fake = randn("metric", "real", shape=(30, 4)), 1.5 * randn("metric", "fake", shape=(20, 4))
    metric = PrecisionRecallMetric(k=3)
    for piece in (fake[12:], fake[:12]):
        metric.update(piece, real=False)
    for piece in (real[25:], real[:7], real[7:25]):
        metric.update(piece, real=True)
    expected = precision_recall(real, fake, 3)
    assert {name: value.item() for name, value in metric.compute().items()} == expected._asdict()
    metric.reset()
    metric.update(real, real=True)
    with pytest.raises(CascadeError, match="need real and generated"):
        metric.compute()
    with pytest.raises(CascadeError, match=r"features \(B, d\)"):
        metric.update(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), real=True)


def test_processes_with_uneven_numbers_and_one_without_fake_pictures_agree(monkeypatch):
    """Two threads that meet as processes do; tensors that differ in size or type would keep gloo waiting."""
    from cascade.evaluation import precision_recall_metric as module

    real, fake = randn("metric", "real", shape=(30, 4)), 1.5 * randn("metric", "fake", shape=(20, 4))
    meeting, brought, results = threading.Barrier(2, timeout=60), [None, None], [None, None]
    here = threading.local()

    def exchanged(own):
        brought[here.rank] = own
        meeting.wait()
        found = list(brought)
        meeting.wait()
        return found

    def gathered(rows, group):
        found = exchanged(rows)
        assert len({(each.ndim, *each.shape[1:], each.dtype) for each in found}) == 1
        return found

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", lambda told, own, group: told.__init__(exchanged(own)))
    monkeypatch.setattr(module, "gather_all_tensors", gathered)

    def work(rank):
        here.rank = rank
        metric = module.PrecisionRecallMetric(k=3, distributed_available_fn=lambda: True)
        metric.update(real[:7] if rank else real[7:], real=True)
        if not rank:
            metric.update(fake, real=False)
        results[rank] = {name: value.item() for name, value in metric.compute().items()}

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert results == [precision_recall(real, fake, 3)._asdict()] * 2
