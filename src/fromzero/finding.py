"""Which learning rate to start with: a short run on a model that is thrown away, whose rate rises until the loss
explodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromzero.models.adapt import train_mode
from fromzero.records import Recipe
from fromzero.step import Batch, make_optimizer, set_rates, training_step

STEPS = 100
LOWEST, HIGHEST = 1e-7, 10.0
SMOOTHING = 0.9  # share of the past in the running mean of the loss
EXPLODED = 4.0  # times the best loss so far: what follows tells nothing
SETTLING = 10  # steps before the running mean is worth reading


@dataclass(frozen=True, kw_only=True)
class Found:
    """A rate to train with, and what it was read from: the rates tried, the loss at each and its running mean;
    `steepest` is where the mean fell fastest, `lowest` where it was least. `lr` is None where the loss never fell."""

    lr: float | None
    steepest: float | None
    lowest: float | None
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]


def find_lr(
    engine: Any,
    model: torch.nn.Module,
    loss_of: Callable[[Any, Tensor], Tensor],
    recipe: Recipe,
    batches: Iterator[Sequence[Batch]],
    steps: int = STEPS,
) -> Found:
    """The learning-rate range test (Smith 2017): up to `steps` steps with rates that rise from LOWEST to HIGHEST by the
    same factor; it ends early where the loss explodes. `batches` gives what one step takes, in turn. The model and the
    engine's loss scaler are spoilt by it: hand in what is not needed afterwards."""
    optimizer = engine.prepare_optimizer(make_optimizer(model, recipe))
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    mean = 0.0
    train_mode(model)
    with torch.random.fork_rng():
        for number, parts in zip(range(steps), batches, strict=False):
            rate = LOWEST * (HIGHEST / LOWEST) ** (number / max(1, steps - 1))
            set_rates(optimizer, rate)
            torch.manual_seed(recipe.seed + number)
            loss = float(training_step(engine, model, loss_of, optimizer, parts, recipe))
            if not math.isfinite(loss):
                break
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            rates.append(rate)
            losses.append(loss)
            smoothed.append(mean / (1 - SMOOTHING ** (number + 1)))
            if number > SETTLING and smoothed[-1] > EXPLODED * min(smoothed):
                break
    return read_curve(rates, losses, smoothed)


def read_curve(rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float]) -> Found:
    """What a curve says: a tenth of the rate of the lowest loss, where the loss still fell on its way there."""
    curve = {"rates": tuple(rates), "losses": tuple(losses), "smoothed": tuple(smoothed)}
    least = min(range(len(smoothed)), key=smoothed.__getitem__, default=0)
    if least <= SETTLING or smoothed[least] > 0.98 * smoothed[SETTLING]:
        return Found(lr=None, steepest=None, lowest=None, **curve)
    # rates rise by the same factor, so that the difference over two steps is the slope by their logarithm
    falls = {n: smoothed[n + 1] - smoothed[n - 1] for n in range(SETTLING, least)}
    return Found(lr=rates[least] / 10, steepest=rates[min(falls, key=falls.__getitem__)], lowest=rates[least], **curve)
