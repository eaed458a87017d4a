"""Text classification with an encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fromzero.records import Recipe, Workload


def example(workload: Workload, batch: int, device: str) -> tuple[Tensor, Tensor]:
    """Tokens (batch, length) and their classes (batch,)."""
    tokens = torch.zeros((batch, *workload.input_shape), dtype=torch.long, device=device)
    return tokens, torch.zeros(batch, dtype=torch.long, device=device)


def loss_for(recipe: Recipe) -> Callable[[Any, Tensor], Tensor]:
    """Cross entropy on the logits (N, classes), which are the outputs or their `logits`, in fp32 whatever the precision
    of the model."""

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        logits = getattr(outputs, "logits", outputs).float()
        return functional.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)

    return loss
