"""A head fitted alone is the logistic regression of the features."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from fromzero.errors import UsageError
from fromzero.models.build import build
from fromzero.models.probe import fit_head, only_head


def test_it_is_the_logistic_regression_that_scikit_learn_finds():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 90)
    features = rng.normal(size=(90, 8)).astype(np.float32) + np.eye(8, dtype=np.float32)[truth]
    head = nn.Linear(8, 3)
    given, targets = torch.from_numpy(features), torch.from_numpy(truth)
    before, after = fit_head(head, given, targets, nn.functional.cross_entropy)
    assert after < before and head.weight.grad is None
    reference = LogisticRegression(tol=1e-8, max_iter=1000).fit(features, truth).predict_proba(features)
    with torch.no_grad():
        assert head(given).softmax(1).numpy() == pytest.approx(reference, abs=2e-3)


def test_classes_that_the_training_part_lacks_stay_possible():
    head = nn.Linear(4, 5)
    torch.manual_seed(0)
    features = torch.randn(12, 4)
    fit_head(head, features, torch.arange(12) % 2, nn.functional.cross_entropy)
    chances = head(features).softmax(1)
    assert chances.min() > 0 and chances.argmax(1).max() < 2


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "torchvision:squeezenet1_1"])
def test_two_heads_and_a_head_that_reads_maps_are_refused(name):
    with pytest.raises(UsageError) as caught:
        only_head(build(name, 5, 3, 224))
    assert caught.value.code == "probe_one_head"
