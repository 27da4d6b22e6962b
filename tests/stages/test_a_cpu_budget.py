"""The budget of processor time ends a run, over all its calls together."""

from types import SimpleNamespace

import pytest

from stages import cpu_budget
from stages.cpu_budget import CpuBudget


class Clock:
    """A processor whose seconds the test chooses."""

    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(cpu_budget.time, "process_time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def trainer():
    return SimpleNamespace(
        should_stop=False, global_step=0, strategy=SimpleNamespace(reduce_boolean_decision=lambda mine, all: mine)
    )


def test_it_ends_with_the_step_in_which_it_is_spent_and_what_was_used_before_counts(clock):
    first, fit = CpuBudget(1.0), trainer()
    first.on_train_start(fit, None)
    clock.now += 40
    first.after_step(fit, None, 1)
    assert not fit.should_stop
    kept = first.state_dict()
    assert kept == {"seconds": 40.0}
    clock.now += 1000  # another process, whose own clock began elsewhere
    second = CpuBudget(1.0)
    second.load_state_dict(kept)
    second.on_train_start(fit, None)
    clock.now += 19
    second.after_step(fit, None, 2)
    assert not fit.should_stop
    clock.now += 2
    second.after_step(fit, None, 3)
    assert fit.should_stop
    assert second.used == 61


def test_without_a_limit_it_only_counts(clock):
    budget, fit = CpuBudget(None), trainer()
    budget.on_train_start(fit, None)
    clock.now += 1e9
    budget.after_step(fit, None, 1)
    assert not fit.should_stop
    assert budget.state_dict() == {"seconds": 1e9}
