"""Word vectors by co-occurrence: what stands in the same places comes to lie together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fromzero.errors import UsageError
from fromzero.models.rnn import Rnn
from fromzero.models.vectors import fill, word_vectors

GOOD, FINE, BAD, FILM, BOOK, UNSEEN = 1, 2, 3, 4, 5, 6


def texts():
    """GOOD and FINE stand in the same company, BAD in another."""
    rng = np.random.default_rng(0)
    company = {GOOD: range(10, 20), FINE: range(10, 20), BAD: range(20, 30)}
    for _ in range(600):
        word = int(rng.choice([GOOD, FINE, BAD]))
        beside = rng.choice(list(company[word]), 4)
        yield np.array([FILM, *beside[:2], word, *beside[2:], BOOK])


def cosine(one, other):
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_words_of_the_same_company_lie_together():
    found = word_vectors(list(texts()), 32, 8)
    assert found.shape == (32, 8) and np.isfinite(found).all()
    assert cosine(found[GOOD], found[FINE]) > 0.9 > 0.5 > cosine(found[GOOD], found[BAD])
    assert not found[UNSEEN].any()


def test_few_words_and_no_words_have_vectors_too():
    assert word_vectors([np.array([1, 2, 1])], 3, 8).shape == (3, 8)
    assert not word_vectors([np.array([1])], 3, 8).any()


def test_an_embedding_keeps_its_scale_its_padding_and_what_was_not_seen():
    torch.manual_seed(0)
    model = Rnn(2, vocabulary=32, width=8)
    before = model.embedding.weight.detach().clone()
    fill(model, list(texts()))
    after = model.embedding.weight.detach()
    assert torch.equal(after[UNSEEN], before[UNSEEN]) and not after[0].any()
    assert not torch.equal(after[GOOD], before[GOOD])
    assert float(after.std()) == pytest.approx(float(before.std()), rel=0.2)


def test_a_model_without_tokens_is_refused():
    with pytest.raises(UsageError) as caught:
        fill(nn.Linear(2, 2), [np.array([1, 2])])
    assert caught.value.code == "init_without_tokens"
