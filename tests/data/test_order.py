"""Batch k of a run is a pure function of k, whatever it is split over."""

from collections import Counter
from itertools import islice

import pytest
from torch.utils.data import DataLoader

from cascade.data.order import RunOrder, SampleKey
from cascade.errors import CascadeError

LABELS = [0] * 7 + [1] * 2 + [2] * 4
ORDERS = [{"size": 13}, {"size": 13, "labels": LABELS}]


def steps(count, *, accumulate=1, processes=1, start=0, **order):
    """The global batches of `count` optimizer steps, gathered from all processes and micro-batches."""
    gathered = [[] for _ in range(count)]
    for rank in range(processes):
        run = RunOrder(5, **order, accumulate=accumulate, processes=processes, rank=rank, start=start)
        for k, batch in enumerate(islice(run, count * accumulate)):
            gathered[k // accumulate] += batch
    return [sorted(step) for step in gathered]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("processes", "accumulate", "batch"), [(2, 1, 6), (1, 3, 4), (4, 3, 1), (2, 2, 3)])
def test_the_union_over_processes_and_micro_batches_is_the_single_batch(order, processes, accumulate, batch):
    single = steps(9, **order, batch=12)
    assert steps(9, **order, batch=batch, processes=processes, accumulate=accumulate) == single
    for number, step in enumerate(single):
        assert [key.index for key in step] == list(range(12))
        assert {key.step for key in step} == {number}


def test_indices_are_micro_major_then_rank():
    run = RunOrder(0, size=50, batch=3, processes=2, rank=1, accumulate=2)
    first, second = islice(run, 2)
    assert [key.index for key in first] == [3, 4, 5]
    assert [key.index for key in second] == [9, 10, 11]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_starting_at_step_k_equals_skipping_k(order, accumulate):
    whole = list(islice(RunOrder(5, **order, batch=4, accumulate=accumulate), 20 * accumulate))
    late = list(islice(RunOrder(5, **order, batch=4, accumulate=accumulate, start=11), 9 * accumulate))
    assert late == whole[11 * accumulate :]
    run = RunOrder(5, **order, batch=4, accumulate=accumulate)
    assert [run.micro_batch(k) for k in (17, 2, 9)] == [whole[17], whole[2], whole[9]]


def test_each_epoch_holds_every_picture_once_in_another_order():
    keys = [key for batch in islice(RunOrder(1, size=13, batch=5), 13) for key in batch]
    epochs = [[key.sample for key in keys if key.epoch == epoch] for epoch in range(5)]
    assert all(sorted(epoch) == list(range(13)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert len({(key.epoch, key.sample) for key in keys}) == len(keys)


def test_runs_with_other_seeds_differ():
    assert next(iter(RunOrder(1, size=50, batch=50))) != next(iter(RunOrder(2, size=50, batch=50)))


def test_balanced_order_draws_classes_equally_and_members_equally():
    keys = [key for batch in islice(RunOrder(1, size=13, batch=6, labels=LABELS), 28) for key in batch]  # 3·56 places
    assert Counter(LABELS[key.sample] for key in keys) == {0: 56, 1: 56, 2: 56}
    assert all(sorted(LABELS[key.sample] for key in keys[i : i + 3]) == [0, 1, 2] for i in range(0, len(keys), 3))
    assert len({tuple(LABELS[key.sample] for key in keys[i : i + 3]) for i in range(0, len(keys), 3)}) == 6
    counts = Counter(key.sample for key in keys)
    for label in (0, 1, 2):
        of_class = [counts[sample] for sample in range(13) if LABELS[sample] == label]
        assert max(of_class) == min(of_class) == 56 // len(of_class)
    # Crops and flips are named by (epoch, sample): no pair may come twice.
    assert len({(key.epoch, key.sample) for key in keys}) == len(keys)


def test_a_global_batch_may_hold_several_epochs():
    (step,) = steps(1, size=4, batch=12)
    assert Counter(key.sample for key in step) == {0: 3, 1: 3, 2: 3, 3: 3}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_passes_the_keys_on(workers):
    order = RunOrder(3, size=13, batch=4, start=2)
    loader = DataLoader(_Echo(), batch_sampler=order, num_workers=workers, collate_fn=list)
    assert list(islice(loader, 5)) == list(islice(order, 5))


class _Echo:
    def __len__(self):
        return 13

    def __getitem__(self, key: SampleKey) -> SampleKey:
        return key


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 0}, "size=0"),
        ({"batch": 0}, "batch=0"),
        ({"accumulate": 0}, "accumulate=0"),
        ({"processes": 2, "rank": 2}, "rank 2 is not among 2"),
        ({"labels": [0, 1]}, "2 labels for 13 pictures"),
    ],
)
def test_impossible_orders_are_refused(wrong, message):
    with pytest.raises(CascadeError, match=message):
        RunOrder(0, **{"size": 13, "batch": 4} | wrong)
