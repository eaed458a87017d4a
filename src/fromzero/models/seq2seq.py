"""An encoder-decoder under the one-input contract of a step."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class SameInput(nn.Module):
    """Feeds the same tokens to encoder and decoder: the shapes of a translation of equal length."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Any:
        return self.model(input_ids=tokens, decoder_input_ids=tokens)
