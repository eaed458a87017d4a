"""What every task that tells classes apart has in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fromzero import metrics
from fromzero.data.manifest import Manifest
from fromzero.records import Recipe
from fromzero.terminal import Console


def loss_for(recipe: Recipe, weights: Tensor | None = None) -> Callable[[Any, Tensor], Tensor]:
    """Cross entropy in fp32, whatever the precision of the model, of logits (N, classes) - the outputs, or their
    `logits` - and classes (N,), or shares of the classes (N, classes). `weights` (classes,) weigh the classes."""

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        logits = getattr(outputs, "logits", outputs).float()
        return functional.cross_entropy(logits, targets, weights, label_smoothing=recipe.label_smoothing)

    return loss


def answers(outputs: Any, targets: Tensor | None = None) -> Tensor:
    """Probabilities (N, classes), float32."""
    return torch.softmax(getattr(outputs, "logits", outputs).float(), dim=-1)


def measures(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """What is measured of probabilities (N, classes) against classes (N,): see `metrics.measures`."""
    return metrics.measures(found, truth)


def count(manifest: Manifest, how: Any, console: Console | None = None) -> int:
    """A sample a training row."""
    return len(manifest.rows("train"))


def usual(manifest: Manifest, how: Any) -> dict[str, Any]:
    """Nothing is varied where nobody knows what may be."""
    return {"augmentation": "none"}


def loading(manifest: Manifest, how: Any, augmentation: str) -> int | None:
    """What is kept as arrays costs nothing to load."""
    return None
