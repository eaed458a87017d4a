"""The learning rate is a pure function of the step, whatever the schedule."""

from __future__ import annotations

import pytest
import torch

from fromzero.records import SCHEDULES, Recipe
from fromzero.schedules import ONE_CYCLE_MOMENTA, ONE_CYCLE_RISE, ONE_CYCLE_START, learning_rate, momentum, plateaus


def rates(schedule, steps=100, warmup=0.1, history=()):
    recipe = Recipe(lr=1.0, schedule=schedule, warmup=warmup)
    return [learning_rate(recipe, step, steps, history) for step in range(steps)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_rates_stay_between_nothing_and_the_highest(schedule, steps):
    found = rates(schedule, steps)
    assert all(0 <= each <= 1 for each in found)
    assert found[0] > 0


@pytest.mark.parametrize("schedule", [each for each in SCHEDULES if each != "one-cycle"])
def test_all_but_one_cycle_warm_up_over_the_share_that_was_asked_for(schedule):
    found = rates(schedule)
    assert found[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])


def test_shapes():
    assert rates("constant")[10:] == [1.0] * 90
    assert rates("linear")[55] == pytest.approx(0.5)
    assert rates("cosine")[55] == pytest.approx(0.5)
    assert [rates("step", warmup=0)[n] for n in (49, 50, 74, 75, 99)] == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])
    cycle = rates("one-cycle")
    assert cycle[0] == pytest.approx(ONE_CYCLE_START) and cycle[30] == pytest.approx(1.0)
    assert cycle == sorted(cycle[:31]) + sorted(cycle[31:], reverse=True)


def test_a_plateau_halves_the_rate_once_the_loss_stands_still_for_three_epochs():
    def rate(*losses):
        return rates("plateau", history=[{"epoch": n, "val_loss": each} for n, each in enumerate(losses, 1)])[50]

    assert rate() == rate(1.0) == rate(1.0, 1.1, 1.1) == rate(1.0, 0.9, 0.8, 0.7) == 1.0
    assert rate(1.0, 1.1, 1.1, 1.1) == 0.5
    assert rate(1.0, 1.1, 1.1, 1.1, 0.5, 0.6, 0.6) == 0.5
    assert rate(1.0, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1) == 0.25


def test_one_cycle_turns_the_momentum_against_the_rate_as_pytorch_does():
    """PyTorch's own OneCycleLR as the reference, whose last step is one earlier."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0, momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=101, pct_start=ONE_CYCLE_RISE)
    recipe = Recipe(lr=1.0, schedule="one-cycle")
    for step in range(100):
        assert momentum(recipe, step, 100) == pytest.approx(optimizer.param_groups[0]["momentum"], abs=0.01)
        optimizer.step()
        theirs.step()
    assert momentum(recipe, 30, 100) == pytest.approx(ONE_CYCLE_MOMENTA[0])
    assert momentum(Recipe(lr=1.0), 5, 100) is None


def test_a_hair_better_is_not_better():
    assert plateaus([1.0, 0.9999, 0.9998, 0.9997]) == 1
    assert plateaus([1.0, 0.99, 0.98, 0.97]) == 0
