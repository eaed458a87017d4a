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
_SIGNS = (
    "out of memory",
    "Out of Memory",
    "can't allocate memory",
    "not enough memory",
    "unable to mmap memory",
    "std::bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


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


def reason(error: BaseException) -> str:
    """What an error says, in a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


class Begun:
    """Counts the steps that an optimizer begins: what failed before can be made again. The weights alone do not tell:
    an optimizer moves its moments first, and a first step may leave it with half a state."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.count = 0
        optimizer.register_step_pre_hook(self)

    def __call__(self, *_: Any) -> None:
        self.count += 1


def reset(scaler: Any, device: torch.device) -> None:
    """Let a scaler of gradients forget that it has unscaled those of a step that is made again."""
    if scaler is not None:
        scaler.scale(torch.zeros((), device=device))  # a scaler that has seen no loss has nothing to forget
        scaler.update(scaler.get_scale())
