"""The project's own networks: shapes, padding, causality, and that they learn."""

from __future__ import annotations

import pytest
import torch

from fromzero.models.build import build, task_of
from fromzero.models.rnn import Rnn
from fromzero.models.transformer import PADDING, Gpt, Transformer, masked_mean
from fromzero.models.wide import Wide
from fromzero.planning import plan
from fromzero.records import Recipe
from fromzero.tasks import lm, text

CLASSIFIERS = ("rnn", "rnn-gru", "rnn-plain", "rnn-wide", "transformer")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_give_logits_at_any_length(name):
    model = build(name, 5, 0, 0).eval()
    assert task_of(name) == "text"
    for length in (1, 7, 33):
        assert model(torch.randint(1, 100, (3, length))).shape == (3, 5)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_text_of_nothing_but_padding_is_still_a_number(name):
    assert build(name, 3, 0, 0).eval()(torch.full((2, 6), PADDING)).isfinite().all()


def test_masked_mean_counts_only_what_is_there():
    x = torch.tensor([[[1.0], [3.0], [100.0]]])
    assert masked_mean(x, torch.tensor([[True, True, False]])).item() == 2.0


def test_gpt_sees_only_what_came_before():
    model = build("gpt", 0, 0, 0).eval()
    tokens = torch.randint(1, 100, (1, 12))
    changed = tokens.clone()
    changed[0, 8:] = 5
    before, after = model(tokens), model(changed)
    assert before.shape == (1, 12, model.embedding.num_embeddings)
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


def test_gpt_starts_unsure():
    tokens = torch.randint(1, 8192, (2, 32))
    loss = lm.loss_for(Recipe())(build("gpt", 0, 0, 0).eval()(tokens), tokens)
    assert loss.item() == pytest.approx(torch.tensor(8192.0).log().item(), abs=0.3)


@pytest.mark.parametrize("name", ["rnn", "transformer", "gpt"])
def test_it_learns_a_tiny_task(name):
    small = {"rnn": Rnn, "transformer": Transformer, "gpt": Gpt}[name]
    model = small(**({} if name == "gpt" else {"classes": 2}), vocabulary=20, width=32).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    tokens = torch.randint(3, 20, (32, 10))
    targets = torch.arange(32) % 2
    tokens[:, 4] = targets + 1  # one of two words tells
    if name == "gpt":
        tokens = torch.arange(3, 13).repeat(32, 1)
    targets, loss_of = (tokens, lm.loss_for(Recipe())) if name == "gpt" else (targets, text.loss_for(Recipe()))
    first = None
    for _ in range(30):
        loss = loss_of(model(tokens), targets)
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.8 * first


@pytest.mark.parametrize("name", ["rnn", "transformer", "gpt"])
def test_it_can_be_planned_for_a_card(name):
    made = plan(name, card="RTX 3060 12 GB", seq=256, batch=16, precision="amp-fp16")
    assert made.verdict == "fits"
    assert made.memory.process_peak > made.memory.allocated_peak > 0


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_text_means_the_same_in_every_batch(name):
    model = build(name, 3, 0, 0, vocabulary=120).eval()
    tokens = torch.randint(1, 100, (2, 9))
    padded = torch.nn.functional.pad(tokens, (0, 7), value=PADDING)
    torch.testing.assert_close(model(padded), model(tokens), atol=1e-5, rtol=1e-5)


def test_a_recurrent_network_reads_in_both_directions():
    model = build("rnn", 3, 0, 0).eval()
    tokens = torch.randint(1, 100, (1, 9))
    assert not torch.allclose(model(tokens), model(tokens.flip(1)), atol=1e-4)


def test_a_vocabulary_of_the_data_s_own():
    assert build("gpt", 0, 0, 0, vocabulary=50)(torch.zeros(1, 4, dtype=torch.long)).shape == (1, 4, 50)
    assert build("rnn", 2, 0, 0, vocabulary=50).embedding.num_embeddings == 50


def test_pairs_of_words_count_in_their_order_and_without_padding():
    wide = Wide(3, PADDING)
    tokens = torch.tensor([[5, 9, 7, 8]])
    assert (wide(tokens) == 0).all()
    torch.nn.init.normal_(wide.rows.weight)
    padded = torch.nn.functional.pad(tokens, (0, 6), value=PADDING)
    torch.testing.assert_close(wide(padded), wide(tokens))
    assert not torch.allclose(wide(tokens.flip(1)), wide(tokens))  # the same words, other pairs


def test_what_only_pairs_tell_is_learnt_beside_the_network():
    """Which of two words comes first."""
    wide = Wide(2, PADDING)
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 20, (1200, 12), generator=rng)
    answers = torch.randint(0, 2, (1200,), generator=rng)
    tokens[:, 4], tokens[:, 5] = 51 + answers, 52 - answers  # the same two words in one order or the other
    optimizer = torch.optim.Adam(wide.parameters(), lr=0.01)
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(wide(tokens[:1000]), answers[:1000])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (wide(tokens[1000:]).argmax(1) == answers[1000:]).float().mean() > 0.9
