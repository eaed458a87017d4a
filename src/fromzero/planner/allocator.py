"""PyTorch's caching allocator for CUDA, simulated: what the card must hold for a given order of takes and gives.

Rules of c10/cuda/CUDACachingAllocator.cpp (PyTorch 2.6 to 2.14, default settings): sizes round up to 512 bytes; blocks
up to 1 MiB come from 2 MiB segments, larger ones from 20 MiB segments, from 10 MiB on from segments of their own
rounded up to 2 MiB; best fit within a pool; a block is split when the rest is worth keeping; neighbours merge when
freed; when the card is full, unused segments are given back and the request is tried once more.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass

MIB = 1 << 20
ROUNDING = 512
SMALL_LIMIT = 1 * MIB
SMALL_SEGMENT = 2 * MIB
LARGE_SEGMENT = 20 * MIB
OWN_SEGMENT_FROM = 10 * MIB
OWN_SEGMENT_ROUNDING = 2 * MIB


@dataclass(frozen=True)
class Usage:
    """`allocated` and `reserved` are peaks in bytes. `fits` is False when a request failed even after unused segments
    were given back."""

    allocated: int
    reserved: int
    fits: bool


def replay(requests: Iterable[tuple[int, int, int]], capacity: int | None = None) -> Usage:
    """Feed (sign, block, size) requests in order to an allocator that may reserve `capacity` bytes (None: no limit)."""
    allocator = _Allocator(capacity)
    for sign, block, size in requests:
        if sign > 0:
            if not allocator.take(block, size):
                return allocator.usage(fits=False)
        else:
            allocator.give_back(block)
    return allocator.usage(fits=True)


class _Block:
    __slots__ = ("after", "before", "free", "position", "size", "small")

    def __init__(self, position: int, size: int, small: bool) -> None:
        self.position, self.size, self.small = position, size, small
        self.free = False
        self.before: _Block | None = None
        self.after: _Block | None = None


class _Allocator:
    def __init__(self, capacity: int | None) -> None:
        self._capacity = capacity
        self._free: dict[bool, list[tuple[int, int, _Block]]] = {True: [], False: []}  # small? -> sorted free blocks
        self._held: dict[int, _Block] = {}
        self._reserved = self._allocated = 0
        self._peak_reserved = self._peak_allocated = 0
        self._next_position = 0

    def usage(self, fits: bool) -> Usage:
        return Usage(self._peak_allocated, self._peak_reserved, fits)

    def take(self, block: int, size: int) -> bool:
        size = max(ROUNDING, -(-size // ROUNDING) * ROUNDING)
        small = size <= SMALL_LIMIT
        found = self._best_fit(size, small) or self._new_segment(size, small)
        if found is None:
            return False
        rest = found.size - size
        if rest >= ROUNDING if small else rest > SMALL_LIMIT:
            self._split(found, size)
        self._held[block] = found
        self._allocated += found.size
        self._peak_allocated = max(self._peak_allocated, self._allocated)
        self._peak_reserved = max(self._peak_reserved, self._reserved)
        return True

    def give_back(self, block: int) -> None:
        freed = self._held.pop(block)
        self._allocated -= freed.size
        for neighbour in (freed.before, freed.after):
            if neighbour is not None and neighbour.free:
                self._unlist(neighbour)
                freed = self._merge(freed, neighbour)
        self._list(freed)

    def _best_fit(self, size: int, small: bool) -> _Block | None:
        pool = self._free[small]
        place = bisect.bisect_left(pool, (size, -1))
        if place == len(pool):
            return None
        block = pool.pop(place)[2]
        block.free = False
        return block

    def _new_segment(self, size: int, small: bool) -> _Block | None:
        if small:
            segment = SMALL_SEGMENT
        elif size < OWN_SEGMENT_FROM:
            segment = LARGE_SEGMENT
        else:
            segment = -(-size // OWN_SEGMENT_ROUNDING) * OWN_SEGMENT_ROUNDING
        if self._capacity is not None and self._reserved + segment > self._capacity:
            self._release_unused()
            if self._reserved + segment > self._capacity:
                return None
        self._reserved += segment
        block = _Block(self._next_position, segment, small)
        self._next_position += segment
        return block

    def _release_unused(self) -> None:
        for pool in self._free.values():
            whole = [each for each in pool if each[2].before is None and each[2].after is None]
            self._reserved -= sum(size for size, _, _ in whole)
            pool[:] = [each for each in pool if each not in whole]

    def _split(self, block: _Block, size: int) -> None:
        rest = _Block(block.position + size, block.size - size, block.small)
        rest.before, rest.after = block, block.after
        if block.after is not None:
            block.after.before = rest
        block.after, block.size = rest, size
        self._list(rest)

    def _merge(self, one: _Block, other: _Block) -> _Block:
        first, second = (one, other) if one.position < other.position else (other, one)
        first.size += second.size
        first.after = second.after
        if second.after is not None:
            second.after.before = first
        return first

    def _list(self, block: _Block) -> None:
        block.free = True
        bisect.insort(self._free[block.small], (block.size, block.position, block))

    def _unlist(self, block: _Block) -> None:
        pool = self._free[block.small]
        pool.pop(bisect.bisect_left(pool, (block.size, block.position)))
        block.free = False
