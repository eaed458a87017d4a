"""A recipe's model: built, started, filled with trained weights where there are some, changed as the recipe says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fromzero.models.adapt import adapt
from fromzero.models.adapters import quantise
from fromzero.models.build import built
from fromzero.models.initialise import initialise
from fromzero.records import Recipe, Workload


def fresh(workload: Workload, recipe: Recipe, fill: Callable[[Any], object] | None = None) -> Any:
    """The module on the CPU; the same for the same seed. `fill` puts trained weights into it, before anything of it is
    changed."""
    torch.manual_seed(recipe.seed)
    model = built(workload)
    initialise(model, recipe)
    if fill is not None:
        fill(model)
    adapt(model, recipe)
    if recipe.base_quantisation != "none":
        quantise(model, recipe)
    return model
