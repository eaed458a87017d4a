"""Where the memory goes: the moment of the peak, what is alive then by part and by module, and the course of a step."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass

from fromzero.planner.trace import Moment, Trace

PARTS = ("weights", "gradients", "optimizer", "activations", "workspace")


@dataclass(frozen=True, eq=False)
class Peak:
    """The moment at which most bytes are alive, and the blocks alive then: {block: bytes}."""

    moment: Moment
    step: int
    alive: dict[int, int]


@functools.lru_cache(maxsize=32)
def peak(trace: Trace) -> Peak:
    """The first moment of the highest live memory."""
    total = highest = 0
    at = -1
    for number, event in enumerate(trace.events):
        total += event.sign * event.size
        if total > highest:
            highest, at = total, number
    alive: dict[int, int] = {}
    for event in trace.events[: at + 1]:
        if event.sign > 0:
            alive[event.block] = event.size
        else:
            del alive[event.block]
    index = trace.events[at].moment if trace.events else 0
    step = sum(1 for begin in trace.steps if begin <= index)
    moment = trace.moments[index] if index < len(trace.moments) else Moment("", "", "")
    return Peak(moment, step, alive)


@functools.lru_cache(maxsize=32)
def by_part(trace: Trace, found: Peak) -> dict[str, int]:
    """Bytes alive at the peak by what they are for."""
    counts = Counter(dict.fromkeys(PARTS, 0))
    for block, size in found.alive.items():
        counts[trace.parts[block]] += size
    return dict(counts)


@functools.lru_cache(maxsize=32)
def by_module(trace: Trace, found: Peak, most: int = 10) -> dict[str, int]:
    """The modules that hold most at the peak, largest first: weights and their state count to the module they belong
    to, the rest to the module that made it. Inside a repeated block everything counts to the block; "" is what no
    module made: inputs, loss, optimizer."""
    made_in = {each.block: each.moment for each in trace.events if each.sign > 0}
    counts: Counter[str] = Counter()
    for block, size in found.alive.items():
        path = trace.places.get(block)
        if path is None and made_in[block] < len(trace.moments):
            path = trace.moments[made_in[block]].module
        counts[unit_of(trace, path or "")] += size
    return dict(counts.most_common(most))


def unit_of(trace: Trace, path: str) -> str:
    """The repeated block that `path` lies in, or the path itself."""
    return next((unit for unit in trace.units if path == unit or path.startswith(unit + ".")), path)


@dataclass(frozen=True)
class Course:
    """Live bytes over the last traced step: `bytes[part][i]` at the highest moment of operator `i`, and the marks
    (operator, phase) and (operator, block of the network) where a new phase or block begins."""

    bytes: dict[str, list[int]]
    phases: list[tuple[int, str]]
    blocks: list[tuple[int, str]]


def course(trace: Trace) -> Course:
    """The last step, operator by operator."""
    begin = trace.steps[-1]
    length = len(trace.moments) - begin
    levels: dict[str, list[int]] = {part: [0] * length for part in PARTS}
    now = dict.fromkeys(PARTS, 0)
    highest, seen = 0, -1

    def note(at: int) -> None:
        for part, level in now.items():
            levels[part][at] = level

    for event in trace.events:
        part, at = trace.parts[event.block], event.moment - begin
        for quiet in range(seen + 1, at + 1):  # operators that took nothing and gave nothing back, and this one
            note(quiet)
            highest, seen = sum(now.values()), quiet
        now[part] += event.sign * event.size
        if at >= 0 and sum(now.values()) > highest:
            highest = sum(now.values())
            note(at)
    for quiet in range(seen + 1, length):
        note(quiet)
    phases: list[tuple[int, str]] = []
    blocks: list[tuple[int, str]] = []
    for number, moment in enumerate(trace.moments[begin:]):
        if not phases or phases[-1][1] != moment.phase:
            phases.append((number, moment.phase))
        unit = unit_of(trace, moment.module)
        if unit in trace.units and (not blocks or blocks[-1][1] != unit):
            blocks.append((number, unit))
    return Course(levels, phases, blocks)
