"""Unequal classes: draw the rare ones more often, or let their mistakes weigh more. One of the two, not both."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

EFFECTIVE_BETA = 0.999  # Cui et al. 2019 try 0.9 to 0.9999: at 1,000 samples a further one says little that is new


def drawn(rows: np.ndarray, labels: np.ndarray, how: str, seed: int, epoch: int) -> np.ndarray:
    """The rows of an epoch, as many as `rows`, whose class numbers are `labels`. "natural": all of them, once.
    "balanced": as many of each class; "sqrt": by the square root of its size (Mahajan et al. 2018). A class is gone
    through in a random order, again and again, before any of its rows comes once more. Sorted as `rows`; a function of
    (seed, epoch)."""
    if how == "natural" or not len(rows):
        return rows
    random = np.random.default_rng((seed, epoch, 0x5A3))
    classes, counts = np.unique(labels, return_counts=True)
    wanted = _shares(counts, how, len(rows), random)
    places = []
    for number, count, many in zip(classes, counts, wanted, strict=True):
        mine = np.flatnonzero(labels == number)
        rounds = -(-int(many) // int(count))
        places.append(np.concatenate([mine[random.permutation(count)] for _ in range(rounds)] or [mine[:0]])[:many])
    return rows[np.sort(np.concatenate(places))]


def class_weights(counts: Sequence[int] | np.ndarray, how: str) -> np.ndarray | None:
    """The weight of each class in the loss, float32 (classes,), from its number of training samples; the mean over
    the samples is 1. None for "none". "balanced": one over the class's size, as scikit-learn does; "effective": one
    over its effective number of samples (1 - beta^n) / (1 - beta) (Cui et al. 2019), which stops rising in large
    classes."""
    if how == "none":
        return None
    sizes = np.maximum(np.asarray(counts, dtype=np.float64), 1)
    weights = _WEIGHTS[how](sizes)
    return (weights * sizes.sum() / (weights * sizes).sum()).astype(np.float32)


_WEIGHTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "balanced": lambda sizes: 1 / sizes,
    "effective": lambda sizes: (1 - EFFECTIVE_BETA) / (1 - EFFECTIVE_BETA**sizes),
}


def _shares(counts: np.ndarray, how: str, total: int, random: np.random.Generator) -> np.ndarray:
    """How many rows of each class, `total` in all; whom the remainder falls to is drawn."""
    shares = np.sqrt(counts) if how == "sqrt" else np.ones(len(counts))
    exact = shares / shares.sum() * total
    whole = np.floor(exact).astype(np.int64)
    left = total - int(whole.sum())
    extra = random.choice(len(counts), left, replace=False, p=None)
    whole[extra] += 1
    return whole
