"""A moving average of the weights beside the weights (EMA): steadier than the last step's, and what is then kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """The average that `update_parameters(model)` moves after each step: weights and the statistics of batch norms.
    Its `module` is a model like any other, its `state_dict()` all there is to keep.

    After n steps the decay is min(decay, (1 + n) / (10 + n)), so that a short run is not an average with the numbers it
    started from (Polyak averaging with warm-up, as TensorFlow's ExponentialMovingAverage)."""

    def move(kept: Any, current: Any, updates: Any) -> None:
        count = int(updates)
        _lerp(kept, current, 1 - min(decay, (1 + count) / (10 + count)))

    average = AveragedModel(model, multi_avg_fn=move, use_buffers=True)
    average.requires_grad_(False)
    return average


@torch.no_grad()
def _lerp(kept: list[Tensor], current: list[Tensor], share: float) -> None:
    """Move `kept` by `share` of the way to `current`; what is no number of floating point is copied."""
    if kept[0].is_floating_point():
        torch._foreach_lerp_(kept, current, share)
    else:
        torch._foreach_copy_(kept, current)
