"""The inverse question: the largest batch that fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace

from fromzero.planner.trace import Event, Trace
from fromzero.records import Verdict

# The ladder people climb by hand, and the one that published largest batches were measured on.
LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


def largest_batch(judge: Callable[[int], Verdict], limit: int = LADDER[-1]) -> int:
    """The largest rung of the ladder up to `limit` that `judge` calls "fits"; 0 if not even one sample does."""
    rungs = [each for each in LADDER if each <= limit]
    low, high = -1, len(rungs) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if judge(rungs[middle]) == "fits":
            low = middle
        else:
            high = middle - 1
    return rungs[low] if low >= 0 else 0


def between(one: Trace, other: Trace, batch: int) -> Trace | None:
    """The trace at `batch`, from traces at two other batches: sizes and costs grow linearly with the batch as long as
    the step takes the same operators in the same order. None if it does not; then trace again."""
    same = len(one.events) == len(other.events) and len(one.costs) == len(other.costs)
    if not same or any((a.sign, a.block) != (b.sign, b.block) for a, b in zip(one.events, other.events, strict=True)):
        return None
    share = (batch - one.batch) / (other.batch - one.batch)

    def at(a: float, b: float) -> float:
        return a + (b - a) * share

    events = tuple(
        Event(a.sign, a.block, round(at(a.size, b.size)), a.moment)
        for a, b in zip(one.events, other.events, strict=True)
    )
    costs = tuple(
        replace(
            a,
            flops=at(a.flops, b.flops),
            bytes=at(a.bytes, b.bytes),
            dims=tuple(at(here, there) for here, there in zip(a.dims, b.dims, strict=True)),
            launches=at(a.launches, b.launches),
        )
        for a, b in zip(one.costs, other.costs, strict=True)
    )
    return dataclasses.replace(one, events=events, costs=costs, batch=batch)
