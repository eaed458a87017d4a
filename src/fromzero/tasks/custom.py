"""A model of the user's own: its file says what goes in and what to minimise; pictures and their classes if it does
not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

from fromzero.models.families import file
from fromzero.records import Recipe, Workload


def example(workload: Workload, batch: int, device: str) -> tuple[Any, Any]:
    """What the file shows as inputs, or pictures (batch, channels, height, width); and (file, inputs) as targets,
    because the loss of a file is a function of outputs and inputs."""
    with torch.device(device):
        shown = file.example(workload.model, batch, workload.classes, *workload.input_shape[:2])
        inputs = torch.empty((batch, *workload.input_shape)) if shown is None else shown
    inputs = pytree.tree_map(lambda each: each.to(device) if isinstance(each, Tensor) else each, inputs)
    return inputs, (workload.model, inputs, shown is None)


def loss_for(recipe: Recipe, weights: Tensor | None = None) -> Callable[[Any, Any], Tensor]:
    """The file's `loss(outputs, inputs)`. Without one: the loss that the model itself returns, cross entropy for
    logits (N, classes) of pictures, else the mean of the first output of floating point."""

    def loss(outputs: Any, targets: Any) -> Tensor:
        name, inputs, pictures = targets
        own = file.loss(name)
        if own is not None:
            return own(outputs, inputs)
        given = outputs.get("loss") if isinstance(outputs, dict) else getattr(outputs, "loss", None)
        if isinstance(given, Tensor):
            return given
        first = next(each for each in _tensors(outputs) if each.is_floating_point())
        if pictures and first.dim() == 2:
            classes = torch.zeros(len(first), dtype=torch.long, device=first.device)
            return functional.cross_entropy(first.float(), classes, label_smoothing=recipe.label_smoothing)
        return first.float().mean()

    return loss


def _tensors(outputs: Any) -> list[Tensor]:
    """All tensors of nested outputs, in order; records and dataclasses by their fields."""
    found = []
    for each in pytree.tree_leaves(outputs):
        if isinstance(each, Tensor):
            found.append(each)
        elif hasattr(each, "__dict__"):
            found += _tensors(list(vars(each).values()))
    return found
