"""The project's own recurrent network: a text classifier small enough for two CPU cores, right at any length."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fromzero.models.transformer import PADDING, VOCABULARY, masked_mean

CELLS: dict[str, Any] = {"lstm": nn.LSTM, "gru": nn.GRU, "plain": nn.RNN}


class Rnn(nn.Module):
    """Tokens (N, length) -> logits (N, classes): reads the text in both directions and averages what it remembers at
    each token that is not padding. About 1.3 million parameters with LSTM cells, most of them the embedding."""

    def __init__(self, classes: int, cell: str = "lstm", vocabulary: int = VOCABULARY, width: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PADDING)
        self.dropout = nn.Dropout(0.1)
        self.cells = CELLS[cell](width, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, classes)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, tokens: Tensor) -> Tensor:
        remembered, _ = self.cells(self.dropout(self.embedding(tokens)))
        return self.head(masked_mean(remembered, tokens != PADDING))
