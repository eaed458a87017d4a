"""How the learning rate, and with one-cycle the momentum, change over a run: pure functions of the step, so that a
resumed run needs no state.

rate = recipe.lr x warm-up x the schedule's factor; all but one-cycle warm up over the recipe's share of the steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from fromzero.records import Recipe

STEP_AT, STEP_FACTOR = (0.5, 0.75), 0.1  # of the run; He et al. 2016 on CIFAR
PLATEAU_PATIENCE, PLATEAU_FACTOR = 2, 0.5  # epochs without a better validation loss, and what follows
PLATEAU_LEAST = 1e-3  # share of the loss that counts as better
ONE_CYCLE_RISE, ONE_CYCLE_START = 0.3, 1 / 25  # share of the run, of the highest rate; Smith & Topin 2018
ONE_CYCLE_MOMENTA = (0.85, 0.95)  # at the highest rate and at the lowest; Smith 2018


def learning_rate(recipe: Recipe, step: int, steps: int, history: Sequence[Mapping[str, float]] = ()) -> float:
    """The learning rate of optimizer step `step` of `steps`. `history` is a row an epoch with "val_loss", of the epochs
    that are over: what the plateau schedule goes by."""
    assert recipe.lr is not None
    if recipe.schedule == "one-cycle":
        return recipe.lr * _one_cycle(step / steps)
    warmup = max(1, round(recipe.warmup * steps))
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    if recipe.schedule == "plateau":
        return recipe.lr * PLATEAU_FACTOR ** plateaus([row["val_loss"] for row in history])
    if recipe.schedule == "step":  # by the whole run, not by what the warm-up leaves
        return recipe.lr * _steps(step / steps)
    return recipe.lr * _SHAPES[recipe.schedule]((step - warmup) / max(1, steps - warmup))


def momentum(recipe: Recipe, step: int, steps: int) -> float | None:
    """The momentum (Adam's first beta) of a step; None where it stays as it is. One-cycle lowers it while the rate is
    high, which takes the place of a small rate's caution."""
    if recipe.schedule != "one-cycle":
        return None
    least, most = ONE_CYCLE_MOMENTA
    done = step / steps
    if done < ONE_CYCLE_RISE:
        return least + (most - least) * _cosine(done / ONE_CYCLE_RISE)
    return most - (most - least) * _cosine((done - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE))


def plateaus(losses: Sequence[float]) -> int:
    """How often a validation loss stood still: each time it was not better for more than PLATEAU_PATIENCE epochs."""
    best, waited, found = math.inf, 0, 0
    for loss in losses:
        if loss < best * (1 - PLATEAU_LEAST) or best == math.inf:
            best, waited = loss, 0
            continue
        waited += 1
        if waited > PLATEAU_PATIENCE:
            waited, found = 0, found + 1
    return found


def _cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


def _steps(done: float) -> float:
    return STEP_FACTOR ** sum(done >= each for each in STEP_AT)


def _one_cycle(done: float) -> float:
    """Up and down by half a cosine each."""
    if done < ONE_CYCLE_RISE:
        return 1 - (1 - ONE_CYCLE_START) * _cosine(done / ONE_CYCLE_RISE)
    return _cosine((done - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE))


_SHAPES: dict[str, Callable[[float], float]] = {  # of the share of the run after the warm-up
    "cosine": _cosine,
    "linear": lambda done: 1 - done,
    "constant": lambda done: 1.0,
}
