"""From the blocks of a step to what the card must hold: allocator, library workspaces, context, usable memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from fromzero.planner.allocator import Usage, replay
from fromzero.planner.trace import Trace
from fromzero.records import Card, Memory, Verdict

MIB = 1 << 20
PARTS = ("weights", "gradients", "optimizer", "activations", "workspace", "fragmentation", "context")

# cuBLAS keeps one workspace a handle inside the allocator: c10's CublasHandlePool.cpp, by compute capability.
CUBLAS_WORKSPACE = 8_519_680
CUBLAS_WORKSPACE_FROM_9 = 32 * MIB

# The CUDA context outside the allocator, (low, expected, high): issue reports for CUDA 11.7 and later, which load
# kernels lazily. 256 MiB: RTX 3090, torch 2.7.1+cu128; 426 MiB: RTX 6000 Ada, torch 2.10+cu130.
CONTEXT = (200 * MIB, 350 * MIB, 600 * MIB)

# What oneDNN's kernels and the threads' buffers add from the first step on: 32 to 48 MiB seen on one machine.
CPU_WORKSPACE = 40 * MIB


def memory(trace: Trace, card: Card, cpu_base: int = 0) -> Memory:
    """The peak memory of a traced step on `card`. `cpu_base` is what the process holds before the step, for a CPU.

    The interval is uncalibrated: low leaves out fragmentation and takes the smallest known context, high adds the
    step's largest convolution workspace once more and the largest known context."""
    if card.is_cpu:
        return _cpu_memory(trace, cpu_base)
    usage = _replayed(trace, card, capacity=None)
    parts = _live_parts(trace)
    parts["workspace"] += _cublas(card)
    parts["fragmentation"] = usage.reserved - sum(parts.values())
    parts["context"] = CONTEXT[1]
    return Memory(
        allocated_peak=usage.allocated,
        reserved_peak=usage.reserved,
        process_peak=usage.reserved + CONTEXT[1],
        low=usage.allocated + CONTEXT[0],
        high=usage.reserved + _largest_workspace(trace) + CONTEXT[2],
        parts={name: parts[name] for name in PARTS},
    )


def verdict(trace: Trace, card: Card, predicted: Memory) -> Verdict:
    """Decided by replaying the step against what the card can give, since the allocator gives unused segments back
    before it fails, and cuDNN takes a slower algorithm where its workspace cannot be had. "does_not_fit": not even
    without workspaces; "tight": it may run, but not if the upper bound comes true."""
    if card.is_cpu:
        if predicted.process_peak > card.usable_bytes:
            return "does_not_fit"
        return "fits" if predicted.high <= card.usable_bytes else "tight"
    if not _replayed(trace, card, capacity=card.usable_bytes - CONTEXT[1], workspaces=False).fits:
        return "does_not_fit"
    worst = card.usable_bytes - CONTEXT[2] - _largest_workspace(trace)
    return "fits" if _replayed(trace, card, capacity=worst).fits else "tight"


def _cpu_memory(trace: Trace, base: int) -> Memory:
    parts = _live_parts(trace)
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


def _live_parts(trace: Trace) -> dict[str, int]:
    """What is alive at the moment of the peak, by part."""
    live: dict[int, int] = {}
    total = peak = 0
    at_peak: dict[int, int] = {}
    rising = False
    for event in trace.events:
        if event.sign > 0:
            live[event.block] = event.size
            total += event.size
            rising = True
        else:
            if rising and total > peak:  # a local top: the only moments worth a copy
                peak, at_peak = total, dict(live)
            rising = False
            total -= live.pop(event.block)
    if total > peak:
        at_peak = live
    counts = Counter(dict.fromkeys(PARTS, 0))
    for block, size in at_peak.items():
        counts[trace.parts[block]] += size
    return dict(counts)


def _replayed(trace: Trace, card: Card, capacity: int | None, workspaces: bool = True) -> Usage:
    return replay(_requests(trace, _cublas(card), workspaces), capacity)


def _requests(trace: Trace, cublas: int, workspaces: bool) -> Iterator[tuple[int, int, int]]:
    yield (+1, -1, cublas)
    for event in trace.events:
        if workspaces or trace.parts[event.block] != "workspace":
            yield (event.sign, event.block, event.size)


def _cublas(card: Card) -> int:
    return CUBLAS_WORKSPACE_FROM_9 if float(card.compute_capability) >= 9.0 else CUBLAS_WORKSPACE


def _largest_workspace(trace: Trace) -> int:
    """The largest block a library's kernel takes: the least certain figure of a convolutional step."""
    return max((event.size for event in trace.events if trace.parts[event.block] == "workspace"), default=0)
