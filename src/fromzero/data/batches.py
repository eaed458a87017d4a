"""From samples to batches.

Everything random is a function of (seed, epoch, row): the order, and how a sample is varied. So workers carry no state,
and a run that stops in the middle of an epoch continues with the very next sample. Workers are threads: decoding,
resizing and reading let go of the interpreter, nothing is copied between processes, and the manifest is there once
(benchmarks/data.py compares with the processes of other loaders).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fromzero.machine.process import usable_cores

if TYPE_CHECKING:  # who prepares one sample for an artifact needs no torch
    import torch

AHEAD = 1  # batches that wait, beside those that are being made
MOST_WORKERS = 8
AGAIN = 1 << 20  # how far the number of the epoch is moved for a row that comes once more in it: past any real one

Item = tuple[int, int]  # (row, epoch)
Batch = tuple["torch.Tensor", "torch.Tensor"]


class Samples(Protocol):
    """What the loop learns from: rows that it asks for by number, a batch at a time."""

    seed: int
    changed: set[int]  # rows that were not what the scan saw

    @property
    def workers(self) -> int:
        """Threads that are worth having; 0 where a batch costs less than handing it over."""
        ...

    def rows(self, split: str) -> np.ndarray:
        """The rows of a split."""
        ...

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """Their classes; empty where there are none."""
        ...

    def order(self, rows: np.ndarray, epoch: int) -> np.ndarray:
        """The rows in the order of an epoch."""
        ...

    def batch(self, items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of some rows, stacked."""
        ...

    def name(self, row: int) -> str:
        """What a person calls a row."""
        ...


def shuffled(rows: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The usual order of an epoch."""
    return rows[np.random.default_rng((seed, epoch)).permutation(len(rows))]


def training_batches(
    samples: Samples,
    rows: np.ndarray,
    batch: int,
    epoch: int,
    first: int,
    workers: int | None = None,
    pin: bool = False,
    part: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Full batches of an epoch from batch number `first` on. `workers` None: as many as the samples want. `part` is
    (this process, processes): each takes its own rows of every `batch` x processes that follow each other. A row that
    was drawn more than once comes with another epoch each time, so that it is varied in another way."""
    mine, processes = part
    order = samples.order(rows, epoch)
    epochs = epoch + AGAIN * times_before(order)
    count = steps_per_epoch(len(rows), batch * processes)
    starts = [(number * processes + mine) * batch for number in range(first, count)]
    items = [list(zip(order[at : at + batch].tolist(), epochs[at : at + batch].tolist(), strict=True)) for at in starts]
    return _load(samples, items, workers, pin)


def times_before(order: np.ndarray) -> np.ndarray:
    """How often each entry stood before: 0 1 0 2 for 7 7 5 7."""
    by_row = np.argsort(order, kind="stable")
    _, first, counts = np.unique(order[by_row], return_index=True, return_counts=True)
    found = np.empty(len(order), dtype=np.int64)
    found[by_row] = np.arange(len(order)) - np.repeat(first, counts)
    return found


def ordered_batches(samples: Samples, rows: np.ndarray, batch: int, workers: int | None = None) -> Iterator[Batch]:
    """All of `rows` once, in their order."""
    parts = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    return _load(samples, [[(int(row), 0) for row in each] for each in parts], workers, pin=False)


def steps_per_epoch(samples: int, batch: int) -> int:
    """Full batches only, so that every step costs the same; a set smaller than a batch is one step."""
    return max(1, samples // batch)


def loader_threads() -> int:
    """One a core, at most MOST_WORKERS."""
    return min(MOST_WORKERS, usable_cores())


def _load(samples: Samples, batches: Sequence[list[Item]], workers: int | None, pin: bool) -> Iterator[Batch]:
    """The batches in their order; `workers` threads make the next ones meanwhile."""
    workers = samples.workers if workers is None else workers
    if not workers:
        yield from (_made(samples, each, pin) for each in batches)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="loader")
    ahead: deque[Future[Batch]] = deque()
    try:
        for items in batches:
            ahead.append(pool.submit(_made, samples, items, pin))
            if len(ahead) > workers + AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:  # also when the epoch is left in the middle
        pool.shutdown(wait=False, cancel_futures=True)


def _made(samples: Samples, items: list[Item], pin: bool) -> Any:
    import torch

    batch = [torch.from_numpy(each) for each in samples.batch(items)]
    return tuple(each.pin_memory() if pin else each for each in batch)
