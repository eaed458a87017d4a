"""Mixed batches: pictures and targets in the same share, all of it from the generator."""

import numpy as np
import pytest

from fromzero.data.mix import mixed
from fromzero.errors import UnknownName
from fromzero.records import MIXES


def batch(count=8, side=16, channels=3):
    """Picture n is of the one level 30 n, so that a mixture tells its parts."""
    levels = np.arange(count, dtype=np.uint8) * 30
    return np.broadcast_to(levels[:, None, None, None], (count, side, side, channels)).copy(), np.arange(count)


@pytest.mark.parametrize("kind", MIXES)
def test_shape_type_and_sum(kind):
    images, labels = batch()
    for seed in range(50):
        made, targets = mixed(images, labels, 8, np.random.default_rng(seed), kind)
        assert made.shape == images.shape and made.dtype == np.uint8
        assert targets.shape == (8, 8) and targets.dtype == np.float32
        assert (targets >= 0).all() and np.allclose(targets.sum(axis=1), 1)


@pytest.mark.parametrize("kind", MIXES[1:])
def test_the_targets_are_the_shares_of_the_pictures(kind):
    images, labels = batch()
    for seed in range(50):
        made, targets = mixed(images, labels, 8, np.random.default_rng(seed), kind)
        expected = targets @ (np.arange(8) * 30.0)
        assert np.abs(made.reshape(8, -1).mean(axis=1) - expected).max() <= 0.51


def test_cutmix_cuts_a_rectangle_and_mixup_does_not():
    images, labels = batch()
    for seed in range(20):
        made, _ = mixed(images, labels, 8, np.random.default_rng(seed), "cutmix")
        assert set(np.unique(made)) <= set(range(0, 240, 30))
        made, _ = mixed(images, labels, 8, np.random.default_rng(seed), "mixup")
        assert all(len(np.unique(each)) == 1 for each in made)


@pytest.mark.parametrize("kind", MIXES)
def test_the_generator_decides_and_the_batch_stays(kind):
    images, labels = batch()
    before = images.copy()
    one = mixed(images, labels, 8, np.random.default_rng(3), kind)
    two = mixed(images, labels, 8, np.random.default_rng(3), kind)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert np.array_equal(images, before)
    if kind != "none":
        assert not np.array_equal(one[0], mixed(images, labels, 8, np.random.default_rng(4), kind)[0])


@pytest.mark.parametrize("kind", MIXES)
def test_one_picture_alone_stays(kind):
    images, labels = batch(1)
    made, targets = mixed(images, labels, 3, np.random.default_rng(0), kind)
    assert np.array_equal(made, images) and targets.tolist() == [[1, 0, 0]]


def test_both_of_one_class_stay_of_one_class():
    images, _ = batch()
    _, targets = mixed(images, np.full(8, 2), 4, np.random.default_rng(0), "mixup")
    assert np.allclose(targets, np.eye(4)[[2] * 8])


def test_an_unknown_kind():
    images, labels = batch()
    with pytest.raises(UnknownName, match="mixup"):
        mixed(images, labels, 8, np.random.default_rng(0), "mixip")
