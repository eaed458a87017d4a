"""The networks for tables: shapes, what is hidden and when, padding, and that they learn."""

import pytest
import torch

from fromzero.models.build import build, task_of
from fromzero.models.tabular import FAR, HIDDEN, Hide, drawn_in

NAMES = ("mlp", "ft-transformer", "table-rnn", "table-gru")
SEQUENTIAL = NAMES[2:]


@pytest.fixture(autouse=True)
def _seed():
    """The networks are so small that a second thread only waits."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rows(count, numbers, categories, window=0):
    """Random rows, or sequences of 1 to `window` rows."""
    shape = (count, window) if window else (count,)
    words = [torch.randint(0, size + 1, (*shape, 1)).float() for size in categories]
    made = torch.cat([torch.randn(*shape, numbers), *words], -1)
    if window:
        made[..., numbers - 1] = 1
        made[torch.arange(window).expand(shape) > torch.randint(0, window, (count, 1))] = 0
    return made


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("numbers", "categories"), [(5, ()), (3, (4, 2)), (0, (7,))])
def test_rows_of_numbers_and_words_give_logits(name, numbers, categories, recwarn):
    model = build(name, 3, numbers, 0, categories=categories)
    assert task_of(name) == "table"
    assert model(rows(6, numbers, categories)).shape == (6, 3)
    assert [each for each in recwarn if "zero-element" in str(each.message)] == []
    sum(model(rows(6, numbers, categories)).flatten()).backward()
    assert all(each.grad is not None for each in model.parameters())


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_what_fills_a_sequence_up_changes_nothing(name):
    model = build(name, 2, 4, 6, categories=(3,)).eval()
    short = rows(5, 4, (3,), window=3)
    filled = torch.nn.functional.pad(short, (0, 0, 0, 3))
    torch.testing.assert_close(model(short), model(filled))
    older = filled.clone()
    older[:, 0, 0] += 1
    assert not torch.allclose(model(older), model(filled))  # what came before counts


def test_every_word_of_every_column_has_its_own_vector():
    model = build("mlp", 2, 0, 0, categories=(2, 3)).eval()
    every = torch.cartesian_prod(torch.arange(3.0), torch.arange(4.0))
    assert len({tuple(each.tolist()) for each in model(every)}) == 12
    assert model.first.words.table.num_embeddings == 3 + 4


def test_columns_are_hidden_while_learning_only():
    hide, x = Hide(), torch.ones(1000, 10)
    assert hide.eval()(x) is x
    hidden = hide.train()(x)
    assert set(hidden.flatten().tolist()) == {0.0, 1.0}
    assert (hidden == 0).float().mean().item() == pytest.approx(HIDDEN, abs=0.02)


def test_a_wild_number_is_drawn_in():
    assert drawn_in(torch.tensor([0.1])).item() == pytest.approx(0.1, abs=1e-3)
    assert drawn_in(torch.tensor([1e30, -1e30])).tolist() == [FAR, -FAR]


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_from_numbers_and_words(name):
    given = rows(128, 3, (4,))
    targets = ((given[:, 0] > 0) ^ (given[:, 3] == 2)).long()
    model = build(name, 2, 3, 0, categories=(4,)).train()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(given), targets).backward()
        optimizer.step()
    assert (model.eval()(given).argmax(1) == targets).float().mean().item() > 0.85


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_it_learns_what_only_the_history_tells(name):
    given = rows(128, 3, (), window=4)
    first = given[:, 0, 0]
    targets = (first > 0).long()
    model = build(name, 2, 3, 4).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(given), targets).backward()
        optimizer.step()
    assert (model.eval()(given).argmax(1) == targets).float().mean().item() > 0.85
