"""What to do when memory runs out in the middle of a run: the same step again, in less memory.

Each rung keeps the effective batch: first the activations of blocks are computed twice instead of kept, then the
micro-batch is divided by its divisors, down to single samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fromzero.models.layers import blocks
from fromzero.records import Recipe

# What an allocation that fails says, on a card and on a CPU.
_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


@dataclass(frozen=True)
class Rung:
    """Whether blocks are checkpointed beyond what the recipe says, and into how many parts a micro-batch goes."""

    checkpointing: bool = False
    parts: int = 1


def rungs(model: nn.Module, recipe: Recipe) -> tuple[Rung, ...]:
    """The ladder of a run, from the recipe as it is to single samples."""
    assert recipe.batch is not None
    spare = recipe.checkpointing == "none" and bool(blocks(model))
    divisors = [each for each in range(2, recipe.batch + 1) if recipe.batch % each == 0]
    return (Rung(), *([Rung(True)] if spare else []), *(Rung(spare, each) for each in divisors))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(each in str(error) for each in _SIGNS)


def divided(batches: Sequence[tuple[Tensor, Tensor]], parts: int) -> list[Any]:
    """Each micro-batch as `parts` equal ones."""
    if parts == 1:
        return list(batches)
    cut = [(inputs.chunk(parts), targets.chunk(parts)) for inputs, targets in batches]
    return [pair for inputs, targets in cut for pair in zip(inputs, targets, strict=True)]


def changes(model: nn.Module) -> int:
    """Counts what was written into the weights: a step that failed before it changed them can be made again."""
    return sum(each._version for each in model.parameters())
