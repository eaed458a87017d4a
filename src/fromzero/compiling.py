"""Whether torch.compile helps here: forward and backward of the run's own first batches, as they are and compiled."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromzero.models.adapt import train_mode
from fromzero.step import Batch

ROUNDS = 3  # over all batches, in turn; the fastest counts, since other work only ever slows one down
GAIN = 0.02  # share of the time that must be saved: less than that is the noise of such a measurement


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """Seconds of forward and backward, as they are and compiled, and what compiling took; `kept` is whether the run
    goes on with it. `reason` says why it could not be compiled at all."""

    eager: float = 0.0
    compiled: float = 0.0
    took: float = 0.0
    kept: bool = False
    reason: str = ""


def try_compiled(
    engine: Any, model: torch.nn.Module, loss_of: Callable[[Any, Tensor], Tensor], batches: Sequence[Batch]
) -> tuple[Any, Compiled]:
    """The compiled model, sharing its weights with `model`, and what was measured. Leaves weights, statistics, modes
    and the random state as they were. What a batch of another length costs anew is part of what is measured where the
    batches differ in length."""
    compiled: Any = torch.compile(model)
    buffers = {name: each.clone() for name, each in model.named_buffers()}
    modes = [(each, each.training) for each in model.modules()]
    train_mode(model)

    def passed(network: Any) -> float:
        started = time.perf_counter()
        for inputs, targets in batches:
            with engine.autocast():
                loss = loss_of(network(inputs), targets)
            loss.backward()
            model.zero_grad(set_to_none=True)
        if engine.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / len(batches)

    try:
        with torch.random.fork_rng():
            started = time.perf_counter()
            passed(compiled)
            took = time.perf_counter() - started
            passed(model)
            times = [(passed(model), passed(compiled)) for _ in range(ROUNDS)]
    except Exception as error:  # no compiler, no room to try, a model that its tracer refuses: there are many ways
        return model, Compiled(reason=(str(error).strip() or type(error).__name__).splitlines()[0][:300])
    finally:
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, each in model.named_buffers():
                each.copy_(buffers[name])
        for module, mode in modes:
            module.training = mode
    eager, faster = (min(each) for each in zip(*times, strict=True))
    kept = faster < (1 - GAIN) * eager
    return compiled if kept else model, Compiled(eager=eager, compiled=faster, took=took, kept=kept)
