"""Changed labels are found, right ones are left alone, and where nothing can be known nothing is said."""

import numpy as np
import pytest

from fromzero.data import suspects


def clouds(count=600, classes=4, width=12, seed=0):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, count)
    centres = draw.normal(0, 3, (classes, width))
    return (centres[labels] + draw.normal(0, 1, (count, width))).astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("sparse", [False, True])
def test_changed_labels(classes, sparse):
    features, labels = clouds(classes=classes)
    changed = np.arange(0, 600, 30)
    given = labels.copy()
    given[changed] = (given[changed] + 1) % classes
    if sparse:
        from scipy.sparse import csr_matrix

        features = csr_matrix(features)
    found = suspects.find(features, given, 0)
    rows = [row for row, _, _ in found]
    assert len(set(rows) & set(changed)) >= 0.8 * len(changed)
    assert len(set(rows) - set(changed)) <= 0.2 * len(rows)
    assert all(labels[row] == suggested for row, suggested, _ in found if row in set(changed))
    scores = [score for *_, score in found]
    assert scores == sorted(scores, reverse=True) and all(0 <= each <= 1 for each in scores)


def test_right_labels_are_left_alone():
    features, labels = clouds()
    assert len(suspects.find(features, labels, 0)) <= 3


def test_nothing_is_said_where_features_tell_nothing():
    draw = np.random.default_rng(0)
    assert suspects.find(draw.normal(size=(400, 8)), draw.integers(0, 3, 400), 0) == []


def test_too_little_to_judge():
    features, labels = clouds(12)
    assert suspects.find(features, labels, 0) == []
    assert suspects.find(features[:0], labels[:0], 0) == []
    assert suspects.find(features, np.zeros(12, int), 0) == []
    assert suspects.find(np.ones((200, 3)), np.arange(200) % 2, 0) == []
    assert suspects.find(np.zeros((200, 0)), np.arange(200) % 2, 0) == []


def test_samples_without_label_and_rare_classes_are_not_judged():
    features, labels = clouds()
    labels[:50] = -1
    labels[50:55] = 7
    assert not {row for row, _, _ in suspects.find(features, labels, 0)} & set(range(55))


def test_a_copy_does_not_vouch_for_a_wrong_label():
    features, labels = clouds()
    labels[:2] = (labels[0] + 1) % 4
    features[1] = features[0]
    groups = np.full(600, -1)
    groups[:2] = 0
    assert {0, 1} <= {row for row, _, _ in suspects.find(features, labels, 0, groups=groups)}


def test_the_same_twice_and_features_of_any_scale():
    features, labels = clouds()
    labels[:600:30] = (labels[:600:30] + 1) % 4
    one = suspects.find(features, labels, 3)
    assert one == suspects.find(features, labels, 3)
    scaled = features * np.float32(1e4) + 7
    assert {row for row, *_ in one} == {row for row, *_ in suspects.find(scaled, labels, 3)}
