"""Models that are called otherwise, under the one-input contract of a step."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fromzero.models.transformer import masked_mean


class Called(nn.Module):
    """A model under another way of calling it; what adapters ask of it is still the model's answer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.config = getattr(model, "config", None)

    def get_output_embeddings(self) -> nn.Module | None:
        """The layer that gives the logits of tokens, if there is one."""
        return self.model.get_output_embeddings() if hasattr(self.model, "get_output_embeddings") else None


class SameInput(Called):
    """Feeds the same tokens to encoder and decoder: the shapes of a translation of equal length."""

    def forward(self, tokens: Tensor) -> Any:
        return self.model(input_ids=tokens, decoder_input_ids=tokens)


class Logits(Called):
    """Pictures in, logits (N, classes) out, where the model gives a record of outputs."""

    def forward(self, pictures: Tensor) -> Tensor:
        return self.model(pictures).logits


class Masked(Called):
    """Tokens in, logits (N, classes) out of a classifier's own head: what is `padding` is not seen."""

    def __init__(self, model: nn.Module, padding: int) -> None:
        super().__init__(model)
        self.padding = padding

    def get_classifier(self) -> tuple[nn.Module, ...]:
        """All that transformers puts behind the encoder, and that starts anew with it."""
        base = getattr(self.model, "base_model_prefix", "")
        behind = [each for name, each in self.model.named_children() if name != base]
        return tuple(each for each in behind if any(True for _ in each.parameters()))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens, attention_mask=_mask(self.model, tokens != self.padding)).logits


class Averaged(Called):
    """An encoder of texts with a linear classifier behind the mean, or the first, of its states: what the models of
    sentence-transformers were trained for. What is `padding` is neither seen nor averaged; None: there is none."""

    def __init__(self, model: nn.Module, width: int, classes: int, padding: int | None, pooling: str = "mean") -> None:
        super().__init__(model)
        self.padding, self.pooling = padding, pooling
        self.head = nn.Linear(width, classes)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, tokens: Tensor) -> Tensor:
        seen = None if self.padding is None else tokens != self.padding
        mask = None if seen is None else _mask(self.model, seen)
        states = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state
        if self.pooling == "cls":
            return self.head(states[:, 0])
        return self.head(states.mean(1) if seen is None else masked_mean(states, seen))


class Pooled(Called):
    """An encoder of pictures, features (N, tokens, width) or (N, width, rows, columns), with a linear classifier."""

    def __init__(self, model: nn.Module, width: int, classes: int) -> None:
        super().__init__(model)
        self.head = nn.Linear(width, classes)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, pictures: Tensor) -> Tensor:
        features = self.model(pictures)
        return self.head(features.mean((2, 3)) if features.dim() == 4 else features.mean(1))


class Spread(Called):
    """One input that holds all: a tuple is the positional arguments, a dict the named ones."""

    def forward(self, inputs: Any) -> Any:
        return self.model(**inputs) if isinstance(inputs, dict) else self.model(*inputs)


def _mask(model: nn.Module, seen: Tensor) -> Tensor:
    """The tokens that are seen, (N, length), as transformers takes them. Of tensors without numbers in the form it
    would bring them into where PyTorch's own attention is used: it looks whether there is any padding first."""
    if seen.is_meta and getattr(model, "_supports_sdpa", False):
        return seen[:, None, None, :].expand(-1, 1, seen.size(1), -1).contiguous()
    return seen.long()
