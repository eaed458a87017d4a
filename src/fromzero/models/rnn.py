"""The project's own recurrent network: a text classifier small enough for two CPU cores, right at any length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fromzero.models.transformer import DROPOUT, PADDING, VOCABULARY, masked_mean
from fromzero.models.wide import Wide

CELLS: dict[str, Any] = {"lstm": nn.LSTM, "gru": nn.GRU, "plain": nn.RNN}


class Rnn(nn.Module):
    """Tokens (N, length) -> logits (N, classes): reads the text in both directions, each from its own first word, and
    takes the mean and the maximum of what it remembers at each token that is not padding. About 1.3 million parameters
    with LSTM cells, most of them the embedding. `wide`: with a linear classifier of pairs of words beside it."""

    def __init__(
        self, classes: int, cell: str = "lstm", vocabulary: int = VOCABULARY, width: int = 128, wide: bool = False
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PADDING)
        self.dropout = nn.Dropout(DROPOUT)
        self.forth, self.back = (CELLS[cell](width, width, batch_first=True) for _ in range(2))
        self.head = nn.Linear(4 * width, classes)
        self.wide = Wide(classes, PADDING) if wide else None

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, tokens: Tensor) -> Tensor:
        seen = tokens != PADDING
        turned = _turned(seen)
        x = self.dropout(self.embedding(tokens))
        forth, back = self.forth(x)[0], self.back(_taken(x, turned))[0]
        remembered = torch.cat([forth, _taken(back, turned)], -1)
        # What cells remember lies between -1 and 1: padding is never the strongest.
        strongest = remembered.masked_fill(~seen[..., None], -1).max(1).values
        logits = self.head(self.dropout(torch.cat([masked_mean(remembered, seen), strongest], -1)))
        return logits if self.wide is None else logits + self.wide(tokens)


def _turned(seen: Tensor) -> Tensor:
    """The places (N, length) of each text's words from the last to the first, padding where it was: what is read
    backwards must not begin with the padding, or a text would mean something else in another batch."""
    length = seen.sum(1, keepdim=True)
    place = torch.arange(seen.size(1), device=seen.device)
    return torch.where(place < length, length - 1 - place, place)


def _taken(x: Tensor, places: Tensor) -> Tensor:
    """`x` (N, length, width) in the order of `places` (N, length)."""
    return x.gather(1, places[..., None].expand(-1, -1, x.size(-1)))
