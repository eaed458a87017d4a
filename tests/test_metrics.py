"""Measures of a classifier against scikit-learn's and against what can be counted by hand."""

import numpy as np
import pytest
import sklearn.metrics

from fromzero import metrics


def binary(count=400, seed=0, base=0.3):
    """Well calibrated probabilities: the class is drawn with the very chance that is said."""
    rng = np.random.default_rng(seed)
    chance = np.clip(rng.beta(1, 1 / base - 1, count), 0.001, 0.999)
    return np.stack([1 - chance, chance], axis=1), (rng.random(count) < chance).astype(np.int64)


def several(count=300, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes)) + 2 * np.eye(classes)[truth]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), truth


def test_measures_agree_with_scikit_learn():
    for scores, truth in (binary(), several()):
        called = scores.argmax(axis=1)
        found = metrics.measures(scores, truth)
        assert found["loss"] == pytest.approx(sklearn.metrics.log_loss(truth, scores))
        assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(truth, called))
        assert found["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(truth, called, average="macro"))
        given = scores[:, 1] if scores.shape[1] == 2 else scores
        assert found["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(truth, given, multi_class="ovr"))
    scores, truth = binary()
    assert truth.mean() < 0.5  # class 1 is the rarer, and so the positive one
    assert metrics.pr_auc(scores, truth) == pytest.approx(sklearn.metrics.average_precision_score(truth, scores[:, 1]))
    assert metrics.brier(scores, truth) == pytest.approx(sklearn.metrics.brier_score_loss(truth, scores[:, 1]))


def test_the_positive_class_is_the_rarer_one():
    scores, truth = binary()
    turned = scores[:, ::-1], 1 - truth  # what was class 1 is class 0
    assert metrics.pr_auc(*turned) == pytest.approx(metrics.pr_auc(scores, truth))
    assert metrics.positive(truth) == 1 and metrics.positive(1 - truth) == 0
    assert metrics.positive(np.array([0, 1])) == 1


def test_classes_that_do_not_occur_count_in_no_average():
    scores, truth = several()
    keep = truth != 3
    scores, truth = scores[keep], truth[keep]
    alone = [sklearn.metrics.roc_auc_score(truth == each, scores[:, each]) for each in range(3)]
    assert metrics.auc(scores, truth) == pytest.approx(np.mean(alone))
    f1 = sklearn.metrics.f1_score(truth, scores.argmax(axis=1), average=None, labels=[0, 1, 2])
    assert metrics.macro_f1(scores, truth) == pytest.approx(f1.mean())
    only = metrics.measures(scores[truth == 0], truth[truth == 0])
    assert "auc" not in only and "pr_auc" not in only and only["accuracy"] > 0


def test_calibration_error_of_one_that_knows_and_of_one_that_boasts():
    scores, truth = binary(20_000)
    assert metrics.calibration_error(scores, truth) < 0.015
    boasting = metrics.tempered(scores, 0.3)
    assert metrics.calibration_error(boasting, truth) > 0.05
    bins = metrics.calibration(scores, truth)
    assert sum(each.samples for each in bins) == 20_000
    assert all(each.low <= each.confidence <= each.high for each in bins)
    sure = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert metrics.calibration_error(sure, np.array([1, 0])) == 0
    assert metrics.calibration_error(sure, np.array([0, 1])) == 1


@pytest.mark.parametrize("power", [0.4, 1.0, 2.5])
def test_temperature_finds_how_far_the_logits_were_stretched(power):
    scores, truth = binary(20_000)
    stretched = metrics.tempered(scores, 1 / power)
    assert metrics.temperature(stretched, truth) == pytest.approx(power, rel=0.08)
    mended = metrics.tempered(stretched, metrics.temperature(stretched, truth))
    assert (mended.argmax(axis=1) == scores.argmax(axis=1)).all()
    np.testing.assert_allclose(mended.sum(axis=1), 1)


def test_a_few_samples_without_a_mistake_are_no_proof():
    truth = np.arange(40) % 2
    scores = np.where(np.arange(2) == truth[:, None], 0.9, 0.1)
    mended = metrics.tempered(scores, metrics.temperature(scores, truth))
    assert mended.max() == pytest.approx(21 / 22, abs=1e-3)  # of twenty that were right, Laplace's rule


@pytest.mark.parametrize("by", ["f1", "youden", 5, 0.2])
def test_no_other_threshold_does_better(by):
    scores, truth = binary(150)
    found = metrics.threshold(scores, truth, by)

    def value(cut):
        called = scores[:, 1] >= cut
        hits, alarms = (called & (truth == 1)).sum(), (called & (truth == 0)).sum()
        positives, negatives = (truth == 1).sum(), (truth == 0).sum()
        if by == "f1":
            return 2 * hits / (called.sum() + positives)
        if by == "youden":
            return hits / positives - alarms / negatives
        return -(by * (positives - hits) + alarms) / len(truth)

    at = value(found.threshold)
    assert at == pytest.approx(found.value if isinstance(by, str) else -found.value)
    assert at >= max(value(cut) for cut in np.linspace(0, 1, 2001)) - 1e-12
    called = scores[:, 1] >= found.threshold
    assert found.recall == pytest.approx(called[truth == 1].mean())
    assert found.precision == pytest.approx((truth[called] == 1).mean())
    assert found.false_alarms == pytest.approx(called[truth == 0].mean())


def test_a_dear_miss_lowers_the_threshold():
    scores, truth = binary(5000)
    cuts = [metrics.threshold(scores, truth, cost).threshold for cost in (0.5, 1, 5, 20)]
    assert cuts == sorted(cuts, reverse=True)
    # of calibrated probabilities the best cut is known: call it where cost x chance > 1 - chance
    assert cuts[2] == pytest.approx(1 / 6, abs=0.06)


def test_equal_scores_are_never_cut_apart():
    scores = np.array([[0.5, 0.5]] * 4 + [[0.9, 0.1]] * 2)
    found = metrics.threshold(scores, np.array([1, 0, 1, 0, 0, 0]), "youden")
    assert found.recall == 1 and found.false_alarms == 0.5 and 0.1 < found.threshold <= 0.5


@pytest.mark.parametrize("by", ["f2", 0, -1])
def test_a_threshold_is_refused_where_it_means_nothing(by):
    scores, truth = binary(50)
    with pytest.raises(ValueError, match="cost above 0"):
        metrics.threshold(scores, truth, by)
    with pytest.raises(ValueError, match="two classes"):
        metrics.threshold(scores, np.zeros(50, np.int64))


def test_the_interval_over_folds_is_wider_than_folds_would_say():
    values = [0.78, 0.80, 0.76, 0.79, 0.77]
    mean, low, high = metrics.interval(values, test_share=0.2)
    plain = 2.776 * np.std(values, ddof=1) / np.sqrt(5)  # Student's t, four degrees of freedom
    assert mean == pytest.approx(0.78) and mean - low == pytest.approx(high - mean)
    assert (high - mean) == pytest.approx(plain * 1.5, rel=1e-3)  # sqrt(1/5 + 1/4) against sqrt(1/5)
    with pytest.raises(ValueError, match="two values"):
        metrics.interval([1.0], 0.2)
