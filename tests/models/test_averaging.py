"""The moving average of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fromzero.models.averaging import averaged


def test_the_average_follows_the_formula_with_its_warm_up():
    model = nn.Linear(1, 1, bias=False)
    average = averaged(model, 0.9)
    expected = None
    for count, value in enumerate([1.0, 2.0, 5.0, 3.0, 8.0] * 20):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update_parameters(model)
        decay = min(0.9, (1 + count) / (10 + count))
        expected = value if expected is None else expected * decay + value * (1 - decay)
    assert float(average.module.weight.detach()) == pytest.approx(expected, rel=1e-5)


def test_a_short_run_is_not_an_average_with_its_start():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = averaged(model, 0.999)
    average.update_parameters(model)
    nn.init.ones_(model.weight)
    for _ in range(50):
        average.update_parameters(model)
    assert float(average.module.weight.detach()) > 0.95  # without the warm-up of the decay: 0.05


def test_statistics_of_batch_norms_are_averaged_and_counters_copied():
    model = nn.BatchNorm1d(2)
    average = averaged(model, 0.9)
    for value in (0.0, 10.0):
        model.running_mean.fill_(value)
        model.num_batches_tracked += 1
        average.update_parameters(model)
    assert 0 < float(average.module.running_mean[0]) < 10
    assert int(average.module.num_batches_tracked) == 2


def test_the_state_is_all_there_is():
    model = nn.Linear(3, 3)
    one, other = averaged(model, 0.99), averaged(nn.Linear(3, 3), 0.99)
    for _ in range(3):
        nn.init.normal_(model.weight)
        one.update_parameters(model)
    other.load_state_dict(one.state_dict())
    nn.init.normal_(model.weight)
    one.update_parameters(model)
    other.update_parameters(model)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert not any(each.requires_grad for each in one.parameters())
