"""From the blocks of a step to what the card must hold: allocator, library workspaces, context, usable memory."""

from __future__ import annotations

import functools

from fromzero.facts.context import context
from fromzero.planner.allocator import Usage, replay
from fromzero.planner.breakdown import by_part, peak
from fromzero.planner.trace import Trace
from fromzero.records import Card, Memory, Stack, Verdict

MIB = 1 << 20
PARTS = ("weights", "gradients", "optimizer", "activations", "workspace", "fragmentation", "context")

# cuBLAS keeps one workspace a handle inside the allocator: c10's CublasHandlePool.cpp, by compute capability.
CUBLAS_WORKSPACE = 8_519_680
CUBLAS_WORKSPACE_FROM_9 = 32 * MIB

# Measured over predicted reserved memory: about 90 % of published rows lie between these, of all networks alike. Chosen
# on the rows of both sources; quantiles chosen with a family or a source left out cover 85 to 94 % of it.
LOW, HIGH = 0.87, 1.14
# "fits" must hold with this much less than the worst context leaves: largest batches on an RTX 3090.
RESERVE = 1.03

# What oneDNN's kernels and the threads' buffers add from the first step on: 32 to 48 MiB seen on one machine.
CPU_WORKSPACE = 40 * MIB


def memory(
    trace: Trace, card: Card, stack: Stack, *, cards: int = 1, cpu_base: int = 0, expandable: bool = False
) -> Memory:
    """The peak memory of a traced step on `card`, with an interval that holds nine measured peaks of ten. `cards` work
    together; `cpu_base` is what the process holds before the step, for a CPU; `expandable` stands for
    `expandable_segments:True`.

    Where the card is too small for the peak that the step would show on a larger one, but not for the step, the peak
    is what it will show here, after the allocator gave unused segments back."""
    if card.is_cpu:
        return _cpu_memory(trace, cpu_base)
    outside = context(card, stack, cards)
    unlimited = usage = _replayed(trace, _cublas(card), None, expandable)
    room = card.usable_bytes - outside.display - outside.expected
    if unlimited.reserved > room:
        pressed = _replayed(trace, _cublas(card), room, expandable)
        usage = pressed if pressed.fits else unlimited
    parts = dict(by_part(trace, peak(trace)))
    parts["workspace"] += _cublas(card)
    parts["fragmentation"] = usage.reserved - sum(parts.values())
    parts["context"] = outside.expected
    return Memory(
        allocated_peak=usage.allocated,
        reserved_peak=usage.reserved,
        process_peak=usage.reserved + outside.expected,
        low=round(LOW * usage.reserved) + outside.low,
        high=round(HIGH * unlimited.reserved) + outside.high,
        parts={name: parts[name] for name in PARTS},
    )


def verdict(
    trace: Trace, card: Card, predicted: Memory, stack: Stack, *, cards: int = 1, expandable: bool = False
) -> Verdict:
    """Decided by replaying the step against what the card can give, since the allocator gives unused segments back
    before it fails, and cuDNN takes a slower algorithm where its workspace cannot be had.

    "fits": the expected peak has room, and with the worst context the step still runs with some to spare. "tight": it
    may run, if caches are given back or the context is small. "does_not_fit": not even without workspaces."""
    if card.is_cpu:
        if predicted.process_peak > card.usable_bytes:
            return "does_not_fit"
        return "fits" if predicted.high <= card.usable_bytes else "tight"
    outside, cublas = context(card, stack, cards), _cublas(card)
    expected = card.usable_bytes - outside.display - outside.expected
    worst = int((card.usable_bytes - outside.display_high - outside.high) / RESERVE)
    peaks = _replayed(trace, cublas, None, expandable).reserved
    if peaks <= worst or (peaks <= expected and _replayed(trace, cublas, worst, expandable).fits):
        return "fits"
    if peaks <= expected or _replayed(trace, cublas, expected, expandable, workspaces=False).fits:
        return "tight"
    return "does_not_fit"


@functools.lru_cache(maxsize=64)  # cards of one generation ask the same
def _replayed(trace: Trace, cublas: int, room: int | None, expandable: bool, workspaces: bool = True) -> Usage:
    """The step through the allocator; cuBLAS's workspace, block -1, comes first and stays."""
    wanted = (each[:3] for each in trace.events if workspaces or trace.parts[each.block] != "workspace")
    return replay([(+1, -1, cublas), *wanted], room, expandable)


def _cpu_memory(trace: Trace, base: int) -> Memory:
    parts = dict(by_part(trace, peak(trace)))
    live = sum(parts.values())
    parts |= {"workspace": CPU_WORKSPACE, "fragmentation": 0, "context": base}
    return Memory(
        allocated_peak=live,
        reserved_peak=live + CPU_WORKSPACE,
        process_peak=base + live + CPU_WORKSPACE,
        low=base + live,
        high=base + live * 3 // 2 + 200 * MIB,  # oneDNN's reordered copies, heap fragmentation, loader queues
        parts={name: parts[name] for name in PARTS},
    )


def _cublas(card: Card) -> int:
    return CUBLAS_WORKSPACE_FROM_9 if float(card.compute_capability) >= 9.0 else CUBLAS_WORKSPACE
