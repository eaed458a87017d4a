"""Models that are called otherwise, under the one-input contract of a step."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class _Called(nn.Module):
    """A model under another way of calling it; what adapters ask of it is still the model's answer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.config = getattr(model, "config", None)

    def get_output_embeddings(self) -> nn.Module | None:
        """The layer that gives the logits of tokens, if there is one."""
        return self.model.get_output_embeddings() if hasattr(self.model, "get_output_embeddings") else None


class SameInput(_Called):
    """Feeds the same tokens to encoder and decoder: the shapes of a translation of equal length."""

    def forward(self, tokens: Tensor) -> Any:
        return self.model(input_ids=tokens, decoder_input_ids=tokens)


class Logits(_Called):
    """Pictures in, logits (N, classes) out, where the model gives a record of outputs."""

    def forward(self, pictures: Tensor) -> Tensor:
        return self.model(pictures).logits


class Pooled(_Called):
    """An encoder of pictures, features (N, tokens, width) or (N, width, rows, columns), with a linear classifier."""

    def __init__(self, model: nn.Module, width: int, classes: int) -> None:
        super().__init__(model)
        self.head = nn.Linear(width, classes)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, pictures: Tensor) -> Tensor:
        features = self.model(pictures)
        return self.head(features.mean((2, 3)) if features.dim() == 4 else features.mean(1))


class Spread(_Called):
    """One input that holds all: a tuple is the positional arguments, a dict the named ones."""

    def forward(self, inputs: Any) -> Any:
        return self.model(**inputs) if isinstance(inputs, dict) else self.model(*inputs)
