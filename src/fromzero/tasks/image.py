"""Image classification."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from fromzero.records import Recipe, Workload


def example(workload: Workload, batch: int, device: str) -> tuple[Tensor, Tensor]:
    """Pictures (batch, channels, height, width) and their classes (batch,)."""
    inputs = torch.empty((batch, *workload.input_shape), device=device)
    return inputs, torch.zeros(batch, dtype=torch.long, device=device)


def loss_for(recipe: Recipe) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross entropy on logits (N, classes) and class numbers (N,), in fp32 whatever the precision of the model."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs.float(), targets, label_smoothing=recipe.label_smoothing)

    return loss
