"""The project's own networks for tables: a perceptron, a transformer over columns, and recurrent networks over columns
or over the rows of an entity.

All take float32 (N, numbers + columns of words), words as their places, see records.Columns; the recurrent ones also
sequences of those. All are small: a table of a thousand rows needs restraint more than size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

FAR = 3.0  # standard deviations that a number is drawn in to: one wild value must not outshout the others
HIDDEN = 0.2  # share of the columns that a row hides while the network learns
CELLS: dict[str, Any] = {"lstm": nn.LSTM, "gru": nn.GRU}


class Mlp(nn.Module):
    """Rows (N, values) -> logits (N, classes). A column of words adds a learnt vector to the first layer (a linear
    layer over its words one-hot); numbers go in as they are."""

    def __init__(
        self, classes: int, numbers: int, categories: Sequence[int] = (), width: int = 256, dropout: float = 0.3
    ) -> None:
        super().__init__()
        self.hide = Hide()
        self.first = First(numbers, categories, width)
        self.blocks = nn.ModuleList([Layer(width, dropout)])
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, rows: Tensor) -> Tensor:
        x = self.first(self.hide(rows))
        for block in self.blocks:
            x = block(x)
        return self.head(self.dropout(functional.relu(self.norm(x))))


class FtTransformer(nn.Module):
    """Rows (N, values) -> logits (N, classes): a token a column, and one more that gathers what the classifier reads
    (Gorishniy et al. 2021)."""

    def __init__(
        self,
        classes: int,
        numbers: int,
        categories: Sequence[int] = (),
        width: int = 64,
        layers: int = 2,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.hide = Hide()
        self.tokens = Tokens(numbers, categories, width)
        self.gathering = nn.Parameter(torch.empty(1, 1, width).uniform_(-1, 1) / math.sqrt(width))
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, rows: Tensor) -> Tensor:
        x = self.tokens(self.hide(rows))
        x = torch.cat([self.gathering.expand(x.shape[0], -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(functional.relu(self.norm(x[:, 0])))


class TableRnn(nn.Module):
    """Rows (N, values) -> logits (N, classes), read column by column in both directions. With a `window`, sequences
    (N, window, values), whose last number says which rows are there: read row by row from the oldest, classified by
    what is remembered at the newest, so that rows filled up change nothing."""

    def __init__(
        self,
        classes: int,
        numbers: int,
        categories: Sequence[int] = (),
        window: int = 0,
        cell: str = "lstm",
        width: int = 64,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.numbers, self.window = numbers, window
        both = not window
        self.hide = Hide()
        self.tokens = First(numbers, categories, width) if window else Tokens(numbers, categories, width)
        self.dropout = nn.Dropout(dropout)
        self.cells = CELLS[cell](width, width, batch_first=True, bidirectional=both)
        self.head = nn.Linear(width * (1 + both), classes)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, rows: Tensor) -> Tensor:
        remembered, _ = self.cells(self.dropout(self.tokens(self.hide(rows))))
        if not self.window:
            return self.head(self.dropout(remembered.mean(1)))
        newest = (rows[..., self.numbers - 1].sum(1).long() - 1).clamp(min=0)
        chosen = remembered.gather(1, newest[:, None, None].expand(-1, 1, remembered.shape[2]))
        return self.head(self.dropout(chosen[:, 0]))


class Hide(nn.Module):
    """While the network learns, each value of a row is hidden with a chance of HIDDEN: a number becomes its mean and a
    word one not seen. So no column is relied on alone, and a missing value is nothing new."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows * torch.empty_like(rows).bernoulli_(1 - HIDDEN) if self.training else rows


class First(nn.Module):
    """Rows (..., values) -> (..., width): a linear layer over the numbers and over the words one-hot."""

    def __init__(self, numbers: int, categories: Sequence[int], width: int) -> None:
        super().__init__()
        self.numbers = numbers
        spread = 1 / math.sqrt(numbers + len(categories))
        self.linear = nn.Linear(numbers, width) if numbers else None
        self.words = Words(categories, width, spread) if categories else None

    def forward(self, rows: Tensor) -> Tensor:
        parts = []
        if self.linear is not None:
            parts.append(self.linear(drawn_in(rows[..., : self.numbers])))
        if self.words is not None:
            parts.append(self.words(rows[..., self.numbers :]).sum(-2))
        return sum(parts[1:], parts[0])


class Tokens(nn.Module):
    """Rows (N, values) -> tokens (N, columns, width): a number times its column's vector, or a word's vector, and in
    both cases the column's own added."""

    def __init__(self, numbers: int, categories: Sequence[int], width: int) -> None:
        super().__init__()
        self.numbers = numbers
        spread = 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(numbers, width).uniform_(-spread, spread))
        self.bias = nn.Parameter(torch.empty(numbers + len(categories), width).uniform_(-spread, spread))
        self.words = Words(categories, width, spread) if categories else None

    def forward(self, rows: Tensor) -> Tensor:
        x = drawn_in(rows[:, : self.numbers, None]) * self.weight
        if self.words is not None:
            x = torch.cat([x, self.words(rows[:, self.numbers :])], 1)
        return x + self.bias


class Words(nn.Module):
    """Places of words (..., columns) -> their vectors (..., columns, width), all in one table. Place 0 of a column is
    a word not seen."""

    def __init__(self, categories: Sequence[int], width: int, spread: float) -> None:
        super().__init__()
        sizes = [each + 1 for each in categories]
        self.table = nn.Embedding(sum(sizes), width)
        nn.init.uniform_(self.table.weight, -spread, spread)
        starts = [sum(sizes[:place]) for place in range(len(sizes))]
        self.register_buffer("starts", torch.tensor(starts), persistent=False)

    def forward(self, places: Tensor) -> Tensor:
        return self.table(places.long() + self.starts)


class Layer(nn.Module):
    """A residual layer: normed, bent, dropped out, and added to its input."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.dropout(functional.relu(self.norm(x))))


class Block(nn.Module):
    """Attention and a gated layer (ReGLU), each normed before and added to its input."""

    def __init__(self, width: int, dropout: float, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.gated, self.down = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        x = x + self.drop(self.proj(seen.transpose(1, 2).flatten(2)))
        up, gate = self.gated(self.norm2(x)).chunk(2, -1)
        return x + self.drop(self.down(up * functional.relu(gate)))


def drawn_in(x: Tensor) -> Tensor:
    """Numbers in standard deviations, bent so that none is further out than FAR."""
    return FAR * torch.tanh(x / FAR)
