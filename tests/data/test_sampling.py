"""Balanced drawing and class weights."""

from __future__ import annotations

import numpy as np
import pytest

from fromzero.data.sampling import class_weights, drawn

ROWS = np.arange(100, 200)
LABELS = np.array([0] * 90 + [1] * 9 + [2])


def counts(how, epoch=0):
    found = drawn(ROWS, LABELS, how, 0, epoch)
    return np.bincount(LABELS[found - 100], minlength=3), found


def test_natural_is_every_row_once():
    assert np.array_equal(drawn(ROWS, LABELS, "natural", 0, 0), ROWS)


def test_balanced_draws_as_many_of_each_class_and_no_row_again_before_its_class_is_through():
    many, found = counts("balanced")
    assert len(found) == 100 and many.max() - many.min() <= 1
    times = np.bincount(found - 100, minlength=100)
    assert times[:90].max() == 1
    assert times[90:99].max() - times[90:99].min() <= 1
    assert times[99] == many[2]


def test_sqrt_lies_between():
    many, _ = counts("sqrt")
    exact = np.sqrt([90, 9, 1]) / np.sqrt([90, 9, 1]).sum() * 100
    assert np.abs(many - exact).max() < 1


def test_drawing_is_a_function_of_seed_and_epoch():
    assert np.array_equal(counts("balanced", 3)[1], counts("balanced", 3)[1])
    assert not np.array_equal(counts("balanced", 3)[1], counts("balanced", 4)[1])
    assert set(counts("balanced", 3)[1][:30]) != set(counts("balanced", 4)[1][:30])


@pytest.mark.parametrize("how", ["balanced", "effective"])
def test_weights_of_the_samples_are_one_on_average(how):
    weights = class_weights([90, 9, 1], how)
    assert weights.dtype == np.float32
    assert weights @ [90, 9, 1] == pytest.approx(100, rel=1e-5)
    assert weights[0] < weights[1] < weights[2]


def test_balanced_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    assert class_weights([90, 9, 1], "balanced") == pytest.approx(expected, rel=1e-5)


def test_effective_weights_hardly_tell_large_classes_apart():
    large = class_weights([100_000, 10_000, 10], "effective")
    assert large[1] / large[0] < 1.01
    assert class_weights([100_000, 10_000, 10], "balanced")[1] > 9 * class_weights([100_000, 10_000, 10], "balanced")[0]


def test_no_weights_where_none_are_asked_for():
    assert class_weights([90, 9, 1], "none") is None


def test_a_class_without_samples_has_a_weight_all_the_same():
    assert np.isfinite(class_weights([9, 0], "balanced")).all()
