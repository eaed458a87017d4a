"""The fit finds what made the data, and a card without data inherits."""

from __future__ import annotations

import dataclasses
import math

import pytest

from fromzero.facts.cards import find_card
from fromzero.planner import timing
from fromzero.planner.calibrate import PRIORS, Run, fit, predicted, prior, weighed
from fromzero.planner.kernels import Known, Setting, timed
from fromzero.planner.operators import Cost


def product(side, dtype="float16"):
    return Cost("", "gemm", dtype, 2.0 * side**3, 6.0 * side**2, dims=(side, side, side, 1, 1, 1))


def traffic(size):
    return Cost("", "elementwise", "float16", 0.0, size)


def runs(card="RTX 3090", slower=1.0):
    """Products at 80 % of the peak, traffic at 90 % of the bandwidth."""
    setting = Setting(find_card(card))
    rate, bandwidth = setting.card.rates["fp16"], setting.card.bandwidth
    made = [(product(side), product(side).flops / rate / 0.8) for side in (2048, 4096, 8192)]
    made += [(traffic(size), size / bandwidth / 0.9) for size in (1e8, 1e9, 1e10)]
    return [
        Run(seconds * slower, setting, ((cost, 10),), f"model{number}", f"family{number}", "test", lone=False)
        for number, (cost, seconds) in enumerate((cost, 10 * seconds) for cost, seconds in made)
    ]


def test_the_fit_explains_its_data():
    data = runs()
    for run, guess in zip(data, predicted(data, fit(data, steps=60)), strict=True):
        assert guess == pytest.approx(run.seconds, rel=0.1)


def test_the_fit_is_deterministic():
    assert fit(runs(), steps=20) == fit(runs(), steps=20)


def test_prediction_is_the_fitted_formula():
    """The table that is fitted and the arrays that predict agree, for every kind of term."""
    known = timing.calibration()
    costs = (product(1000), product(64, "float32"), traffic(1e5), Cost("", "reduce", "float32", 0.0, 1e7))
    depthwise = Cost("", "depthwise.wgrad", "float16", 1e9, 1e8, dims=(9e4, 1, 25, 64, 25, 2), layout="nhwc")
    grouped = Cost("", "grouped.dgrad", "float16", 1e9, 1e8, dims=(9e4, 8, 72, 8, 9, 1), layout="nhwc")
    costs = (*costs, depthwise, grouped, dataclasses.replace(traffic(1e3), launches=7.0))
    for card in ("RTX 3090", "Tesla T4", "GTX 1080", "RTX 4090"):
        for cost in costs:
            setting = Setting(find_card(card), "1.12")
            run = Run(1.0, setting, ((cost, 3),), "", "", "test", lone=True)
            [fitted] = predicted([run], dict(known.parameters))
            assert timed((cost,) * 3, setting, known).seconds.sum() == pytest.approx(fitted, rel=1e-6)


def test_a_card_without_data_inherits_its_architecture():
    learnt = Known(fit(weighed([*runs("RTX 3090", slower=1.5), *runs("RTX A6000", slower=1.5)]), steps=60))
    guess = timed((traffic(1e9),), Setting(find_card("RTX 3060 12 GB")), learnt).seconds.sum()
    ideal = 1e9 / find_card("RTX 3060 12 GB").bandwidth / 0.9
    assert guess > 1.2 * ideal


def test_kin_share_their_weight():
    one = runs()[0]
    twins = weighed([one, dataclasses.replace(one, model="other"), runs()[1]])
    assert [each.weight for each in twins] == [pytest.approx(0.5**0.5)] * 2 + [1.0]


@pytest.mark.parametrize(
    ("name", "centre"),
    [
        ("compute.conv.wgrad", PRIORS["compute.conv"][0]),
        ("compute.gemm.tf32", 0.0),
        ("compute.conv.dgrad.nhwc", 0.0),
        ("memory.cast", PRIORS["memory"][0]),
        ("memory.cast.half", 0.0),
        ("card.NVIDIA L4.memory", 0.0),
        ("era.2.conv.tensor", 0.0),
        ("columns.grouped.wgrad.nhwc", 0.0),
        ("cpu.memory.cat", PRIORS["cpu.memory"][0]),
        ("host.timm", PRIORS["host"][0]),
    ],
)
def test_priors_by_name(name, centre):
    found, spread = prior(name)
    assert found == centre
    assert spread > 0


def test_no_two_cards_of_the_table_share_a_prior_by_accident():
    assert prior("watts.turing.tensor")[0] == pytest.approx(math.log(2.0))
