"""Language modelling: predict each next token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fromzero.records import Recipe, Workload


def example(workload: Workload, batch: int, device: str) -> tuple[Tensor, Tensor]:
    """Tokens (batch, length), and the same tokens as targets."""
    tokens = torch.zeros((batch, *workload.input_shape), dtype=torch.long, device=device)
    return tokens, tokens


def loss_for(recipe: Recipe) -> Callable[[Any, Tensor], Tensor]:
    """Cross entropy of the logits (N, length, vocabulary), which are the outputs or their `logits`, in fp32; targets
    are shifted by one, as transformers does."""

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        logits = getattr(outputs, "logits", outputs).float()
        shifted = functional.pad(targets, (0, 1), value=-100)[..., 1:].contiguous()
        return functional.cross_entropy(
            logits.view(-1, logits.size(-1)), shifted.view(-1), label_smoothing=recipe.label_smoothing
        )

    return loss
