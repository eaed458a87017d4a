"""PyTorch's caching allocator for CUDA, simulated: what the card must hold for a given order of takes and gives.

Rules of c10/cuda/CUDACachingAllocator.cpp; the sizes below are the same from PyTorch 2.0 to 2.14. Sizes round up to 512
bytes; blocks up to 1 MiB come from 2 MiB segments, larger ones from 20 MiB segments, from 10 MiB on from segments of
their own rounded up to 2 MiB; best fit within a pool; a block is split when the rest is worth keeping; neighbours merge
when freed; when the card is full, every cached segment without a live block is given back and the request is tried
once more. (Giving back oversize blocks first needs `max_split_size_mb`, which is not set by default.)
With `expandable_segments:True` (PyTorch 2.1 and later) each pool is one range that grows by pages of 2 or 20 MiB.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass

MIB = 1 << 20
ROUNDING = 512
SMALL_LIMIT = 1 * MIB
SMALL_SEGMENT = 2 * MIB
LARGE_SEGMENT = 20 * MIB
OWN_SEGMENT_FROM = 10 * MIB
OWN_SEGMENT_ROUNDING = 2 * MIB

# A free block is listed as size * _SPAN + position: one integer that sorts by size, then by position.
_SPAN = 1 << 56
# The pools' ranges start far apart, and segments leave a gap, so that blocks of different segments never touch.
_LARGE_BASE = LARGE_SEGMENT << 30
_GAP = ROUNDING


@dataclass(frozen=True)
class Usage:
    """`allocated` and `reserved` are peaks in bytes. `fits` is False when a request failed even after unused segments
    were given back."""

    allocated: int
    reserved: int
    fits: bool


def replay(requests: Iterable[tuple[int, int, int]], capacity: int | None = None, expandable: bool = False) -> Usage:
    """Feed (sign, block, size) requests in order to an allocator that may reserve `capacity` bytes (None: no limit).

    One long function on purpose: a step has up to 100,000 requests, and a plan replays them several times."""
    small, large = _Pool(0, SMALL_SEGMENT), _Pool(_LARGE_BASE, LARGE_SEGMENT)
    limit = capacity if capacity is not None else _SPAN
    held: dict[int, tuple[int, int, _Pool]] = {}  # block -> position, size, pool
    allocated = reserved = peak_allocated = peak_reserved = 0
    for sign, block, size in requests:
        if sign > 0:
            size = (size + ROUNDING - 1) // ROUNDING * ROUNDING or ROUNDING
            pool = small if size <= SMALL_LIMIT else large
            free = pool.free
            place = bisect_left(free, size * _SPAN)
            if place < len(free):
                found = free.pop(place)
                position, length = found % _SPAN, found // _SPAN
                del pool.starts[position], pool.ends[position + length]
            else:
                grown = pool.grow(size, limit - reserved, expandable)
                if grown is None:
                    reserved -= small.release(expandable) + large.release(expandable)
                    grown = pool.grow(size, limit - reserved, expandable)
                    if grown is None:
                        return Usage(peak_allocated, peak_reserved, fits=False)
                position, length, more = grown
                reserved += more
                if reserved > peak_reserved:
                    peak_reserved = reserved
            rest = length - size
            if rest > SMALL_LIMIT or (rest and (expandable or pool is small)):
                start = position + size
                pool.starts[start] = rest
                pool.ends[position + length] = rest
                insort(free, rest * _SPAN + start)
                length = size
            held[block] = position, length, pool
            allocated += length
            if allocated > peak_allocated:
                peak_allocated = allocated
        else:
            position, length, pool = held.pop(block)
            allocated -= length
            free, starts, ends = pool.free, pool.starts, pool.ends
            before = ends.pop(position, 0)
            if before:
                position -= before
                length += before
                del starts[position], free[bisect_left(free, before * _SPAN + position)]
            after = starts.pop(position + length, 0)
            if after:
                del free[bisect_left(free, after * _SPAN + position + length)]
                length += after
            starts[position] = ends[position + length] = length
            insort(free, length * _SPAN + position)
    return Usage(peak_allocated, peak_reserved, fits=True)


class _Pool:
    """The segments of one kind: free blocks by size, by start and by end, and where segments begin."""

    __slots__ = ("ends", "free", "next_position", "segment", "segments", "starts")

    def __init__(self, position: int, segment: int) -> None:
        self.segment, self.next_position = segment, position
        self.free: list[int] = []
        self.starts: dict[int, int] = {}  # start -> length
        self.ends: dict[int, int] = {}  # end -> length
        self.segments: dict[int, int] = {}  # start -> length

    def grow(self, size: int, room: int, expandable: bool) -> tuple[int, int, int] | None:
        """(position, length, bytes newly reserved) of a block that can hold `size`, or None if `room` is too small."""
        if expandable:
            return self._expand(size, room)
        length = self.segment
        if length == LARGE_SEGMENT and size >= OWN_SEGMENT_FROM:
            length = -(-size // OWN_SEGMENT_ROUNDING) * OWN_SEGMENT_ROUNDING
        if length > room:
            return None
        position = self.next_position
        self.next_position += length + _GAP
        self.segments[position] = length
        return position, length, length

    def _expand(self, size: int, room: int) -> tuple[int, int, int] | None:
        end = self.next_position
        tail = self.ends.get(end, 0)  # a free block at the end of the range is grown, not left behind
        more = -(-(size - tail) // self.segment) * self.segment
        if more > room:
            return None
        if tail:
            self._unlist(end - tail, tail)
        self.next_position += more
        return end - tail, tail + more, more

    def release(self, expandable: bool) -> int:
        """Give back what holds no live block; returns the bytes."""
        freed = 0
        for position, length in list(self.starts.items()):
            if expandable:
                first = -(-position // self.segment) * self.segment  # whole pages inside a free block are unmapped
                pages = (position + length) // self.segment * self.segment - first
                if pages > 0:
                    self._unlist(position, length)
                    freed += pages
                    for start, end in ((position, first), (first + pages, position + length)):
                        if end > start:
                            self._list(start, end - start)
                    if first + pages == self.next_position:
                        self.next_position = first
            elif self.segments.get(position) == length:
                self._unlist(position, length)
                del self.segments[position]
                freed += length
        return freed

    def _list(self, position: int, length: int) -> None:
        self.starts[position] = self.ends[position + length] = length
        insort(self.free, length * _SPAN + position)

    def _unlist(self, position: int, length: int) -> None:
        del self.starts[position], self.ends[position + length]
        del self.free[bisect_left(self.free, length * _SPAN + position)]
