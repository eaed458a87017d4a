"""The model as it is deployed: from what is loaded to probabilities, normalisation included.

Training, evaluation, export and serving share `Normalise`, so a model cannot meet other inputs than it learnt from.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fromzero.records import Preprocessing, Tokens


class Normalise(nn.Module):
    """uint8 (N, size, size, channels) -> float32 (N, channels, size, size), (pixel / 255 - mean) / std."""

    def __init__(self, how: Preprocessing) -> None:
        super().__init__()
        shape = (1, how.channels, 1, 1)
        self.register_buffer("scale", (1 / (255 * torch.tensor(how.std, dtype=torch.float64))).float().view(shape))
        shift = -torch.tensor(how.mean, dtype=torch.float64) / torch.tensor(how.std, dtype=torch.float64)
        self.register_buffer("shift", shift.float().view(shape))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        planes = pixels.permute(0, 3, 1, 2).contiguous()  # else one grey channel passes for channels-last
        return planes.to(self.scale.dtype) * self.scale + self.shift


class Deployed(nn.Module):
    """A batch as it is loaded -> probabilities (N, classes): the model behind its `entry`. With `language`, tokens
    (N, length) -> logits (N, length, vocabulary) of the token after each, as they are."""

    def __init__(self, model: nn.Module, entry: nn.Module, language: bool = False) -> None:
        super().__init__()
        self.normalise = entry
        self.model = model
        self.language = language

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        outputs = self.model(self.normalise(given))
        logits = getattr(outputs, "logits", outputs).float()
        return logits if self.language else torch.softmax(logits, dim=-1)


def example(how: Any, batch: int = 2) -> torch.Tensor:
    """A batch of the right shape, as `data.inputs.prepared` makes its samples: a graph is drawn by it."""
    if isinstance(how, Preprocessing):
        return torch.zeros((batch, how.size, how.size, how.channels), dtype=torch.uint8)
    if isinstance(how, Tokens):
        return torch.ones((batch, how.length), dtype=torch.int64)
    values = len(how.numbers) + len(how.flagged) + bool(how.window) + len(how.words)
    return torch.zeros((batch, how.window, values) if how.window else (batch, values))
